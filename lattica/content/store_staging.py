"""Files on their way into the store whose digest is not known before their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lattica.content.cid import Buffer, HashFunction
from lattica.content.manifest import FileEntry
from lattica.content.store_disk import StoreDisk
from lattica.content.store_files import BLOB_MODE, fsync_directory, store_errors, write_all
from lattica.errors import StoreError


class StagedBlob:
    """A new file of the store without a name yet. Made when the first byte is written; used by one thread."""

    def __init__(self, disk: StoreDisk) -> None:
        self._disk = disk
        self._descriptor: int | None = None
        self.path: Path | None = None

    def write(self, data: Buffer, offset: int) -> None:
        """Write bytes; raises `StoreError` if the disk is full or fails."""
        with store_errors(self._disk.paths.root):
            write_all(self._open(), data, offset)

    def finish(self) -> None:
        """Flush what was written, which is the whole file now."""
        with store_errors(self._disk.paths.root):
            descriptor = self._open()
            os.fdatasync(descriptor)
            os.fchmod(descriptor, BLOB_MODE)
            self._close()

    def discard(self) -> None:
        """Delete it, unless it has become a blob; the last thing to be called."""
        self._close()
        if self.path is not None:
            with store_errors(self._disk.paths.root):
                self.path.unlink(missing_ok=True)

    def _open(self) -> int:
        if self._descriptor is None:
            self.path = self._disk.paths.temporary(self._disk.paths.partial)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o644)
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file that was hashed, and its bytes.

    Attributes:
        entry: What it is.
        blob: Its bytes, finished; without a path if the store has them already.
    """

    entry: FileEntry
    blob: StagedBlob = field(compare=False)


def admit(disk: StoreDisk, files: Sequence[StagedFile], function: HashFunction) -> None:
    """Make staged files blobs.

    Raises:
        StoreError: The disk failed, or a file that was here already has been removed. Blobs that the index does not
            know are deleted again.
    """
    with contextlib.ExitStack() as undo, store_errors(disk.paths.root):
        for file in files:
            if file.blob.path is not None:
                undo.callback(_delete_unknown, disk, file.entry.digest)
                file.blob.path.replace(disk.paths.blob(file.entry.digest))
        fsync_directory(disk.paths.blobs)
        for file in files:
            if file.blob.path is None and disk.whole_image(file.entry.digest) is None:
                reason = f"{file.entry.path} was removed from it while it was being published; publish it again"
                raise StoreError(disk.paths.root, reason)
            disk.add_whole(file.entry, function)
        undo.pop_all()


def _delete_unknown(disk: StoreDisk, digest: bytes) -> None:
    if disk.index.whole_image(digest) is None:
        disk.paths.blob(digest).unlink(missing_ok=True)
