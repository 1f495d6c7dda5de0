"""Groups of batches, made durable with one fsync. Runs in the writer's thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.disk_batch import (
    BaseChange,
    Batch,
    Change,
    DropChange,
    ForgetChange,
    GenesisChange,
    ProofChange,
    Record,
    SnapshotChange,
)
from lattica.store.disk_schema import sqlite_errors

Outcome = int | BatchRefusedError | ReplicaStoreError
"""What became of a batch: the last row that it added (0: none), or why nothing of it is stored."""

MAX_INTERNED: Final = 1 << 16
"""Numbers of namespaces, and again of authors, that are kept in memory; then they are looked up anew."""

MAX_INSERTED: Final = 512
"""Entries that one statement inserts. Python lets other threads run while SQLite works, and a busy event loop gives the
interpreter back to the writer after 5 ms only: statements for single entries would be 200 a second."""

_PROOF = """INSERT INTO proofs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
    SET seq = excluded.seq, one = excluded.one, other = excluded.other WHERE excluded.seq < seq"""


SHRINK_EMPTY: Final = 1000
"""Empty pages of 4 KiB from which on, if they are three in four, the file is written anew without them."""

SHRINK_FULL: Final = 16_384
"""Pages in use up to which that is done: 64 MB take a second, for which batches have to wait."""


class DiskWriter:
    """Applies groups of batches. Not for two threads at a time.

    Attributes:
        can_shrink: Whether `shrink` is worth its while: most of the file is empty.

    After an error of the disk, or in a damaged file, nothing more is written until the file is opened again: what a
    failed fsync has left on the disk is not known (https://www.usenix.org/conference/atc20/presentation/rebello).
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        self._execute = database.execute
        self._namespaces: dict[bytes, int] = {}
        self._authors: dict[tuple[int, bytes], int] = {}
        self._broken: ReplicaStoreError | None = None
        self._is_whole = False
        self.can_shrink = False
        with sqlite_errors(path):
            found = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        self._last_row = int(found[0]) if found else 0

    def apply(self, group: Sequence[Batch]) -> list[Outcome]:
        """Make the batches durable, in their order; returns when they are, with the outcome of each.

        A batch that does not fit leaves no trace and does not hinder the others; an error of the disk is the outcome
        of all.
        """
        failure = self._broken
        if failure is None:
            try:
                with sqlite_errors(self._path):
                    return self._apply_together(group)
            except ReplicaStoreError as error:
                failure = error
                if _breaks(error.__cause__):
                    self._broken = error
        return [_copy(failure) for _ in group]

    def begin(self) -> None:
        """From here on nothing is durable before `end`, and then everything."""
        with sqlite_errors(self._path):
            self._execute("BEGIN IMMEDIATE")
        self._is_whole = True

    def end(self) -> None:
        """Make all durable that was applied since `begin`."""
        with sqlite_errors(self._path):
            self._check_whole()
            self._execute("COMMIT")
        self._is_whole = False

    def shrink(self) -> list[Outcome]:
        """Write the file anew without its empty pages; it gets smaller when its log is carried over."""
        self.can_shrink = False
        with contextlib.suppress(ReplicaStoreError), sqlite_errors(self._path):  # it goes on as it is
            self._execute("VACUUM")
        return []

    def _is_mostly_empty(self) -> bool:
        empty, pages = (self._execute(f"PRAGMA {what}").fetchone()[0] for what in ("freelist_count", "page_count"))
        full = pages - empty
        return bool(empty > max(3 * full, SHRINK_EMPTY) and full <= SHRINK_FULL)

    def _check_whole(self) -> None:
        if not self._database.in_transaction:  # the disk was full, or worse: SQLite has rolled back
            raise ReplicaStoreError(self._path, "an error of the disk has undone everything; begin again")

    def _apply_together(self, group: Sequence[Batch]) -> list[Outcome]:
        try:
            return self._transaction(lambda: self._insert(group))
        except (BatchRefusedError, sqlite3.IntegrityError):
            return self._transaction(lambda: [self._apply_alone(batch) for batch in group])

    def _transaction(self, work: Callable[[], list[Outcome]]) -> list[Outcome]:
        if self._is_whole:
            self._check_whole()
            with self._savepoint("whole"):
                return work()
        self._execute("BEGIN IMMEDIATE")
        try:
            outcomes = work()
            self._execute("COMMIT")
        except BaseException:
            self._forget_numbers()
            if self._database.in_transaction:  # not if the disk is full: then SQLite has rolled back already
                self._execute("ROLLBACK")
            raise
        self.can_shrink = self._is_mostly_empty()
        return outcomes

    def _apply_alone(self, batch: Batch) -> Outcome:
        """One batch of several, without a trace if it does not fit."""
        try:
            with self._savepoint():
                return self._insert([batch])[0]
        except (BatchRefusedError, sqlite3.IntegrityError):
            pass
        try:
            with self._savepoint():
                return self._insert_one_by_one(batch)
        except BatchRefusedError as error:
            return error

    @contextlib.contextmanager
    def _savepoint(self, name: str = "batch") -> Iterator[None]:
        self._execute(f"SAVEPOINT {name}")
        try:
            yield
        except (BatchRefusedError, sqlite3.IntegrityError):
            self._execute(f"ROLLBACK TO {name}")
            self._forget_numbers()
            raise
        finally:
            if self._database.in_transaction:
                self._execute(f"RELEASE {name}")

    def _insert(self, group: Sequence[Batch]) -> list[Outcome]:
        """Apply batches whose entries are all new, many entries at a time.

        Raises:
            sqlite3.IntegrityError: There is an entry in the place of one of them.
        """
        outcomes: list[Outcome] = []
        entries: list[tuple[int, int, int, int, int, bytes, bytes]] = []
        for batch in group:
            last_row = 0
            for change in batch.changes:
                if isinstance(change, Record):
                    last_row = self._next_row()
                    entries.append((last_row, *self._numbers(batch, change), change.hash, change.raw))
                else:
                    self._insert_entries(entries)
                    self._apply_change(batch.namespace, change)
            outcomes.append(last_row)
        self._insert_entries(entries)
        return outcomes

    def _insert_entries(self, entries: list[tuple[int, int, int, int, int, bytes, bytes]]) -> None:
        for start in range(0, len(entries), MAX_INSERTED):
            some = entries[start : start + MAX_INSERTED]
            rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))
            self._execute(f"INSERT INTO entries VALUES {rows}", [value for entry in some for value in entry])  # noqa: S608
        entries.clear()

    def _insert_one_by_one(self, batch: Batch) -> int:
        last_row = 0
        for change in batch.changes:
            if isinstance(change, Record):
                last_row = self._put(batch, change) or last_row
            else:
                self._apply_change(batch.namespace, change)
        return last_row

    def _put(self, batch: Batch, record: Record) -> int:
        """The row that a new entry gets; 0 if it was there before."""
        namespace, author, lane, seq = self._numbers(batch, record)
        query = "SELECT hash FROM entries WHERE author = ? AND lane = ? AND seq = ?"
        known = self._execute(query, (author, lane, seq)).fetchone()
        if known is None:
            row = self._next_row()
            self._insert_entries([(row, namespace, author, lane, seq, record.hash, record.raw)])
            return row
        if known[0] != record.hash:
            reason = f"another entry has the number {seq} in lane {lane} of the author {record.author.hex()}"
            raise BatchRefusedError(f"{reason}; drop that one before")
        return 0

    def _apply_change(self, id_: bytes, change: Change) -> None:
        execute = self._execute
        match change:
            case GenesisChange(raw):
                execute("INSERT INTO namespaces (id, genesis) VALUES (?, ?) ON CONFLICT DO NOTHING", (id_, raw))
            case DropChange(author, lane, first, last):
                known = self._known_author(self._namespace(id_), author)
                delete = "DELETE FROM entries WHERE author = ? AND lane = ? AND seq BETWEEN ? AND ?"
                execute(delete, (known, lane, first, last))
            case ProofChange(author, lane, seq, one, other):
                namespace = self._namespace(id_)
                execute(_PROOF, (namespace, self._author(namespace, author), lane, seq, one, other))
            case SnapshotChange(raw, row):
                execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (self._namespace(id_), row, raw))
            case BaseChange(raw, seq):
                execute("INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (self._namespace(id_), seq, raw))
            case ForgetChange():
                self._forget(id_)

    def _forget(self, id_: bytes) -> None:
        found = self._execute("SELECT number FROM namespaces WHERE id = ?", (id_,)).fetchone()
        if found is None:
            return
        for table in ("entries", "proofs", "snapshots", "bases", "authors"):
            self._execute(f"DELETE FROM {table} WHERE namespace = ?", found)  # noqa: S608
        self._execute("DELETE FROM namespaces WHERE number = ?", found)
        self._forget_numbers()

    # numbers

    def _next_row(self) -> int:
        """A row number that no entry has had."""
        self._last_row += 1
        return self._last_row

    def _numbers(self, batch: Batch, record: Record) -> tuple[int, int, int, int]:
        namespace = self._namespace(batch.namespace)
        return namespace, self._author(namespace, record.author), record.lane, record.seq

    def _namespace(self, id_: bytes) -> int:
        number = self._namespaces.get(id_)
        if number is None:
            found = self._execute("SELECT number FROM namespaces WHERE id = ?", (id_,)).fetchone()
            if found is None:
                raise BatchRefusedError(f"the namespace {id_.hex()} is not known here; put its genesis first")
            if len(self._namespaces) >= MAX_INTERNED:
                self._namespaces.clear()
            number = self._namespaces[id_] = int(found[0])
        return number

    def _author(self, namespace: int, peer: bytes) -> int:
        """An author's number; one that is new gets one."""
        number = self._authors.get((namespace, peer)) or self._known_author(namespace, peer)
        if number is None:
            insert = "INSERT INTO authors (namespace, peer) VALUES (?, ?)"
            number = self._execute(insert, (namespace, peer)).lastrowid or 0
        if len(self._authors) >= MAX_INTERNED:
            self._authors.clear()
        self._authors[namespace, peer] = number
        return number

    def _known_author(self, namespace: int, peer: bytes) -> int | None:
        query = "SELECT number FROM authors WHERE namespace = ? AND peer = ?"
        found = self._execute(query, (namespace, peer)).fetchone()
        return int(found[0]) if found else None

    def _forget_numbers(self) -> None:
        """A rollback may have taken back what they stand for."""
        self._namespaces.clear()
        self._authors.clear()


def _copy(error: ReplicaStoreError) -> ReplicaStoreError:
    """An error of its own for each that raises it: every time that one is raised, its traceback grows."""
    copy = ReplicaStoreError(error.path, error.reason)
    copy.__cause__ = error.__cause__
    return copy


def _breaks(error: BaseException | None) -> bool:
    """Whether nothing more may be written after an error."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
