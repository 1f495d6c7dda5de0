"""What the store's file holds. Runs in the reader's thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lattica.store.disk_batch import Record
from lattica.store.disk_schema import sqlite_errors

MAX_READ_SIZE: Final = 32 << 20
"""Raw bytes after which one read of records ends, so that few large ones do not fill the memory."""

_NAMESPACE: Final = "(SELECT number FROM namespaces WHERE id = ?)"
_RECORDS = f"""SELECT row, peer, lane, seq, hash, raw FROM entries INDEXED BY entries_by_row
    JOIN authors ON authors.number = entries.author
    WHERE entries.namespace = {_NAMESPACE} AND row > ? ORDER BY row LIMIT ?"""  # noqa: S608
_RUN = f"""SELECT seq, raw FROM entries
    WHERE author = (SELECT number FROM authors WHERE namespace = {_NAMESPACE} AND peer = ?)
    AND lane = ? AND seq BETWEEN ? AND ? ORDER BY seq"""  # noqa: S608
_ROW_AFTER = f"""SELECT row FROM entries
    WHERE author = (SELECT number FROM authors WHERE namespace = {_NAMESPACE} AND peer = ?)
    AND lane = ? AND seq > ? ORDER BY seq LIMIT 1"""  # noqa: S608
_PROOFS = f"""SELECT peer, lane, seq, one, other FROM proofs JOIN authors ON authors.number = proofs.author
    WHERE proofs.namespace = {_NAMESPACE} ORDER BY peer, lane"""  # noqa: S608


class DiskReader:
    """Each method is one consistent look at what is durable. Not for two threads at a time."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database

    def namespaces(self) -> dict[bytes, bytes]:
        """The genesis of each namespace, by ID."""
        with sqlite_errors(self._path):
            return dict(self._database.execute("SELECT id, genesis FROM namespaces ORDER BY number"))

    def records(self, namespace: bytes, after: int, limit: int) -> list[tuple[int, Record]]:
        """Entries in the order of their rows, until ``limit`` or `MAX_READ_SIZE` is reached; at least one if any."""
        found: list[tuple[int, Record]] = []
        size = 0
        query = self._database.execute
        with sqlite_errors(self._path), contextlib.closing(query(_RECORDS, (namespace, after, limit))) as rows:
            for row, *values in rows:
                found.append((row, Record(*values)))
                size += len(found[-1][1].raw)
                if size >= MAX_READ_SIZE:
                    break
        return found

    def run(self, namespace: bytes, author: bytes, lane: int, first: int, last: int, max_bytes: int) -> list[bytes]:
        """Raw entries with consecutive numbers from ``first``, of ``max_bytes`` in all, or the first one alone."""
        found: list[bytes] = []
        size = 0
        query = self._database.execute
        values = (namespace, author, lane, first, last)
        with sqlite_errors(self._path), contextlib.closing(query(_RUN, values)) as rows:
            for seq, raw in rows:
                size += len(raw)
                if seq != first + len(found) or (found and size > max_bytes):
                    break
                found.append(raw)
        return found

    def row_after(self, namespace: bytes, chains: Sequence[tuple[bytes, int, int]]) -> int | None:
        """The first row of an entry of an author, in a lane, beyond a number; ``None`` if there is none."""
        with sqlite_errors(self._path):
            found = [self._database.execute(_ROW_AFTER, (namespace, *chain)).fetchone() for chain in chains]
        return min((row for (row,) in filter(None, found)), default=None)

    def proofs(self, namespace: bytes) -> list[tuple[bytes, int, int, bytes, bytes]]:
        """Author, lane, sequence number and the two entries of each proof."""
        with sqlite_errors(self._path):
            return self._database.execute(_PROOFS, (namespace,)).fetchall()

    def snapshot(self, namespace: bytes) -> tuple[bytes, int] | None:
        """The snapshot and the last row that it covers."""
        query = f"SELECT raw, row FROM snapshots WHERE namespace = {_NAMESPACE}"  # noqa: S608
        with sqlite_errors(self._path):
            found = self._database.execute(query, (namespace,)).fetchone()
        return (found[0], found[1]) if found else None

    def base(self, namespace: bytes) -> tuple[bytes, int] | None:
        """The state of the checkpoint that stands for dropped entries, and the checkpoint's number."""
        query = f"SELECT raw, seq FROM bases WHERE namespace = {_NAMESPACE}"  # noqa: S608
        with sqlite_errors(self._path):
            found = self._database.execute(query, (namespace,)).fetchone()
        return (found[0], found[1]) if found else None

    def base_part(self, namespace: bytes, seq: int, offset: int, length: int) -> bytes:
        """A part of it, without reading the rest; empty at the end, or if another one has replaced it."""
        query = f"SELECT substr(raw, ?, ?) FROM bases WHERE namespace = {_NAMESPACE} AND seq = ?"  # noqa: S608
        with sqlite_errors(self._path):
            found = self._database.execute(query, (offset + 1, length, namespace, seq)).fetchone()
        return bytes(found[0]) if found else b""

    def last_row(self, namespace: bytes) -> int:
        """The last row of the namespace's entries; 0 if there is none."""
        query = f"SELECT max(row) FROM entries INDEXED BY entries_by_row WHERE namespace = {_NAMESPACE}"  # noqa: S608
        with sqlite_errors(self._path):
            return self._database.execute(query, (namespace,)).fetchone()[0] or 0
