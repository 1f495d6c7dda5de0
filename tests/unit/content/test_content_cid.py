"""Content IDs: one spelling each, the same as everybody else's, and a reason for whatever is not one."""

from __future__ import annotations

import contextlib
import hashlib

import base58
import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content import Cid, HashFunction
from lattica.errors import LatticaError, MalformedCidError, UsageError
from lattica.identity.base36 import base36_encode

# Made with `ipfs add --raw-leaves --cid-version 1` of an empty file, and known to every IPFS node.
EMPTY_SHA256 = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"

CIDS = st.builds(Cid, st.sampled_from(HashFunction), st.binary(min_size=32, max_size=32))


def test_the_cid_of_the_empty_file_is_the_one_that_ipfs_gives_it() -> None:
    assert str(Cid.of(b"", HashFunction.SHA2_256)) == EMPTY_SHA256
    assert Cid.parse(EMPTY_SHA256) == Cid(HashFunction.SHA2_256, hashlib.sha256(b"").digest())


def test_the_prefixes_named_in_error_messages_are_those_of_real_cids() -> None:
    assert str(Cid.of(b"x", HashFunction.BLAKE3)).startswith("bafkr4i")
    assert str(Cid.of(b"x", HashFunction.SHA2_256)).startswith("bafkrei")


@given(CIDS)
@settings(deadline=None)
def test_every_form_reads_back_as_the_same_cid(cid: Cid) -> None:
    raw = cid.to_bytes()
    assert len(raw) == 36
    assert len(str(cid)) == 59
    assert Cid.from_bytes(raw) == cid
    assert Cid.from_bytes(memoryview(raw)) == cid
    assert Cid.parse(str(cid)) == cid
    assert Cid.parse("z" + base58.b58encode(raw).decode()) == cid
    assert Cid.parse("k" + base36_encode(raw)) == cid
    assert raw.endswith(cid.multihash)
    assert len(cid.multihash) == 34


@given(st.text() | st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=58, max_size=58).map("b".__add__))
@settings(deadline=None, max_examples=500)
def test_any_text_is_a_cid_with_one_spelling_or_malformed(text: str) -> None:
    with contextlib.suppress(MalformedCidError):
        assert str(Cid.parse(text)) == text


@given(st.binary() | st.binary(min_size=32, max_size=32).map(b"\x01\x55\x1e\x20".__add__))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_a_cid_or_malformed(raw: bytes) -> None:
    with contextlib.suppress(MalformedCidError):
        assert Cid.from_bytes(raw).to_bytes() == raw


@given(CIDS, st.data())
@settings(deadline=None)
def test_a_damaged_cid_is_never_read_as_the_same_one(cid: Cid, data: st.DataObject) -> None:
    text = str(cid)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.characters(codec="utf-8").filter(lambda c: c != text[at])) + text[at + 1 :]
    with contextlib.suppress(MalformedCidError):
        assert Cid.parse(damaged) != cid


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKhbu6", "CIDv0 of IPFS"),
        ("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "dag-pb"),
        ("k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8", "a peer ID"),
        ("12D3KooWHFyq4ksYdvFQ5EbTTHBTqgTUqzUWjZmRbkXpFaYEmPJX", "it is a peer ID"),
        (EMPTY_SHA256[:-1], "wrong or missing"),
        (EMPTY_SHA256 + "a", "wrong or missing"),
        (EMPTY_SHA256.upper(), "59 characters"),
        (EMPTY_SHA256 + "\n", "wrong or missing"),
        (" " + EMPTY_SHA256, "59 characters"),
        ("z" + base58.b58encode(b"\x01\x55\x12\x20" + bytes(32)).decode() + "\n", "59 characters"),
        ("", "59 characters"),
        ("b", "59 characters"),
        ("model.safetensors", "59 characters"),
        ("z" + "1" * 100_000, "59 characters"),
    ],
)
def test_a_malformed_cid_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(MalformedCidError, match=reason):
        Cid.parse(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x01\x55\x00\x20" + bytes(32), "neither BLAKE3 nor SHA-256"),
        (b"\x01\x55\x1e\x14" + bytes(20), "32 bytes long"),
        (b"\x01\x55\x1e\x20" + bytes(33), "32 bytes long"),
        (b"\x01\x55\x1e", "cut off"),
        (b"\x02\x55\x1e\x20" + bytes(32), "version 2"),
        (b"\x01\xd5\x00\x1e\x20" + bytes(32), "cut off or no content ID"),  # 0x55 not in its shortest form
        (b"\x01\x71\x1e\x20" + bytes(32), "dag-cbor"),
        (b"\x01\xb2\x04\x1e\x20" + bytes(32), "kind 0x232"),
    ],
)
def test_a_cid_of_another_kind_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedCidError, match=reason):
        Cid.from_bytes(raw)


def test_a_malformed_cid_is_a_local_mistake_to_the_command_line() -> None:
    with pytest.raises(UsageError):
        Cid.parse("nonsense")
    with pytest.raises(LatticaError):
        Cid(HashFunction.BLAKE3, b"short")


def test_cids_sort_although_their_hash_functions_differ() -> None:
    cids = [Cid.of(bytes([n]), function) for n in range(4) for function in HashFunction]
    assert sorted(cids) == sorted(cids, key=lambda cid: (cid.hash.value, cid.digest))


@pytest.mark.parametrize("function", HashFunction)
def test_a_running_digest_equals_the_digest_of_all_at_once(function: HashFunction) -> None:
    data = bytes(range(256)) * 10_000
    hasher = function.hasher()
    for at in range(0, len(data), 1_000_003):
        hasher.update(memoryview(data)[at : at + 1_000_003])
    assert hasher.digest() == function.digest(data) == function.digest(bytearray(data))


def test_the_digests_are_those_of_the_named_functions() -> None:
    assert HashFunction.BLAKE3.digest(b"abc") == blake3.blake3(b"abc").digest()
    assert HashFunction.SHA2_256.digest(b"abc") == hashlib.sha256(b"abc").digest()
