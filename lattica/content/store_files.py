"""What the block store does to files: names, whole writes, fsync, hashing, and errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lattica.content.cid import Buffer, Cid, HashFunction
from lattica.errors import StoreError

READ_BLOCK: Final = 4 << 20
"""Bytes read at a time when a whole file is hashed or copied; larger ones gain nothing and leave the CPU's cache."""

BLOB_MODE: Final = 0o444
"""Permissions of whole files: read-only, so that nobody edits them by mistake."""

TEMPORARY_PREFIX: Final = "tmp-"
"""Begins the names of files that are worthless after a crash; they are removed when the store is opened."""

_BLOB_NAME: Final = re.compile(r"[0-9a-f]{64}")
_PARTIAL_NAME: Final = re.compile(r"([0-9a-f]{64})-[0-9a-f]{32}")

_REASONS: Final = {
    errno.ENOSPC: "the disk is full; free some space and try again, what is complete is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and try again, what is complete is kept",
    errno.EROFS: "it is on a read-only file system; choose another place",
    errno.EACCES: "this user may not write there; change its permissions or choose another place",
    errno.EPERM: "this user may not write there; change its permissions or choose another place",
    errno.EIO: "the disk reports an input/output error; check the disk",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOTDIR: "it is not a directory; choose another place",
    errno.EEXIST: "it is not a directory; choose another place",
    errno.EFBIG: "the file system does not take files of this size",
}


@dataclass(frozen=True, slots=True)
class StorePaths:
    """Where everything in a store is.

    Attributes:
        root: The store's directory.
    """

    root: Path

    @property
    def lock(self) -> Path:
        """Locked by the process that has the store open."""
        return self.root / "lock"

    @property
    def index(self) -> Path:
        """The SQLite database."""
        return self.root / "index.sqlite"

    @property
    def blobs(self) -> Path:
        """Whole files, named by the hexadecimal digest. What is in here was verified and flushed to the disk before."""
        return self.root / "blobs"

    @property
    def partial(self) -> Path:
        """Files with holes, named by digest and layout."""
        return self.root / "partial"

    @property
    def manifests(self) -> Path:
        """Manifests, named by the text of their CID."""
        return self.root / "manifests"

    def blob(self, digest: bytes) -> Path:
        """A whole file."""
        return self.blobs / digest.hex()

    def partial_blob(self, digest: bytes, layout: bytes) -> Path:
        """A file that is being put together."""
        return self.partial / f"{digest.hex()}-{layout.hex()}"

    def manifest(self, cid: Cid) -> Path:
        """A manifest."""
        return self.manifests / str(cid)

    def temporary(self, directory: Path) -> Path:
        """A new name that is cleaned up at the next start if nobody does it before."""
        return directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def blob_digest(name: str) -> bytes | None:
    """The digest of the file that a name in ``blobs`` or ``partial`` stands for; ``None`` for a name not made by us."""
    if _BLOB_NAME.fullmatch(name):
        return bytes.fromhex(name)
    match = _PARTIAL_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def store_error(path: Path, error: OSError) -> StoreError:
    """What went wrong, and what to do about it."""
    reason = _REASONS.get(error.errno or 0)
    return StoreError(path, reason or f"{error.strerror or error}")


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def fsync_directory(path: Path) -> None:
    """Make names in a directory durable: new, changed and removed ones."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however many calls it takes."""
    written = os.pwrite(descriptor, data, offset)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


def write_durably(paths: StorePaths, target: Path, data: bytes) -> None:
    """Make ``target`` hold ``data``: after a crash it is all there or not at all."""
    temporary = paths.temporary(target.parent)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            write_all(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(target.parent)


def hash_file(descriptor: int, size: int, function: HashFunction) -> bytes | None:
    """The digest of a file's first ``size`` bytes; ``None`` if it has fewer.

    Read, not mapped: a mapped file that somebody else cuts short kills the process.
    """
    hasher = function.hasher()
    block = memoryview(bytearray(min(READ_BLOCK, max(size, 1))))
    offset = 0
    while offset < size:
        count = os.preadv(descriptor, [block[: size - offset]], offset)
        if not count:
            return None
        hasher.update(block[:count])
        offset += count
    return hasher.digest()


def has_data(descriptor: int, offset: int, length: int) -> bool:
    """Whether any of these bytes were ever written; ``True`` where the file system cannot tell."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) < offset + length
    except OSError as error:
        return error.errno != errno.ENXIO  # no data from here to the end
