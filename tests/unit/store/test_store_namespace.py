"""Namespaces: whoever knows the ID can check the genesis, and nobody can pass off another one."""

from __future__ import annotations

import msgspec
import pytest
from entry_forge import OWNER, STRANGER
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import EntryRefusedError, NamespaceError
from lattica.store.namespace import MAX_GENESIS, MAX_TITLE, Limits, NamespaceId, Policy, create_genesis, read_genesis

GENESIS = create_genesis(OWNER, title="Maps of Mars", policy=Policy.OPEN, limits=Limits(entry=1000))
SIGNED, SIGNATURE = msgspec.msgpack.decode(GENESIS.raw)
damages = st.lists(st.tuples(st.integers(0, len(GENESIS.raw) - 1), st.integers(0, 255)), min_size=1, max_size=4)


def test_a_genesis_is_read_as_it_was_made() -> None:
    assert read_genesis(GENESIS.raw, GENESIS.namespace) == GENESIS
    assert GENESIS.owner == OWNER.peer_id


def test_a_genesis_from_before_there_were_limits_for_strangers_has_the_usual_ones() -> None:
    signed, _ = msgspec.msgpack.decode(GENESIS.raw)
    signed = msgspec.msgpack.encode(msgspec.msgpack.decode(signed)[:5])
    old = msgspec.msgpack.encode((signed, OWNER.sign(b"lattica-store-genesis/1:" + signed)))

    assert read_genesis(old).limits == Limits(entry=1000)


def test_no_two_namespaces_are_alike() -> None:
    assert create_genesis(OWNER).namespace != create_genesis(OWNER).namespace


def test_the_namespace_does_not_depend_on_the_signature() -> None:
    forged = msgspec.msgpack.encode((SIGNED, bytes(64)))

    with pytest.raises(EntryRefusedError, match="wrong signature"):
        read_genesis(forged)


def test_a_genesis_of_another_namespace_is_refused() -> None:
    with pytest.raises(EntryRefusedError, match="not of"):
        read_genesis(create_genesis(OWNER).raw, GENESIS.namespace)


@pytest.mark.parametrize("signature", [b"", SIGNATURE[:-1], SIGNATURE + b"\0", STRANGER.sign(SIGNED)])
def test_a_genesis_that_its_owner_has_not_signed_is_refused(signature: bytes) -> None:
    with pytest.raises(EntryRefusedError):
        read_genesis(msgspec.msgpack.encode((SIGNED, signature)))


def test_a_genesis_of_an_owner_without_a_readable_key_is_refused() -> None:
    body = msgspec.msgpack.decode(SIGNED)
    hashed = msgspec.msgpack.encode([b"\x12\x20" + bytes(32), *body[1:]])

    with pytest.raises(EntryRefusedError, match="no Ed25519 key"):
        read_genesis(msgspec.msgpack.encode((hashed, SIGNATURE)))


def test_an_oversized_genesis_is_refused_before_it_is_read() -> None:
    with pytest.raises(EntryRefusedError, match=f"of at most {MAX_GENESIS}"):
        read_genesis(bytes(MAX_GENESIS + 1))


@given(damages)
def test_a_damaged_genesis_is_refused_or_the_same(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(GENESIS.raw)
    for at, byte in damage:
        raw[at] = byte
    if bytes(raw) == GENESIS.raw:
        return
    with pytest.raises(EntryRefusedError):
        read_genesis(bytes(raw), GENESIS.namespace)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_one_error(raw: bytes) -> None:
    with pytest.raises(EntryRefusedError):
        read_genesis(raw)


@pytest.mark.parametrize("limit", [0, 255, (1 << 20) + 1, 1 << 64, -1])
def test_a_limit_out_of_range_makes_no_namespace(limit: int) -> None:
    with pytest.raises(NamespaceError, match="no namespace can be like this"):
        create_genesis(OWNER, limits=Limits(entry=limit))


@pytest.mark.parametrize("limits", [Limits(strangers=-1), Limits(strangers=15_001), Limits(stranger_entries=-1)])
def test_limits_for_strangers_out_of_range_make_no_namespace(limits: Limits) -> None:
    with pytest.raises(NamespaceError, match="no namespace can be like this"):
        create_genesis(OWNER, limits=limits)


@pytest.mark.parametrize("title", ["x" * (MAX_TITLE + 1), "a\x1b[31mb", "two\nlines", "\x7f", "\ud800"])
def test_a_title_that_is_long_or_moves_the_cursor_makes_no_namespace(title: str) -> None:
    with pytest.raises(NamespaceError, match="no namespace can be like this"):
        create_genesis(OWNER, title=title)


def test_the_longest_title_is_taken_in_any_script() -> None:
    title = "\U0001f680" * MAX_TITLE

    assert read_genesis(create_genesis(OWNER, title=title).raw).title == title


@given(st.binary(min_size=32, max_size=32))
def test_an_id_is_read_from_its_text(raw: bytes) -> None:
    namespace = NamespaceId(raw)

    assert NamespaceId.parse(str(namespace)) == namespace


@given(st.text(max_size=60))
def test_other_text_is_no_id(text: str) -> None:
    with pytest.raises(NamespaceError, match="53 letters and digits"):
        NamespaceId.parse(text)


def test_one_id_has_one_text() -> None:
    text = str(GENESIS.namespace)
    for other in (text.upper(), f"N{text[1:]}", f"{text} ", f"{text[:-1]}b", text[:-1]):
        if other != text:
            with pytest.raises(NamespaceError):
                NamespaceId.parse(other)


def test_an_id_of_another_length_is_refused() -> None:
    with pytest.raises(NamespaceError, match="32 bytes, not 31"):
        NamespaceId(bytes(31))
