"""One SQLite file for all namespaces of a node: what was committed is there after a power loss.

Bytes in, bytes out: nothing here knows of signatures or documents. All batches that wait while the disk works become
durable together with its next fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lattica.background import outlast
from lattica.store.disk_batch import Batch, Record
from lattica.store.disk_reader import DiskReader
from lattica.store.disk_schema import lock_store, open_reader, open_writer
from lattica.store.disk_view import StoreView
from lattica.store.disk_writer import DiskWriter, Outcome

__all__ = ["Batch", "Record", "StoreDisk", "open_store_disk", "open_store_transaction"]

MAX_QUEUED: Final = 64 << 20
"""Bytes of batches that wait for the disk, or are being written; beyond, `StoreDisk.commit` waits."""


@dataclass(slots=True)
class _Waiting:
    """A batch and whoever waits for it."""

    batch: Batch
    done: asyncio.Future[int]


class StoreDisk(StoreView):
    """The store on disk; made by `open_store_disk`. For one event loop.

    Every method raises `ReplicaStoreError` if the file cannot be read or written.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, writer: DiskWriter, reader: DiskReader, threads: _Threads) -> None:
        super().__init__(path, reader, threads.read)
        self._writer = writer
        self._threads = threads
        self._queue: list[_Waiting] = []
        self._queued_bytes = 0  # with those that are being written
        self._writing: asyncio.Future[list[Outcome]] | None = None
        self._turns: deque[asyncio.Future[None]] = deque()  # of commits that wait for room, first come first served

    @property
    def size(self) -> int:
        """Bytes that the database and its log occupy."""
        return sum(_file_size(self.path.with_name(self.path.name + suffix)) for suffix in ("", "-wal"))

    async def commit(self, batch: Batch) -> int:
        """Return once ``batch`` is durable, with the row of its last new entry; 0 if it had none.

        Batches become durable in the order in which `commit` was called. The batch must not be changed meanwhile.
        A cancelled commit may become durable or not, but never in part.

        Raises:
            BatchRefusedError: It contradicts what is stored; nothing of it is.
            ReplicaStoreError: It does not count as stored. After an I/O error it may turn out to be, when the file is
                opened again.
        """
        if self._turns or self._queued_bytes >= MAX_QUEUED:
            await self._wait_turn()
        try:
            self._check_open()
            waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
            self._queue.append(waiting)
            self._queued_bytes += batch.size
        finally:
            self._grant_turn()
        self._write_nowait()
        return await waiting.done

    async def forget(self, namespace: bytes) -> None:
        """Delete a namespace with all that belongs to it, durably. The space is used again, or given back."""
        batch = Batch(namespace)
        batch.forget()
        await self.commit(batch)

    async def finish(self) -> None:
        """Take no more, and wait until all that was committed is durable; `open_store_disk` calls this."""
        self._closed = True
        self._grant_turn()
        while self._writing is not None:
            await outlast(self._writing)

    # the queue

    async def _wait_turn(self) -> None:
        """Wait for room in the queue. Who returns from here is to call `_grant_turn` as soon as it has queued."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._turns.remove(turn)
            self._grant_turn()
            raise
        self._turns.popleft()

    def _grant_turn(self) -> None:
        """Let the first that waits go on, if there is room; it keeps its place in the row until it does."""
        if self._turns and (self._closed or self._queued_bytes < MAX_QUEUED) and not self._turns[0].done():
            self._turns[0].set_result(None)

    def _write_nowait(self) -> None:
        """Give all that is queued to the thread, unless it is at work: then that happens when it has done.

        When nothing is, it makes the file smaller, if most of it is empty.
        """
        if self._writing is not None:
            return
        group, self._queue = self._queue, []
        loop, thread = asyncio.get_running_loop(), self._threads.write
        if group:
            self._writing = loop.run_in_executor(thread, self._writer.apply, [waiting.batch for waiting in group])
        elif self._writer.can_shrink and not self._closed:
            self._writing = loop.run_in_executor(thread, self._writer.shrink)
        if self._writing is not None:
            self._writing.add_done_callback(functools.partial(self._written, group))

    def _written(self, group: list[_Waiting], writing: asyncio.Future[list[Outcome]]) -> None:
        self._writing = None
        self._queued_bytes -= sum(waiting.batch.size for waiting in group)
        self._write_nowait()
        self._grant_turn()
        error = writing.exception()
        outcomes = [error] * len(group) if error else writing.result()
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.done.done():  # cancelled
                continue
            if isinstance(outcome, int):
                waiting.done.set_result(outcome)
            else:
                waiting.done.set_exception(outcome)


@dataclass(frozen=True, slots=True)
class _Threads:
    """One thread for each connection."""

    write: ThreadPoolExecutor
    read: ThreadPoolExecutor


@contextlib.asynccontextmanager
async def open_store_disk(path: Path) -> AsyncIterator[StoreDisk]:
    """The store in the file ``path``, which is made, with its folder, if it is not there.

    At the end of the block nothing more is taken; all that was committed becomes durable before the file is closed,
    whether the block is cancelled or not.

    Raises:
        ReplicaStoreError: Another process has it, it cannot be used, or it is from another version.
    """
    path = path.absolute()
    loop = asyncio.get_running_loop()
    files = contextlib.ExitStack()
    with (
        ThreadPoolExecutor(1, "lattica-store-write") as write,
        ThreadPoolExecutor(1, "lattica-store-read") as read,
    ):
        threads = _Threads(write, read)
        try:
            writer, reader = await outlast(loop.run_in_executor(write, _open_files, path, threads, files))
            disk = StoreDisk(path, writer, reader, threads)
            try:
                yield disk
            finally:
                await disk.finish()
        finally:
            await outlast(loop.run_in_executor(write, files.close))


def _open_files(path: Path, threads: _Threads, files: contextlib.ExitStack) -> tuple[DiskWriter, DiskReader]:
    """Lock and open; what ``files`` is to close is closed in the opposite order, after the last read has ended."""
    files.callback(os.close, lock_store(path))
    writing = files.enter_context(contextlib.closing(open_writer(path)))
    reading = files.enter_context(contextlib.closing(open_reader(path)))
    files.callback(threads.read.shutdown)
    return DiskWriter(path, writing), DiskReader(path, reading)


@contextlib.asynccontextmanager
async def open_store_transaction(path: Path) -> AsyncIterator[StoreDisk]:
    """The same, but what is committed in the block becomes durable at its end, all together.

    Nothing does if the block raises, or the process ends before. Within the block it is read as if it were there.

    Raises:
        ReplicaStoreError: As `open_store_disk`, or at the end of the block: nothing of it is stored then, or after an
            I/O error perhaps all.
    """
    path = path.absolute()
    loop = asyncio.get_running_loop()
    files = contextlib.ExitStack()
    with ThreadPoolExecutor(1, "lattica-store-write") as thread:
        try:
            writer, reader = await outlast(loop.run_in_executor(thread, _open_whole, path, files))
            disk = StoreDisk(path, writer, reader, _Threads(thread, thread))
            try:
                yield disk
            finally:
                await disk.finish()
            await outlast(loop.run_in_executor(thread, writer.end))
        finally:
            await outlast(loop.run_in_executor(thread, files.close))


def _open_whole(path: Path, files: contextlib.ExitStack) -> tuple[DiskWriter, DiskReader]:
    """Lock, open, and begin; one connection, so that what is written can be read."""
    files.callback(os.close, lock_store(path))
    database = files.enter_context(contextlib.closing(open_writer(path)))
    writer = DiskWriter(path, database)
    writer.begin()
    return writer, DiskReader(path, database)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
