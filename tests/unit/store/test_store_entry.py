"""The codec of entries: what was signed is what is read, forgeries are told, and any bytes give one error at most."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from effort import lines_run
from entry_forge import OTHER, OWNER, WRITER, Forge
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.control import read_action
from lattica.store.entry import (
    MAX_DEPS,
    MAX_SEQ,
    SIGNATURE_BYTES,
    Body,
    Dep,
    Entry,
    Kind,
    Lane,
    Verifier,
    read_entry,
    sign_entry,
)
from lattica.store.namespace import NamespaceId, create_genesis

FORGE = Forge()
GRANT = FORGE.grant(OWNER, WRITER, paths=("notes", "maps/mars"))
ENTRY = FORGE.data(WRITER, deps=(GRANT,))
NAMESPACE = FORGE.namespace
FIELDS = msgspec.msgpack.decode(ENTRY.signed)
damages = st.lists(
    st.tuples(st.sampled_from("rid"), st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4
)


def damaged(raw: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(raw)
    for how, where, byte in damage:
        at = where % (len(out) + 1)
        out[at : at + (how != "i")] = b"" if how == "d" else bytes([byte])
    return bytes(out)


def packed(signed: bytes, signature: bytes = bytes(SIGNATURE_BYTES)) -> bytes:
    return msgspec.msgpack.encode((signed, signature))


def with_field(number: int, value: Any) -> bytes:
    fields = [*FIELDS[:number], value, *FIELDS[number + 1 :]]
    return packed(msgspec.msgpack.encode(fields))


def verify(raw: bytes, namespace: NamespaceId = NAMESPACE) -> Entry:
    entry = read_entry(raw, namespace)
    Verifier(namespace).verify(entry)
    return entry


def test_an_entry_is_read_as_it_was_signed() -> None:
    entry = verify(ENTRY.raw)

    assert (entry.body, entry.hash, entry.raw) == (ENTRY.body, ENTRY.hash, ENTRY.raw)


def test_the_hash_leaves_the_signature_out() -> None:
    assert read_entry(packed(ENTRY.signed), NAMESPACE).hash == ENTRY.hash


def test_a_wrong_signature_is_refused() -> None:
    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        verify(packed(ENTRY.signed))


def test_an_entry_signed_by_another_than_its_author_is_refused() -> None:
    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        verify(sign_entry(OTHER, NAMESPACE, ENTRY.body).raw)


def test_an_entry_of_another_namespace_is_refused() -> None:
    other = create_genesis(OWNER).namespace

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        verify(ENTRY.raw, other)
    assert read_entry(ENTRY.raw, other).hash != ENTRY.hash


def test_a_signature_of_a_genesis_is_none_of_an_entry() -> None:
    signed, signature = msgspec.msgpack.decode(FORGE.genesis.raw)

    with pytest.raises(EntryRefusedError):
        verify(packed(signed, signature))


@pytest.mark.parametrize("author", [b"\x12\x20" + bytes(32), b"\x00\x20" + bytes(32), bytes(38), b"\xff" * 64])
def test_an_author_without_an_ed25519_key_is_refused(author: bytes) -> None:
    with pytest.raises(EntryRefusedError, match="its author"):
        verify(with_field(0, author))


def test_a_verifier_that_has_met_many_authors_still_tells_forgeries() -> None:
    verifier = Verifier(NAMESPACE)
    for number in range(MAX_DEPS + 2):
        key = IdentityKey.from_seed(number.to_bytes(32))
        verifier.verify(sign_entry(key, NAMESPACE, msgspec.structs.replace(ENTRY.body, author=key.peer_id.raw)))

    verifier.verify(ENTRY)
    with pytest.raises(EntryRefusedError):
        verifier.verify(read_entry(packed(ENTRY.signed), NAMESPACE))


def test_what_wraps_an_entry_has_one_form() -> None:
    """Whoever passes an entry on could make it longer, until it is over the limit, or others' copies differ."""
    wordy = b"\xdd\0\0\0\x02" + b"\xc6" + len(ENTRY.signed).to_bytes(4) + ENTRY.signed
    wordy += b"\xc6" + len(ENTRY.signature).to_bytes(4) + ENTRY.signature

    assert read_entry(wordy, NAMESPACE).raw == ENTRY.raw


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(0, bytes(33), id="short-author"),
        pytest.param(0, bytes(65), id="long-author"),
        pytest.param(1, 2, id="lane"),
        pytest.param(1, Lane.CONTROL, id="update-in-control-lane"),
        pytest.param(2, 3, id="kind"),
        pytest.param(2, Kind.GRANT, id="grant-in-data-lane"),
        pytest.param(3, 0, id="seq-0"),
        pytest.param(3, -1, id="seq-negative"),
        pytest.param(3, MAX_SEQ + 1, id="seq-too-high"),
        pytest.param(3, 1.0, id="seq-float"),
        pytest.param(4, 1, id="after-itself"),
        pytest.param(4, 2, id="after-later"),
        pytest.param(5, bytes(31), id="short-prev"),
        pytest.param(6, -1, id="time-negative"),
        pytest.param(6, 1 << 63, id="time-too-late"),
        pytest.param(7, [[bytes(38), 0, 1, bytes(15)]], id="short-mark"),
        pytest.param(7, [[bytes(38), 0, 0, bytes(16)]], id="dep-0"),
        pytest.param(7, [[bytes(38), 7, 1, bytes(16)]], id="dep-lane"),
        pytest.param(7, [[bytes(38), 0, 1, bytes(16), 0]], id="dep-with-more"),
        pytest.param(7, [[bytes(38), 0, 1, bytes(16)]] * (MAX_DEPS + 1), id="too-many-deps"),
        pytest.param(7, None, id="no-deps"),
        pytest.param(8, "text", id="payload-text"),
    ],
)
def test_a_malformed_body_is_refused(field: int, value: Any) -> None:
    with pytest.raises(EntryRefusedError, match=r"malformed|contradicts itself"):
        read_entry(with_field(field, value), NAMESPACE)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc0",
        ENTRY.raw + b"\0",
        ENTRY.raw[:-1],
        packed(ENTRY.signed + b"\0"),
        packed(ENTRY.signed, ENTRY.signature[:-1]),
        packed(ENTRY.signed, ENTRY.signature + b"\0"),
        packed(msgspec.msgpack.encode([*FIELDS, 0])),
        packed(msgspec.msgpack.encode(FIELDS[:-1])),
    ],
)
def test_less_and_more_than_an_entry_are_refused(raw: bytes) -> None:
    with pytest.raises(EntryRefusedError):
        read_entry(raw, NAMESPACE)


