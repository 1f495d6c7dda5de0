"""What is to become durable together: entries, proofs and snapshots of one namespace, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

HASH_SIZE: Final = 32
"""Bytes of a namespace's ID, and of an entry's hash."""

MAX_AUTHOR_SIZE: Final = 64
"""Bytes of a binary peer ID; https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md needs 42 at most."""

LANES: Final = frozenset((0, 1))
"""Control and data."""

MAX_SEQ: Final = (1 << 63) - 1
"""SQLite's largest integer."""

MAX_RAW_SIZE: Final = 512 << 20
"""Bytes of one value; SQLite takes 10^9 in a row (https://www.sqlite.org/limits.html)."""

CHANGE_OVERHEAD: Final = 256
"""Bytes that a change is taken to cost beside its raw bytes, in memory and on disk."""


@dataclass(frozen=True, slots=True)
class Record:
    """One log entry as stored.

    Attributes:
        author: Peer ID, binary.
        lane: 0 for control, 1 for data.
        seq: From 1.
        hash: Of the entry.
        raw: The signed entry.
    """

    author: bytes
    lane: int
    seq: int
    hash: bytes
    raw: bytes


class GenesisChange(NamedTuple):
    """The namespace begins."""

    raw: bytes


class DropChange(NamedTuple):
    """Entries go, from ``first`` to ``last``, inclusive."""

    author: bytes
    lane: int
    first: int
    last: int


class ProofChange(NamedTuple):
    """Two entries prove that an author used one sequence number twice."""

    author: bytes
    lane: int
    seq: int
    one: bytes
    other: bytes


class SnapshotChange(NamedTuple):
    """A snapshot replaces the one before."""

    raw: bytes
    row: int


class BaseChange(NamedTuple):
    """A checkpoint's state replaces the one before."""

    raw: bytes
    seq: int


class ForgetChange(NamedTuple):
    """The namespace goes, with all that belongs to it."""


Change = GenesisChange | Record | DropChange | ProofChange | SnapshotChange | BaseChange | ForgetChange


class Batch:
    """Changes to one namespace that become durable all together or not at all, in the order in which they are named.

    Nothing is read or written here. A value that no store could take raises `ValueError` at once.

    Attributes:
        namespace: Its ID.
        changes: What was named so far.
        size: Bytes that the batch occupies, about.
    """

    __slots__ = ("changes", "namespace", "size")

    def __init__(self, namespace: bytes) -> None:
        _check_hash("the namespace's ID", namespace)
        self.namespace = namespace
        self.changes: list[Change] = []
        self.size = CHANGE_OVERHEAD

    def genesis(self, raw: bytes) -> None:
        """Make the namespace; one that is there already keeps its genesis."""
        self._add(GenesisChange(raw), raw)

    def put(self, record: Record) -> None:
        """Store an entry; one that is there already stays, and keeps its row.

        Another entry with the same author, lane and sequence number makes `BatchRefusedError`: drop that one before.
        """
        _check_place(record.author, record.lane, record.seq)
        _check_hash("the entry's hash", record.hash)
        self._add(record, record.raw)

    def drop(self, author: bytes, lane: int, first: int, last: int | None = None) -> None:
        """Delete an author's entries from ``first`` to ``last``, inclusive; without ``last``, all from there on."""
        _check_place(author, lane, first)
        if last is not None and not first <= last <= MAX_SEQ:
            raise ValueError(f"entries {first} to {last} are none; name the lower sequence number first")
        self._add(DropChange(author, lane, first, MAX_SEQ if last is None else last))

    def proof(self, author: bytes, lane: int, seq: int, one: bytes, other: bytes) -> None:
        """Keep two entries that prove a fraud, unless one with a lower or the same ``seq`` is kept already."""
        _check_place(author, lane, seq)
        self._add(ProofChange(author, lane, seq, one, other), one, other)

    def snapshot(self, raw: bytes, row: int) -> None:
        """Replace the namespace's snapshot; ``row`` is the last row that it covers, 0 if none.

        Without bytes there is no snapshot any more.
        """
        if not 0 <= row <= MAX_SEQ:
            raise ValueError(f"{row} is no row number; take one that the store has given")
        self._add(SnapshotChange(raw, row), raw)

    def base(self, raw: bytes, seq: int) -> None:
        """Replace the state of the checkpoint that stands for dropped entries; ``seq`` is the checkpoint's number."""
        if not 1 <= seq <= MAX_SEQ:
            raise ValueError(f"{seq} is no sequence number; they count from 1 to {MAX_SEQ}")
        self._add(BaseChange(raw, seq), raw)

    def forget(self) -> None:
        """Delete the namespace and all that belongs to it; one that is not there is not missed."""
        self._add(ForgetChange())

    def _add(self, change: Change, *raws: bytes) -> None:
        for raw in raws:
            if len(raw) > MAX_RAW_SIZE:
                raise ValueError(f"{len(raw)} bytes are too many for one value; {MAX_RAW_SIZE} are the most")
        self.changes.append(change)
        self.size += CHANGE_OVERHEAD + sum(map(len, raws))


def _check_hash(what: str, value: bytes) -> None:
    if len(value) != HASH_SIZE:
        raise ValueError(f"{what} has {len(value)} bytes and needs {HASH_SIZE}")


def _check_place(author: bytes, lane: int, seq: int) -> None:
    if not 0 < len(author) <= MAX_AUTHOR_SIZE:
        raise ValueError(f"a peer ID has 1 to {MAX_AUTHOR_SIZE} bytes, not {len(author)}")
    if lane not in LANES:
        raise ValueError(f"there is no lane {lane}, only 0 (control) and 1 (data)")
    if not 1 <= seq <= MAX_SEQ:
        raise ValueError(f"{seq} is no sequence number; they count from 1 to {MAX_SEQ}")
