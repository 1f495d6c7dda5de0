"""The store's index: which chunk is where, kept in SQLite so that it survives kill -9 and power loss.

A transaction goes to the write-ahead log without fsync: what the process wrote stays when it is killed, and after a
power loss the index is consistent, if perhaps a little behind the files. `lattica.content.store` mends that.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from lattica.errors import StoreError

SCHEMA_VERSION: Final = 1
"""Changes whenever the tables do."""

APPLICATION_ID: Final = 0x4C617474
"""Marks the database file as ours: "Latt"."""

MAX_CHECKED_SIZE: Final = 64 << 20
"""Up to this size in bytes the whole index is checked when it is opened, which takes 16 ms for 10 MB."""

_TABLES = """
BEGIN;
-- A file's bytes on disk: whole if layout is NULL (then in blobs/), else with holes (in partial/).
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that it can name an open file
    digest BLOB NOT NULL,   -- of the whole file
    hash INTEGER NOT NULL,  -- multihash code of what made the digests
    size INTEGER NOT NULL,
    layout BLOB,
    boot TEXT NOT NULL      -- in which boot of the machine its chunks were written or last verified
);
CREATE UNIQUE INDEX whole_images ON images (digest) WHERE layout IS NULL;
-- How files are cut into chunks; a whole file may be cut in several ways.
CREATE TABLE layouts (
    layout BLOB PRIMARY KEY,
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX layouts_of_image ON layouts (image);
-- Chunks that are there; one row however often it occurs in the image.
CREATE TABLE chunks (
    digest BLOB NOT NULL,
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (digest, image)
) WITHOUT ROWID;
CREATE INDEX chunks_of_image ON chunks (image);
-- Which files each manifest lists.
CREATE TABLE root_files (
    root BLOB NOT NULL,     -- binary CID
    digest BLOB NOT NULL,
    PRIMARY KEY (root, digest)
) WITHOUT ROWID;
CREATE INDEX roots_of_file ON root_files (digest);
"""


class ChunkRow(NamedTuple):
    """A chunk, as the index keeps it."""

    digest: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Image:
    """A file's bytes on disk.

    Attributes:
        id: Row number; never used again.
        digest: Of the whole file.
        hash: Multihash code of what made the digests.
        size: Bytes of the whole file.
        layout: Fingerprint of how the file is cut; ``None`` if it is whole.
        boot: The boot of the machine in which its chunks were written or last verified.
    """

    id: int
    digest: bytes
    hash: int
    size: int
    layout: bytes | None
    boot: str


_IMAGE = "images.id, images.digest, images.hash, images.size, images.layout, images.boot"


class Index:
    """The tables. Every method is one transaction, and may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open the index at ``path``, or make an empty one.

        Raises:
            StoreError: It is damaged, or from another version.
        """
        self._path = path
        self._lock = threading.RLock()
        with self._errors():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._errors():
            # The store's lock keeps other processes out. Exclusive, SQLite needs no shared memory file next to the log.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                self._db.executescript(_TABLES)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._db.execute("COMMIT")
            elif version != SCHEMA_VERSION:
                reason = f"it was made by another version of Lattica (index {version}, this one reads {SCHEMA_VERSION})"
                raise StoreError(self._path.parent, f"{reason}; use that version, or another directory")
            if self._path.stat().st_size <= MAX_CHECKED_SIZE:
                found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise sqlite3.DatabaseError(found)

    def close(self) -> None:
        """Close the database; the write-ahead log is folded in."""
        with self._lock, self._errors():
            self._db.close()

    # chunks

    def find_chunk(self, digest: bytes, boot: str) -> tuple[Image, int, int] | None:
        """A trustworthy place of a chunk: image, offset and length. Whole files come first."""
        query = f"""SELECT {_IMAGE}, chunks.offset, chunks.length FROM chunks JOIN images ON images.id = chunks.image
            WHERE chunks.digest = ? AND (images.layout IS NULL OR images.boot = ?)
            ORDER BY images.layout IS NOT NULL LIMIT 1"""  # noqa: S608, no value in it comes from outside
        with self._lock, self._errors():
            row = self._db.execute(query, (digest, boot)).fetchone()
        return (Image(*row[:6]), row[6], row[7]) if row else None

    def add_chunk(self, image: int, chunk: ChunkRow) -> None:
        """Remember one chunk."""
        self.add_chunks(image, (chunk,))

    def add_chunks(self, image: int, chunks: Iterable[ChunkRow]) -> None:
        """Remember chunks; those that are known already stay."""
        rows = [(chunk.digest, image, chunk.offset, chunk.length) for chunk in chunks]
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)", rows)

    def replace_chunks(self, image: int, chunks: Iterable[ChunkRow], boot: str) -> None:
        """Remember that exactly these chunks are there, verified in this boot."""
        with self._transaction():
            self._db.execute("DELETE FROM chunks WHERE image = ?", (image,))
            self.add_chunks(image, chunks)
            self._db.execute("UPDATE images SET boot = ? WHERE id = ?", (boot, image))

    def forget_chunk(self, image: int, digest: bytes) -> None:
        """A chunk turned out to be wrong."""
        with self._transaction():
            self._db.execute("DELETE FROM chunks WHERE image = ? AND digest = ?", (image, digest))

    def chunk_digests(self, image: int) -> set[bytes]:
        """The digests of an image's chunks."""
        with self._lock, self._errors():
            return {row[0] for row in self._db.execute("SELECT digest FROM chunks WHERE image = ?", (image,))}

    def chunk_bytes(self, image: int) -> int:
        """The bytes of an image's chunks, repetitions not counted."""
        query = "SELECT coalesce(sum(length), 0) FROM chunks WHERE image = ?"
        with self._lock, self._errors():
            return int(self._db.execute(query, (image,)).fetchone()[0])

    # images

    def whole_image(self, digest: bytes) -> Image | None:
        """The whole file with this digest."""
        return self._image("WHERE digest = ? AND layout IS NULL", digest)

    def image_with_layout(self, layout: bytes) -> Image | None:
        """The whole or partial file that is known to be cut in this way."""
        return self._image("JOIN layouts ON layouts.image = images.id WHERE layouts.layout = ?", layout)

    def images(self, digest: bytes | None = None) -> list[Image]:
        """All of them, or those of one file."""
        query = f"SELECT {_IMAGE} FROM images WHERE digest = ?1 OR ?1 IS NULL"  # noqa: S608
        with self._lock, self._errors():
            return [Image(*row) for row in self._db.execute(query, (digest,))]

    def add_partial(self, digest: bytes, hash_code: int, size: int, layout: bytes, boot: str) -> Image:
        """A file that is being put together from now on."""
        return self._add_image(digest, hash_code, size, layout, layout, boot)

    def add_whole(self, digest: bytes, hash_code: int, size: int, layout: bytes, chunks: Iterable[ChunkRow]) -> Image:
        """A whole file and how it is cut; if it is there already, how else it is cut."""
        with self._transaction():
            image = self.whole_image(digest)
            if image is None:
                image = self._add_image(digest, hash_code, size, None, layout, "")
            else:
                self._db.execute("INSERT OR REPLACE INTO layouts VALUES (?, ?)", (layout, image.id))
            self.add_chunks(image.id, chunks)
        return image

    def complete(self, image: Image) -> Image:
        """A partial file is whole now; returns what it is called from now on."""
        with self._transaction():
            whole = self.whole_image(image.digest)
            if whole is None:
                self._db.execute("UPDATE images SET layout = NULL, boot = '' WHERE id = ?", (image.id,))
                return Image(image.id, image.digest, image.hash, image.size, None, "")
            # The same file was completed meanwhile with its chunks cut differently.
            self._db.execute("UPDATE layouts SET image = ? WHERE image = ?", (whole.id, image.id))
            self._db.execute("UPDATE OR IGNORE chunks SET image = ? WHERE image = ?", (whole.id, image.id))
            self.drop_image(image.id)
            return whole

    def drop_image(self, image: int) -> None:
        """Forget a file with its chunks and layouts."""
        with self._transaction():
            self._db.execute("DELETE FROM images WHERE id = ?", (image,))

    def _image(self, condition: str, value: bytes) -> Image | None:
        with self._lock, self._errors():
            row = self._db.execute(f"SELECT {_IMAGE} FROM images {condition}", (value,)).fetchone()  # noqa: S608
        return Image(*row) if row else None

    def _add_image(
        self, digest: bytes, hash_code: int, size: int, partial: bytes | None, layout: bytes, boot: str
    ) -> Image:
        with self._transaction():
            insert = "INSERT INTO images (digest, hash, size, layout, boot) VALUES (?, ?, ?, ?, ?)"
            number = self._db.execute(insert, (digest, hash_code, size, partial, boot)).lastrowid
            self._db.execute("INSERT OR REPLACE INTO layouts VALUES (?, ?)", (layout, number))
        return Image(number or 0, digest, hash_code, size, partial, boot)

    # roots

    def add_root(self, root: bytes, digests: Iterable[bytes]) -> None:
        """Remember which files a manifest lists."""
        with self._transaction():
            rows = [(root, digest) for digest in digests]
            self._db.executemany("INSERT OR IGNORE INTO root_files VALUES (?, ?)", rows)

    def roots(self) -> set[bytes]:
        """All manifests."""
        with self._lock, self._errors():
            return {row[0] for row in self._db.execute("SELECT DISTINCT root FROM root_files")}

    def complete_roots(self) -> set[bytes]:
        """The manifests whose files are all whole."""
        query = """SELECT root FROM root_files LEFT JOIN images
            ON images.digest = root_files.digest AND images.layout IS NULL
            GROUP BY root HAVING count(*) = count(images.id)"""
        with self._lock, self._errors():
            return {row[0] for row in self._db.execute(query)}

    def drop_root(self, root: bytes) -> list[Image]:
        """Forget a manifest; returns the images that only it listed, which are still there."""
        query = f"""SELECT {_IMAGE} FROM images JOIN root_files USING (digest) WHERE root = ?
            AND NOT EXISTS (SELECT 1 FROM root_files other WHERE other.digest = images.digest AND other.root != ?)"""  # noqa: S608
        with self._transaction():
            orphans = [Image(*row) for row in self._db.execute(query, (root, root))]
            self._db.execute("DELETE FROM root_files WHERE root = ?", (root,))
        return orphans

    def is_listed(self, digest: bytes) -> bool:
        """Whether any manifest lists this file."""
        with self._lock, self._errors():
            return self._db.execute("SELECT 1 FROM root_files WHERE digest = ?", (digest,)).fetchone() is not None

    # how

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing; within another transaction, a part of that one."""
        with self._lock, self._errors():
            nested = self._db.in_transaction
            if nested:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # not if the disk is full: then SQLite has rolled back already
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite raises into a `StoreError` that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(self._path.parent, _reason(error)) from error


def _reason(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    detail = " ".join(str(error).split())
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full; free some space and try again, what is complete is kept"
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return f"its index cannot be written ({detail}); check the permissions, or choose another place"
    if code == sqlite3.SQLITE_IOERR:
        return f"its index cannot be read or written ({detail}); check the disk and the space on it"
    if isinstance(error, sqlite3.ProgrammingError):
        return "it is closed"
    return (
        f"its index is damaged ({detail}); delete index.sqlite and index.sqlite-wal there: "
        "the index is made anew from the files at the next start"
    )
