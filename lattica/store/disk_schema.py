"""The store's file: its tables, its lock, how it is opened, and SQLite's errors as sentences.

Write-ahead log with fsync at each commit: what was committed survives a power loss. The writer and the reader have a
connection each; so that no other process meddles, the file ``<name>.lock`` beside the database is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lattica.errors import ReplicaStoreError

SCHEMA_VERSION: Final = 1
"""Changes whenever the tables do."""

APPLICATION_ID: Final = 0x4C617452
"""Marks the database file as ours: "LatR"."""

MAX_CHECKED_SIZE: Final = 64 << 20
"""Up to this size in bytes the whole file is checked when it is opened, which takes 25 ms for 10 MB."""

CHECKPOINT_PAGES: Final = 4000
"""Pages of 4 KiB in the write-ahead log at which they are carried over to the database."""

MAX_KEPT_LOG: Final = 64 << 20
"""Bytes to which the write-ahead log is cut, once carried over, if a large transaction made it longer."""

_TABLES = """
BEGIN;
CREATE TABLE namespaces (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    genesis BLOB NOT NULL
);
-- Numbered anew for each namespace, so that nothing is left of a namespace that is forgotten.
CREATE TABLE authors (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace INTEGER NOT NULL,
    peer BLOB NOT NULL,     -- peer ID, binary
    UNIQUE (namespace, peer)
);
CREATE TABLE entries (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: snapshots name it
    namespace INTEGER NOT NULL,
    author INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    raw BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_by_seq ON entries (author, lane, seq);  -- the author's number implies the namespace
CREATE INDEX entries_by_row ON entries (namespace);  -- SQLite appends the row number
-- Of each author and lane, the lowest sequence number that was proven to be used twice.
CREATE TABLE proofs (
    namespace INTEGER NOT NULL,
    author INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    one BLOB NOT NULL,
    other BLOB NOT NULL,
    UNIQUE (namespace, author, lane)
);
-- The state of a checkpoint, which stands for entries that are not kept any more.
CREATE TABLE bases (
    namespace INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,   -- the checkpoint's number among the owner's control entries
    raw BLOB NOT NULL
);
CREATE TABLE snapshots (
    namespace INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,   -- the last row that it covers
    raw BLOB NOT NULL
);
"""


def lock_store(path: Path) -> int:
    """Make the store's folder and lock the store; the kernel lets go of it when this process ends, however it does.

    A folder that is new belongs to its user alone, and its name is durable. Returns the lock's descriptor.

    Raises:
        ReplicaStoreError: Another process has it, or the folder cannot be written.
    """
    with _os_errors(path):
        _make_folder(path.parent)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            reason = "another process is using it; stop that one, or use another file"
            raise ReplicaStoreError(path, reason) from error
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes; makes the file, for its user alone, or checks it. Only for who has the lock.

    Raises:
        ReplicaStoreError: It is damaged, from another version, or no store of documents.
    """
    with _os_errors(path):  # SQLite gives its log the permissions of the database
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with sqlite_errors(path):
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            _prepare(database, path)
        except BaseException:
            database.close()
            raise
    return database


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, of a file that `open_writer` has opened."""
    with sqlite_errors(path):
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            database.execute("PRAGMA query_only = ON")
        except BaseException:
            database.close()
            raise
    return database


def open_snapshot(path: Path) -> sqlite3.Connection:
    """A connection that sees the file as it is now, until it is closed; another process may write meanwhile.

    Raises:
        ReplicaStoreError: It is not there, cannot be read, is damaged, from another version, or no store of documents.
    """
    with sqlite_errors(path):
        uri = f"{path.as_uri()}?mode=ro"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            database.execute("BEGIN")  # the first query fixes what is seen
            _check(database, path)
        except BaseException:
            database.close()
            raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        _set_journal(database, path)
        database.executescript(_TABLES)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
        return
    _check(database, path)
    _set_journal(database, path)


def _check(database: sqlite3.Connection, path: Path) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ReplicaStoreError(path, "it is a database of another kind; use another file")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        made = f"it was made by another version of Lattica (store {version}, this one reads {SCHEMA_VERSION})"
        raise ReplicaStoreError(path, f"{made}; use that version, or another file")
    if path.stat().st_size <= MAX_CHECKED_SIZE:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def _set_journal(database: sqlite3.Connection, path: Path) -> None:
    mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise ReplicaStoreError(path, "its file system cannot share memory; use a file on a local disk")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache
    database.execute("PRAGMA checkpoint_fullfsync = ON")
    database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    database.execute(f"PRAGMA journal_size_limit = {MAX_KEPT_LOG}")


def _make_folder(folder: Path) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700 if each == folder else 0o777, exist_ok=True)
        descriptor = os.open(each.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)  # SQLite does the same for the names in the folder
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; check the permissions and the space there, or choose another place"
        raise ReplicaStoreError(path, reason) from error


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises in the block into a `ReplicaStoreError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise ReplicaStoreError(path, _reason(error)) from error


def _reason(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    detail = " ".join(str(error).split())
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full; free some space and try again, what was stored before is kept"
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return f"it cannot be written ({detail}); check the permissions, or choose another place"
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "another program holds it open and locked; close that one"
    if code == sqlite3.SQLITE_IOERR:
        return f"it cannot be read or written ({detail}); check the disk and the space on it, then open it again"
    if isinstance(error, sqlite3.ProgrammingError):
        return "it is closed"
    return f"it is damaged ({detail}); restore a backup, or delete it: the documents come again from other replicas"
