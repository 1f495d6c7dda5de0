"""Handles on files that are being put together, and who has which."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lattica.content.cid import Buffer, HashFunction
from lattica.content.manifest import Chunk, FileEntry
from lattica.content.store_assembly import Assembly
from lattica.content.store_disk import StoreDisk, layout_of
from lattica.content.store_growing import GrowingCopy


class PartialBlob:
    """A file that is being put together from its chunks; safe to use from several threads.

    Blobs opened for equal entries share their state: what one wrote, the others have. It keeps no file open, so that
    there may be many. Also a context manager, which closes it.

    Attributes:
        entry: The file.
        hash: What makes its digests.
    """

    def __init__(self, assembly: Assembly, release: Callable[[Assembly], None]) -> None:
        self.entry = assembly.entry
        self.hash = assembly.hash
        self._assembly: Assembly | None = assembly
        self._release = release

    def missing(self) -> list[Chunk]:
        """The chunks still to be had, in file order; of those with equal digests the first one only."""
        return self._open.missing()

    @property
    def done_bytes(self) -> int:
        """How many of the file's bytes are there and verified."""
        return self._open.done_bytes

    def write(self, chunk: Chunk, data: Buffer) -> None:
        """Put a chunk wherever its digest occurs in the file, and remember that it is there.

        The caller has verified the hash. Writing a chunk again is harmless.

        Raises:
            StoreError: The disk is full, read-only or broken. Nothing was recorded.
            ValueError: ``data`` has another length, or the file has no such chunk.
        """
        self._open.write(chunk, data)

    def reuse_local(self) -> int:
        """Copy missing chunks that the store holds in other files, each verified; returns the bytes gained."""
        return self._open.reuse_local()

    def flush(self, chunks: Sequence[Chunk], copies: Iterable[GrowingCopy] = ()) -> None:
        """Have what was written on the disk, so that `seal` need not wait for all of it.

        Args:
            chunks: Some that were written.
            copies: Get those chunks, too.

        Raises:
            StoreError: The disk failed.
        """
        self._open.flush(chunks, copies)

    def seal(self) -> Path:
        """Check the whole file's digest and make it a blob of the store; returns where it is.

        Sealing what is sealed already is harmless.

        Raises:
            IntegrityError: The digest does not match. Chunks that are wrong are missing again; if none is, the manifest
                lies, and all of the file is gone and the blob of no use any more.
            StoreError: The disk failed.
            ValueError: Chunks are missing.
        """
        return self._open.seal()

    def close(self) -> None:
        """Let go of the file; what is recorded stays for the next time. May be called again."""
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            self._release(assembly)

    @property
    def _open(self) -> Assembly:
        if self._assembly is None:
            raise ValueError(f"the blob of {self.entry.path} is closed")
        return self._assembly

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenBlobs:
    """The assemblies that somebody has a handle on."""

    def __init__(self, disk: StoreDisk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._users: dict[bytes, tuple[Assembly, int]] = {}
        self._doomed: set[bytes] = set()

    def open(self, entry: FileEntry, function: HashFunction) -> PartialBlob:
        """A handle on a file; errors as of `Assembly.prepare`."""
        layout = layout_of(entry, function)
        with self._lock:
            assembly, users = self._users.get(layout) or (Assembly(self._disk, entry, function), 0)
            self._users[layout] = assembly, users + 1
        try:
            assembly.prepare()
        except BaseException:
            self._release(layout)
            raise
        return PartialBlob(assembly, lambda _: self._release(layout))

    def drop_when_closed(self, digest: bytes) -> bool:
        """Whether somebody has the file open. Then it goes when the last one closes it, unless a manifest lists it."""
        with self._lock:
            is_open = self._is_open(digest)
            if is_open:
                self._doomed.add(digest)
            return is_open

    def _release(self, layout: bytes) -> None:
        with self._lock:
            assembly, users = self._users.pop(layout)
            if users > 1:
                self._users[layout] = assembly, users - 1
            digest = assembly.entry.digest
            is_last = digest in self._doomed and not self._is_open(digest)
            if is_last:
                self._doomed.discard(digest)
        if is_last and not self._disk.index.is_listed(digest):
            for image in self._disk.index.images(digest):
                self._disk.drop(image)

    def _is_open(self, digest: bytes) -> bool:
        return any(assembly.entry.digest == digest for assembly, _ in self._users.values())
