"""Publishing one file: read once, and meanwhile cut, hashed twice and copied into the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from lattica.content.chunking import Plan, plan_file
from lattica.content.cid import HashFunction
from lattica.content.manifest import ChunkRun, FileEntry, TensorEntry
from lattica.content.publish_tree import Source, source_error
from lattica.content.store import BlockStore
from lattica.content.store_staging import StagedBlob, StagedFile
from lattica.errors import SourceChangedError, SourceError

BLOCK: Final = 4 << 20
"""Bytes read at a time; at least `MAX_CHUNK`. Larger ones gain nothing and leave the CPU's cache."""


@dataclass(slots=True)
class Block:
    """Successive chunks that are read together.

    Attributes:
        offset: Where it begins in the file.
        length: Bytes, at most `BLOCK`.
        chunks: The run that each chunk belongs to, and its length.
    """

    offset: int
    length: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)


def blocks_of(plan: Plan) -> Iterator[Block]:
    """A file's chunks in blocks."""
    block = Block(0)
    for number, run in enumerate(plan.runs):
        for length in run.lengths():
            if block.length + length > BLOCK:
                yield block
                block = Block(block.offset + block.length)
            block.chunks.append((number, length))
            block.length += length
    if block.chunks:
        yield block


class FilePublisher:
    """Reads one file into the store.

    What the store has already is not written again: it begins to write at the first chunk that it does not know.

    Args:
        store: Where to.
        source: What.
        function: Makes the digests.
        advance: Called with the bytes done since the last time; what it raises ends the work.

    Attributes:
        blob: To be discarded by the caller when all is done or has failed.
        warning: What its user should know about the file, or ``None``.
    """

    def __init__(
        self, store: BlockStore, source: Source, function: HashFunction, advance: Callable[[int], None]
    ) -> None:
        self.blob: StagedBlob = store.stage()
        self.warning: str | None = None
        self._store = store
        self._source = source
        self._hash = function
        self._advance = advance
        self._hasher = function.hasher()
        self._is_writing = False
        self._buffer = memoryview(bytearray(min(BLOCK, max(source.size, 1))))

    def run(self) -> StagedFile:
        """The file, hashed, with its bytes in the store or staged.

        Raises:
            SourceChangedError: It changed meanwhile.
            SourceError: It cannot be read.
            StoreError: The store's disk is full or failed.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._source.target, flags)
            try:
                return self._publish(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise source_error(self._source.path, error) from error

    def _publish(self, descriptor: int) -> StagedFile:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(self._source.path, "it is not a file any more")
        if status.st_size != self._source.size:
            raise SourceChangedError(self._source.path)
        plan = plan_file(self._source.name, status.st_size, lambda length, at: os.pread(descriptor, length, at))
        self.warning = plan.warning
        digests = [bytearray() for _ in plan.runs]
        for block in blocks_of(plan):
            self._take(descriptor, block, digests)
        digest = self._hasher.digest()
        if not self._is_writing and not self._store.has_blob(digest):
            self._begin_writing(descriptor, plan.size)
        if self._is_writing:
            self.blob.finish()
        self._check_unchanged(descriptor, status)
        return StagedFile(_entry(self._source.name, plan, digest, digests), self.blob)

    def _take(self, descriptor: int, block: Block, digests: list[bytearray]) -> None:
        data = self._read(descriptor, block.offset, block.length)
        at, is_new = 0, False
        for run, length in block.chunks:
            digest = self._hash.digest(data[at : at + length])
            digests[run] += digest
            is_new = is_new or not (self._is_writing or self._store.holds_chunk(digest))
            at += length
        if is_new:
            self._begin_writing(descriptor, block.offset)
            self._read(descriptor, block.offset, block.length)
        if self._is_writing:
            self.blob.write(data, block.offset)
        self._hasher.update(data)
        self._advance(block.length)

    def _begin_writing(self, descriptor: int, done: int) -> None:
        """Write what was only hashed so far: read it again, and see that it is the same."""
        self._store.check_space(self._source.size)
        self._is_writing = True
        again = self._hash.hasher()
        for offset in range(0, done, BLOCK):
            data = self._read(descriptor, offset, min(BLOCK, done - offset))
            again.update(data)
            self.blob.write(data, offset)
        if again.digest() != self._hasher.digest():
            raise SourceChangedError(self._source.path)

    def _read(self, descriptor: int, offset: int, length: int) -> memoryview:
        """Exactly these bytes, in the one buffer."""
        data = self._buffer[:length]
        done = 0
        while done < length:
            count = os.preadv(descriptor, [data[done:]], offset + done)
            if not count:
                raise SourceChangedError(self._source.path)
            done += count
        return data

    def _check_unchanged(self, descriptor: int, before: os.stat_result) -> None:
        after = os.fstat(descriptor)
        try:
            named = self._source.target.stat()
        except FileNotFoundError as error:
            raise SourceChangedError(self._source.path) from error
        is_same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        if not is_same or (named.st_dev, named.st_ino) != (before.st_dev, before.st_ino):
            raise SourceChangedError(self._source.path)


def _entry(name: str, plan: Plan, digest: bytes, digests: list[bytearray]) -> FileEntry:
    runs = [ChunkRun(run.chunk_size, run.length, bytes(made)) for run, made in zip(plan.runs, digests, strict=True)]
    tensors = [
        TensorEntry(run.tensor.name, run.tensor.dtype, run.tensor.shape, number)
        for number, run in enumerate(plan.runs)
        if run.tensor is not None
    ]
    return FileEntry(name, plan.size, digest, tuple(runs), tuple(tensors))