@given(damages)
def test_a_damaged_entry_is_refused_or_the_same(damage: list[tuple[str, int, int]]) -> None:
    try:
        entry = verify(damaged(ENTRY.raw, damage))
    except EntryRefusedError:
        return
    assert entry.hash == ENTRY.hash
    assert entry.raw == ENTRY.raw


@given(damages)
def test_a_damaged_body_is_refused_or_can_be_encoded_again(damage: list[tuple[str, int, int]]) -> None:
    try:
        body = read_entry(packed(damaged(ENTRY.signed, damage)), NAMESPACE).body
    except EntryRefusedError:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=Body) == body


@given(damages)
def test_a_damaged_grant_or_revocation_is_refused_or_one(damage: list[tuple[str, int, int]]) -> None:
    for kind in Kind:
        body = msgspec.structs.replace(GRANT.body, payload=damaged(GRANT.body.payload, damage), kind=kind)
        try:
            read_action(sign_entry(OWNER, NAMESPACE, body))
        except EntryRefusedError:
            continue
        assert kind is not Kind.UPDATE


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_one_error(raw: bytes) -> None:
    for candidate in (raw, packed(raw)):
        with pytest.raises(EntryRefusedError):
            read_entry(candidate, NAMESPACE)


@pytest.mark.parametrize(
    "opening", [b"\x91", b"\x92", b"\x81", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1"]
)
def test_deep_and_boastful_bytes_are_refused_at_once(opening: bytes) -> None:
    for raw in (opening * 200_000, packed(opening * 200_000), packed(b"\x99" + opening * 200_000)):

        def read(raw: bytes = raw) -> None:
            with pytest.raises(EntryRefusedError):
                read_entry(raw, NAMESPACE)

        assert lines_run(read) < 1000


def test_a_list_of_dependencies_takes_as_long_to_read_for_each_of_them() -> None:
    def effort(count: int) -> int:
        deps = tuple(Dep(number.to_bytes(38), Lane.DATA, MAX_SEQ, bytes(16)) for number in range(count))
        raw = sign_entry(WRITER, NAMESPACE, msgspec.structs.replace(ENTRY.body, deps=deps)).raw
        found: list[int] = []
        lines = lines_run(lambda: found.append(len(read_entry(raw, NAMESPACE).body.deps)))
        assert found == [count]
        return lines

    assert effort(MAX_DEPS) < 6 * effort(MAX_DEPS // 4)
