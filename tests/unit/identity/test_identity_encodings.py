"""Varints, base36 and peer IDs: round trips, known vectors, and what is refused."""

from __future__ import annotations

import multibase  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AddressError
from lattica.identity import IdentityKey, PeerId
from lattica.identity.base36 import base36_decode, base36_encode
from lattica.identity.peer_id import MAX_PEER_ID_BYTES
from lattica.identity.varint import decode_varint, encode_varint

# Test vectors of https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md; the peer ID is rust-libp2p's.
SPEC_PRIVATE_KEY = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC_KEY = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
SPEC_PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"

seeds = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")],
)
def test_varints_match_the_specification(value: int, encoded: str) -> None:
    assert encode_varint(value).hex() == encoded
    assert decode_varint(bytes.fromhex(encoded)) == (value, len(encoded) // 2)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=4), st.binary(max_size=4))
def test_varints_round_trip_at_any_offset(value: int, before: bytes, after: bytes) -> None:
    data = before + encode_varint(value) + after
    assert decode_varint(data, len(before)) == (value, len(data) - len(after))


@pytest.mark.parametrize("encoded", ["", "80", "8000", "ff00", "ffffffffffffffffff01", "808080808080808080"])
def test_a_varint_that_is_cut_off_too_long_or_padded_is_refused(encoded: str) -> None:
    with pytest.raises(ValueError, match="varint"):
        decode_varint(bytes.fromhex(encoded))


@pytest.mark.parametrize("value", [-1, 2**63])
def test_a_number_outside_a_varint_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        encode_varint(value)


@given(st.binary(max_size=20))
def test_a_varint_has_one_encoding_only(data: bytes) -> None:
    try:
        value, end = decode_varint(data)
    except ValueError:
        return
    assert encode_varint(value) == data[:end]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"yes mani !", "2lcpzo5yikidynfl"),
        (b"\0yes mani !", "02lcpzo5yikidynfl"),
        (b"\0\0yes mani !", "002lcpzo5yikidynfl"),
    ],
)
def test_base36_matches_the_specification(data: bytes, text: str) -> None:
    """Vectors of https://github.com/multiformats/multibase/tree/master/tests."""
    assert base36_encode(data) == text
    assert base36_decode(text) == data


@given(st.binary(min_size=1, max_size=80))
def test_base36_round_trips(data: bytes) -> None:
    assert base36_decode(base36_encode(data)) == data


@given(st.binary(min_size=1, max_size=80).filter(lambda data: data[0] != 0))
def test_base36_agrees_with_another_implementation(data: bytes) -> None:
    """But for leading zero bytes, which py-multibase drops."""
    assert multibase.encode("base36", data) == b"k" + base36_encode(data).encode()


@given(st.text(max_size=30))
def test_base36_accepts_nothing_but_its_digits(text: str) -> None:
    try:
        decoded = base36_decode(text)
    except ValueError:
        return
    assert base36_decode(base36_encode(decoded)) == decoded
    assert set(text.lower()) <= set("0123456789abcdefghijklmnopqrstuvwxyz")


def test_keys_and_peer_ids_match_the_specification() -> None:
    key = IdentityKey.from_bytes(SPEC_PRIVATE_KEY)
    assert key.public_key.public_bytes_raw() == SPEC_PUBLIC_KEY
    assert str(key.peer_id) == SPEC_PEER_ID
    assert key.to_bytes() == SPEC_PRIVATE_KEY


def test_the_specifications_rsa_peer_id_is_read_in_both_text_forms() -> None:
    peer_id = PeerId.parse("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
    assert peer_id.raw.hex() == "12209dff3b17d74cf4d38a50d8b6383e92d181a10395a5e73a726dcccbd21bf6f0b9"
    # The base36 form of the CIDv1 that the specification gives in base32: bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf…
    assert peer_id.dns_label == "k2k4r8ncs1yoluq95unsd7x2vfhgve0ncjoggwqx9vyh3vl8warrcp15"
    assert PeerId.parse(peer_id.dns_label) == peer_id
    assert peer_id.public_key() is None


@given(seeds)
def test_peer_ids_round_trip_in_both_text_forms(seed: bytes) -> None:
    key = IdentityKey.from_seed(seed)
    peer_id = key.peer_id
    assert PeerId.parse(str(peer_id)) == PeerId.parse(peer_id.dns_label) == peer_id
    assert len(peer_id.dns_label) <= 63
    public_key = peer_id.public_key()
    assert public_key is not None
    assert public_key.public_bytes_raw() == key.public_key.public_bytes_raw()


@given(seeds, st.binary(max_size=100))
def test_signatures_verify_under_the_key_in_the_peer_id(seed: bytes, message: bytes) -> None:
    key = IdentityKey.from_seed(seed)
    public_key = key.peer_id.public_key()
    assert public_key is not None
    public_key.verify(key.sign(message), message)


@given(st.binary(max_size=2 * MAX_PEER_ID_BYTES))
def test_arbitrary_bytes_are_a_peer_id_or_an_address_error(raw: bytes) -> None:
    try:
        peer_id = PeerId(raw)
    except AddressError:
        return
    assert len(raw) <= MAX_PEER_ID_BYTES
    assert PeerId.parse(str(peer_id)) == peer_id


@given(st.one_of(st.text(max_size=80), st.text("k0123456789abcdefghijklmnopqrstuvwxyzABQm", max_size=140)))
def test_arbitrary_text_is_a_peer_id_or_an_address_error(text: str) -> None:
    try:
        peer_id = PeerId.parse(text)
    except AddressError:
        return
    assert PeerId.parse(str(peer_id)) == peer_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "k0",
        SPEC_PEER_ID[:-1],
        SPEC_PEER_ID + "1",
        SPEC_PEER_ID.replace("W", "0"),
        " " + SPEC_PEER_ID,
        "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe",
        "1" * 1_000_000,
        # A CID of content, not of a peer.
        "k" + base36_encode(bytes.fromhex("01551220") + bytes(32)),
    ],
)
def test_what_is_no_peer_id_is_refused_in_one_short_sentence(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        PeerId.parse(text)
    assert len(str(caught.value)) < 400


def test_peer_ids_sort_and_serve_as_keys() -> None:
    ids = [IdentityKey.generate().peer_id for _ in range(20)]
    assert sorted(ids) == sorted(ids, key=lambda one: one.raw)
    assert {PeerId(one.raw): one for one in ids} == {one: one for one in ids}


def test_a_key_does_not_show_its_secret() -> None:
    key = IdentityKey.generate()
    assert key.seed.hex() not in repr(key)
    assert str(key.peer_id) in repr(key)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_private_key_or_a_value_error(raw: bytes) -> None:
    try:
        key = IdentityKey.from_bytes(raw)
    except ValueError:
        return
    assert IdentityKey.from_bytes(key.to_bytes()).seed == key.seed


@given(seeds, st.integers(0, 67), st.integers(1, 255))
def test_a_damaged_private_key_is_refused(seed: bytes, position: int, flip: int) -> None:
    """A flipped bit anywhere, even in the seed: then the public half no longer fits."""
    damaged = bytearray(IdentityKey.from_seed(seed).to_bytes())
    damaged[position] ^= flip
    with pytest.raises(ValueError, match=r"private key|halves"):
        IdentityKey.from_bytes(bytes(damaged))
