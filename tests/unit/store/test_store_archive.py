"""Backups: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import io

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import ArchiveError
from lattica.store.archive import (
    MAGIC,
    MAX_ENTRY_SIZE,
    MAX_GENESIS_SIZE,
    ArchivePart,
    EntryPart,
    Genesis,
    ProofPart,
    StatePart,
    read_archive,
    write_archive,
)

NAMESPACE = bytes(range(32))
PARTS: list[ArchivePart] = [Genesis(NAMESPACE, b"genesis"), EntryPart(b"entry"), ProofPart(b"one", b"another")]

raws = st.binary(max_size=300)
parts = st.one_of(
    st.builds(Genesis, st.binary(min_size=32, max_size=32), raws),
    st.builds(EntryPart, raws),
    st.builds(ProofPart, raws, raws),
    st.builds(StatePart, st.integers(1, 2**48), raws),
)
archives = st.lists(parts, max_size=8).map(lambda found: [Genesis(NAMESPACE, b"first"), *found])


def packed(written: list[ArchivePart]) -> bytes:
    file = io.BytesIO()
    write_archive(file, written)
    return file.getvalue()


def unpacked(data: bytes) -> list[ArchivePart]:
    return list(read_archive(io.BytesIO(data)))


def sealed(body: bytes) -> bytes:
    """An archive with the right checksum around whatever frames."""
    whole = MAGIC + body + b"\x00\x00\x00\x00\x20"
    return whole + blake3.blake3(whole).digest()


class OneByteAtATime(io.RawIOBase):
    """A pipe whose writer is slow."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, 1))


@given(archives)
def test_parts_come_back_in_order(written: list[ArchivePart]) -> None:
    assert unpacked(packed(written)) == written


def test_an_archive_may_be_empty() -> None:
    assert unpacked(packed([])) == []


def test_a_pipe_may_give_less_than_asked_for() -> None:
    assert list(read_archive(OneByteAtATime(packed(PARTS)))) == PARTS  # type: ignore[arg-type]


def test_parts_come_before_the_rest_is_read() -> None:
    assert next(read_archive(io.BytesIO(packed(PARTS)[:80]))) == PARTS[0]


@given(archives, st.data())
def test_a_cut_is_told(written: list[ArchivePart], data: st.DataObject) -> None:
    whole = packed(written)
    with pytest.raises(ArchiveError, match="cut off"):
        unpacked(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(archives, st.data())
def test_a_changed_byte_is_told(written: list[ArchivePart], data: st.DataObject) -> None:
    whole = bytearray(packed(written))
    where = data.draw(st.integers(0, len(whole) - 1))
    whole[where] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArchiveError):
        unpacked(bytes(whole))


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    for garbage in (data, MAGIC + data):
        with pytest.raises(ArchiveError):
            unpacked(garbage)


def test_whatever_follows_the_end_is_told() -> None:
    with pytest.raises(ArchiveError, match="follows its end"):
        unpacked(packed(PARTS) + b"\n")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"\x02\x00\x00\x00\x01x", "before any genesis", id="entry first"),
        pytest.param(b"\x01\x00\x00\x00\x1f" + bytes(31), "shorter", id="genesis without a whole ID"),
        pytest.param(b"\x01\x00\x00\x00\x20" + bytes(32) + b"\x03\x00\x00\x00\x03abc", "shorter", id="short proof"),
        pytest.param(b"\x03\x00\x00\x00\x05\x00\x00\x00\x02a", "shorter", id="proof without its first entry"),
        pytest.param(b"\x05\x00\x00\x00\x00", "kind 5 with 0 bytes", id="unknown kind"),
        pytest.param(b"\x01\x00\x00\x00\x20" + bytes(32) + b"\x04\x00\x00\x00\x01a", "shorter", id="short state"),
        pytest.param(b"\x01\xff\xff\xff\xff", "4294967295 bytes", id="too long"),
        pytest.param(b"\x00\x00\x00\x00\x1f" + bytes(31), "does not match", id="short checksum"),
    ],
)
def test_malformed_parts_are_refused_though_the_checksum_is_right(body: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        unpacked(sealed(body))


def test_another_version_says_which() -> None:
    with pytest.raises(ArchiveError, match="format 9, this one reads 1"):
        unpacked(packed(PARTS).replace(MAGIC, MAGIC[:-1] + b"\x09"))


def test_the_largest_parts_fit_and_larger_ones_are_refused_when_written() -> None:
    entry = bytes(MAX_ENTRY_SIZE)
    largest: list[ArchivePart] = [
        Genesis(NAMESPACE, bytes(MAX_GENESIS_SIZE)),
        EntryPart(entry),
        ProofPart(entry, entry),
    ]
    assert unpacked(packed(largest)) == largest
    too_large: list[ArchivePart] = [
        Genesis(NAMESPACE, bytes(MAX_GENESIS_SIZE + 1)),
        EntryPart(entry + b"!"),
        ProofPart(entry + b"!", b""),
        ProofPart(b"", entry + b"!"),
    ]
    for part in too_large:
        with pytest.raises(ArchiveError, match="does not fit"):
            packed([PARTS[0], part])


@pytest.mark.parametrize("wrong", [[EntryPart(b"")], [ProofPart(b"", b"")], [Genesis(b"short", b"")]])
def test_what_could_not_be_read_is_not_written(wrong: list[ArchivePart]) -> None:
    with pytest.raises(ArchiveError):
        packed(wrong)
