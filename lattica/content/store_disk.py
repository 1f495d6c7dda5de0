"""The store's files and its index together: what both sides of the store, writing and reading, stand on."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3

from lattica.content.cid import HashFunction
from lattica.content.index import ChunkRow, Image, Index
from lattica.content.manifest import FileEntry
from lattica.content.store_descriptors import DescriptorCache
from lattica.content.store_files import StorePaths, has_data, store_error, store_errors

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def current_boot() -> str:
    """Names this boot of the machine: what was written in it is in the page cache, if not on the disk.

    Where the kernel has no name for it, each call makes a new one, so that nothing unflushed is trusted.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def layout_of(entry: FileEntry, function: HashFunction) -> bytes:
    """Fingerprint of a file and of how it is cut, 16 bytes.

    Two manifests may cut the same file differently, and one may lie about it. So each layout has a partial file of its
    own: what one wrote, the other never takes for its own.
    """
    hasher = blake3.blake3(bytes((function,)) + entry.digest + entry.size.to_bytes(8))
    for run in entry.runs:
        hasher.update(run.chunk_size.to_bytes(4) + run.length.to_bytes(8))
        hasher.update(run.digests)
    return hasher.digest(16)


@dataclass(frozen=True, slots=True)
class ChunkPlaces:
    """Where one chunk occurs in a file.

    Attributes:
        length: Bytes of the chunk.
        offsets: At least one, in order.
    """

    length: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoreDisk:
    """One open store.

    Attributes:
        paths: Where its files are.
        index: Which chunk is where.
        descriptors: Files in use, by the number of their image.
        boot: This boot of the machine.
    """

    paths: StorePaths
    index: Index
    descriptors: DescriptorCache
    boot: str

    def path_of(self, image: Image) -> Path:
        """Where an image's bytes are."""
        if image.layout is None:
            return self.paths.blob(image.digest)
        return self.paths.partial_blob(image.digest, image.layout)

    @contextlib.contextmanager
    def open(self, image: Image) -> Iterator[int]:
        """A descriptor of an image, to read, and to write as well if it is partial; valid within the block."""
        with self.descriptors.use(image.id, lambda: self._open(image)) as descriptor:
            yield descriptor

    def _open(self, image: Image) -> int:
        try:
            return os.open(self.path_of(image), (os.O_RDWR if image.layout else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            if image.layout is None:
                raise
            # It was completed: the file is renamed and the index not yet told.
            return os.open(self.paths.blob(image.digest), os.O_RDONLY | os.O_CLOEXEC)

    def read_chunk(self, digest: bytes, length: int) -> bytes | None:
        """A chunk's bytes from wherever they are; not hashed."""
        found = self._find(digest, length)
        return found[1] if found else None

    def read_verified(self, digest: bytes, length: int, function: HashFunction) -> bytes | None:
        """A chunk's bytes from wherever they are and still right; where they are not, that is remembered."""
        while found := self._find(digest, length):
            image, data = found
            if function.digest(data) == digest:
                return data
            logger.warning("stored chunk is wrong digest=%s file=%s", digest.hex(), self.path_of(image))
            if image.layout is None:
                self.drop(image)  # not whole any more
            else:
                self.index.forget_chunk(image.id, digest)
        return None

    def _find(self, digest: bytes, length: int) -> tuple[Image, bytes] | None:
        while found := self.index.find_chunk(digest, self.boot):
            image, offset, stored_length = found
            if stored_length != length:
                return None
            data = b""
            try:
                with self.open(image) as descriptor:
                    data = os.pread(descriptor, length, offset)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise store_error(self.paths.root, error) from error
            if len(data) == length:
                return image, data
            self._distrust(image)
        return None

    def _distrust(self, image: Image) -> None:
        """Mend the index after somebody has removed a file or cut it short."""
        logger.warning("stored file is gone or too short file=%s", self.path_of(image))
        if image.layout is None:
            self.drop(image)
        else:
            self.index.replace_chunks(image.id, (), "")

    def whole_image(self, digest: bytes) -> Image | None:
        """The whole file with this digest, if it is in the index and on the disk."""
        image = self.index.whole_image(digest)
        if image is None:
            return None
        with store_errors(self.paths.root):
            is_there = file_size(self.path_of(image)) == image.size
        if is_there:
            return image
        self._distrust(image)
        return None

    def add_whole(self, entry: FileEntry, function: HashFunction) -> Image:
        """Enter a whole file and its chunks, which were verified, into the index."""
        rows = [ChunkRow(chunk.digest, chunk.offset, chunk.length) for chunk in entry.chunks()]
        return self.index.add_whole(entry.digest, function, entry.size, layout_of(entry, function), rows)

    def drop(self, image: Image) -> None:
        """Forget an image and delete its file."""
        self.index.drop_image(image.id)
        self.descriptors.discard(image.id)
        with store_errors(self.paths.root):
            self.path_of(image).unlink(missing_ok=True)


def file_size(path: Path) -> int | None:
    """Bytes of a file; ``None`` if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def verified_rows(
    descriptor: int, places: Iterable[tuple[bytes, ChunkPlaces]], function: HashFunction
) -> Iterator[ChunkRow]:
    """Those of the chunks that are right wherever they occur."""
    for digest, chunk in places:
        if all(_is_right(descriptor, digest, offset, chunk.length, function) for offset in chunk.offsets):
            yield ChunkRow(digest, chunk.offsets[0], chunk.length)


def _is_right(descriptor: int, digest: bytes, offset: int, length: int, function: HashFunction) -> bool:
    if not has_data(descriptor, offset, length):
        return False
    data = os.pread(descriptor, length, offset)
    return len(data) == length and function.digest(data) == digest
