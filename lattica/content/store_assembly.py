"""A file of the store while it is put together from chunks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lattica.content.cid import Buffer, Cid, HashFunction
from lattica.content.index import ChunkRow, Image
from lattica.content.manifest import Chunk, FileEntry
from lattica.content.store_disk import ChunkPlaces, StoreDisk, layout_of, verified_rows
from lattica.content.store_files import BLOB_MODE, fsync_directory, hash_file, store_errors, write_all
from lattica.content.store_growing import GrowingCopy
from lattica.errors import IntegrityError, ManifestError


class Assembly:
    """One file, cut in one way: which of its chunks are there, and where the others go.

    Shared by all who have it open; every method may be called from any thread. `prepare` comes first.
    """

    def __init__(self, disk: StoreDisk, entry: FileEntry, function: HashFunction) -> None:
        self.entry = entry
        self.hash = function
        self._disk = disk
        self._layout = layout_of(entry, function)
        self._cid = Cid(function, entry.digest)
        self._turn = threading.RLock()  # held by what takes long: preparing and sealing
        self._lock = threading.Condition()  # guards what follows; notified when there are no writers
        self._writers = 0
        self._places: dict[bytes, ChunkPlaces] = {}
        self._done: set[bytes] = set()
        self._done_bytes = 0
        self._image: Image | None = None

    def prepare(self) -> None:
        """Find out what is there already; does nothing the second time.

        Raises:
            IntegrityError: The whole file is there, and not made of the chunks that the entry lists.
            ManifestError: The entry cannot be true.
            StoreError: The disk failed.
        """
        with self._turn:
            if self._image is None:
                self._places = self._chunk_places()
                self._image = self._find_whole() or self._find_partial()

    def missing(self) -> list[Chunk]:
        """The chunks still to be had, in file order; of those with equal digests the first one only."""
        with self._lock:
            return [
                Chunk(digest, chunk.offsets[0], chunk.length)
                for digest, chunk in self._places.items()
                if digest not in self._done
            ]

    @property
    def done_bytes(self) -> int:
        """How many of the file's bytes are there."""
        return self._done_bytes

    def write(self, chunk: Chunk, data: Buffer) -> None:
        """Put a chunk wherever its digest occurs, and remember it."""
        places = self._places.get(chunk.digest)
        if places is None or places.length != len(data):
            raise ValueError(f"{self.entry.path} has no chunk {chunk.digest.hex()} of {len(data)} bytes")
        image = self._opened
        with self._lock:
            if chunk.digest in self._done:
                return
            self._writers += 1
        try:
            with store_errors(self._disk.paths.root), self._disk.open(image) as descriptor:
                for offset in places.offsets:
                    write_all(descriptor, data, offset)
            self._disk.index.add_chunk(image.id, ChunkRow(chunk.digest, places.offsets[0], places.length))
            self._mark_done([chunk.digest])
        finally:
            with self._lock:
                self._writers -= 1
                self._lock.notify_all()

    def reuse_local(self) -> int:
        """Copy missing chunks from other files of the store; returns the bytes gained."""
        before = self.done_bytes
        for chunk in self.missing():
            data = self._disk.read_verified(chunk.digest, chunk.length, self.hash)
            if data is not None:
                self.write(chunk, data)
        return self.done_bytes - before

    def flush(self, chunks: Sequence[Chunk], copies: Iterable[GrowingCopy]) -> None:
        """Have what is written on the disk, so that sealing need not wait for all of it, and some chunks in copies."""
        image = self._opened
        places = [(offset, chunk.length) for chunk in chunks for offset in self._places[chunk.digest].offsets]
        with store_errors(self._disk.paths.root), self._disk.open(image) as descriptor:
            os.fdatasync(descriptor)
            for copy in copies:
                copy.add(descriptor, places)

    def seal(self) -> Path:
        """Check the whole file, flush it and move it to the blobs."""
        with self._turn:
            image = self._opened
            if image.layout is not None:
                self._wait_complete()
                self._flush_and_check(image)
                self._move(image)
            return self._disk.paths.blob(self.entry.digest)

    def _wait_complete(self) -> None:
        """Wait for those who still write what others have written; nobody can begin to."""
        with self._lock:
            if len(self._done) < len(self._places):
                raise ValueError(f"{self.entry.path} still misses chunks")
            self._lock.wait_for(lambda: not self._writers)

    @property
    def _opened(self) -> Image:
        if self._image is None:
            raise ValueError(f"{self.entry.path} was given up: its chunks do not make the file")
        return self._image

    def _chunk_places(self) -> dict[bytes, ChunkPlaces]:
        offsets: dict[bytes, list[int]] = {}
        lengths: dict[bytes, int] = {}
        for chunk in self.entry.chunks():
            if lengths.setdefault(chunk.digest, chunk.length) != chunk.length:
                raise ManifestError(self._cid, "it gives one digest to chunks of different sizes")
            offsets.setdefault(chunk.digest, []).append(chunk.offset)
        return {digest: ChunkPlaces(lengths[digest], tuple(places)) for digest, places in offsets.items()}

    def _mark_done(self, digests: list[bytes]) -> None:
        with self._lock:
            for digest in digests:
                if digest not in self._done:
                    self._done.add(digest)
                    self._done_bytes += self._places[digest].length * len(self._places[digest].offsets)

    def _set_done(self, rows: list[ChunkRow]) -> None:
        with self._lock:
            self._done.clear()
            self._done_bytes = 0
        self._mark_done([row.digest for row in rows])

    # preparing

    def _find_whole(self) -> Image | None:
        """The whole file, if it is there; its chunks are checked unless they were before."""
        disk = self._disk
        known = disk.index.image_with_layout(self._layout)
        image = disk.whole_image(self.entry.digest)
        if image is not None and known == image:
            self._mark_done(list(self._places))
            return image
        if image is not None and (image.hash, image.size) != (self.hash, self.entry.size):
            raise IntegrityError(self._cid, ())
        with store_errors(disk.paths.root):
            path = disk.paths.blob(self.entry.digest)
            if not path.exists():
                return None
            has_chunks, is_file = self._check_blob(path, is_trusted=image is not None)
            if not is_file:  # it rotted on the disk, or never was what its name says
                path.unlink()
                disk.whole_image(self.entry.digest)  # notices that it is gone
                return None
        if not has_chunks:  # the entry lies
            raise IntegrityError(self._cid, ())
        if known is not None:
            disk.drop(known)  # a partial file, not needed any more
        self._mark_done(list(self._places))
        return disk.add_whole(self.entry, self.hash)

    def _check_blob(self, path: Path, *, is_trusted: bool) -> tuple[bool, bool]:
        """Whether a whole file has all our chunks in their places, and whether it is what its name says."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            rows = list(verified_rows(descriptor, self._places.items(), self.hash))
            has_chunks = len(rows) == len(self._places)
            if has_chunks and is_trusted:
                return True, True
            is_whole = os.fstat(descriptor).st_size == self.entry.size
            return has_chunks, is_whole and hash_file(descriptor, self.entry.size, self.hash) == self.entry.digest
        finally:
            os.close(descriptor)

    def _find_partial(self) -> Image:
        """The partial file, new or from before."""
        disk, entry = self._disk, self.entry
        image = disk.index.image_with_layout(self._layout)
        if image is None:
            image = disk.index.add_partial(entry.digest, self.hash, entry.size, self._layout, "")
        with store_errors(disk.paths.root):
            is_intact = self._make_room(disk.path_of(image))
        if image.boot == disk.boot and is_intact:
            digests = disk.index.chunk_digests(image.id)
            self._mark_done([digest for digest in self._places if digest in digests])
            return image
        with store_errors(disk.paths.root), disk.open(image) as descriptor:
            rows = list(verified_rows(descriptor, self._places.items(), self.hash))
        disk.index.replace_chunks(image.id, rows, disk.boot)
        self._set_done(rows)
        return image

    def _make_room(self, path: Path) -> bool:
        """Give the partial file its size, with holes; returns whether it had it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            had_size = os.fstat(descriptor).st_size
            if had_size != self.entry.size:
                os.ftruncate(descriptor, self.entry.size)
            return had_size == self.entry.size
        finally:
            os.close(descriptor)

    # sealing

    def _flush_and_check(self, image: Image) -> None:
        with store_errors(self._disk.paths.root), self._disk.open(image) as descriptor:
            with ThreadPoolExecutor(1) as disk:  # it has to wait for the disk, hashing for the processor
                flushing = disk.submit(os.fdatasync, descriptor)
                is_right = hash_file(descriptor, self.entry.size, self.hash) == self.entry.digest
                flushing.result()
            if is_right:
                os.fchmod(descriptor, BLOB_MODE)
                return
            rows = list(verified_rows(descriptor, self._places.items(), self.hash))
        if len(rows) < len(self._places):  # the disk spoilt some: they are missing again
            self._disk.index.replace_chunks(image.id, rows, self._disk.boot)
            self._set_done(rows)
        else:  # the entry lies
            self._set_done([])
            self._image = None
            self._disk.drop(image)
        raise IntegrityError(self._cid, ())

    def _move(self, image: Image) -> None:
        """Rename first, then tell the index: what is among the blobs is whole, whatever the index knows."""
        source, target = self._disk.path_of(image), self._disk.paths.blob(self.entry.digest)
        with store_errors(self._disk.paths.root):
            if source.exists() or not target.exists():
                source.replace(target)
            fsync_directory(target.parent)
        completed = self._disk.index.complete(image)
        if completed.id != image.id:
            self._disk.descriptors.discard(image.id)
        self._image = completed
