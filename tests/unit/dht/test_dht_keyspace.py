from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.dht.keyspace import (
    Key,
    common_prefix_length,
    distance,
    is_multihash,
    key_of,
    preimage_sharing_prefix,
)
from lattica.dht.limits import MAX_KEY_BYTES, MAX_REFRESH_DEPTH
from lattica.identity import PeerId

keys = st.integers(0, 2**256 - 1).map(Key)


def test_a_key_is_the_sha256_of_the_bytes() -> None:
    # FIPS 180-2, appendix B.1
    assert key_of(b"abc") == 0xBA7816BF_8F01CFEA_414140DE_5DAE2223_B00361A3_96177A9C_B410FF61_F20015AD


@given(keys, keys, keys)
def test_distance_is_a_metric(a: Key, b: Key, c: Key) -> None:
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(keys, keys, keys)
def test_a_longer_common_prefix_means_nearer(a: Key, b: Key, c: Key) -> None:
    if common_prefix_length(a, b) > common_prefix_length(a, c):
        assert distance(a, b) < distance(a, c)


def test_common_prefix_length_counts_leading_bits() -> None:
    assert common_prefix_length(Key(0), Key(0)) == 256
    assert common_prefix_length(Key(0), Key(1)) == 255
    assert common_prefix_length(Key(0), Key(1 << 255)) == 0


@pytest.mark.parametrize("length", [0, 1, 5, 10])
def test_a_preimage_shares_exactly_the_prefix_asked_for_and_looks_like_a_peer_id(length: int) -> None:
    local = key_of(b"us")
    preimage = preimage_sharing_prefix(local, length, random.Random(1))
    assert common_prefix_length(local, key_of(preimage)) == length
    assert PeerId(preimage).raw == preimage


@pytest.mark.parametrize("length", [-1, MAX_REFRESH_DEPTH + 1])
def test_a_preimage_that_would_cost_too_much_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="too expensive"):
        preimage_sharing_prefix(key_of(b"us"), length, random.Random(1))


@given(st.integers(0, 2**63 - 1), st.binary(max_size=64))
def test_a_whole_multihash_is_recognised(code: int, digest: bytes) -> None:
    assert is_multihash(varint(code) + varint(len(digest)) + digest)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=10))
def test_a_multihash_cut_short_or_followed_by_more_is_not_one(digest: bytes, more: bytes) -> None:
    whole = b"\x12\x20" + digest
    assert not any(is_multihash(whole[:end]) for end in range(len(whole)))
    assert not is_multihash(whole + more)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x12", id="no length"),
        pytest.param(b"\x92\x00\x01a", id="code not in its shortest form"),
        pytest.param(b"\x12\x81\x00a", id="length not in its shortest form"),
        pytest.param(b"\x80" * 12, id="a varint without an end"),
        pytest.param(b"\x12" + bytes([MAX_KEY_BYTES]) + bytes(MAX_KEY_BYTES), id="too long"),
    ],
)
def test_what_is_not_a_multihash_is_refused(data: bytes) -> None:
    assert not is_multihash(data)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))
