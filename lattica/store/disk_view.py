"""Reading the store's file: all that a node does, and what looks at the file of one that may be running.

SQLite lets other processes read while one writes. Whoever opens a view sees the file as it was at one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from lattica.background import outlast
from lattica.errors import ReplicaStoreError
from lattica.store.disk_batch import MAX_SEQ, Record
from lattica.store.disk_reader import DiskReader
from lattica.store.disk_schema import open_snapshot

P = ParamSpec("P")
T = TypeVar("T")


class StoreView:
    """What the store's file holds. For one event loop.

    Every method raises `ReplicaStoreError` if the file cannot be read.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, reader: DiskReader, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._reader = reader
        self._thread = thread
        self._closed = False

    async def namespaces(self) -> dict[bytes, bytes]:
        """The genesis of each namespace, by ID."""
        return await self._read(self._reader.namespaces)

    async def records(self, namespace: bytes, after: int = 0, limit: int = 10_000) -> list[tuple[int, Record]]:
        """Entries with row numbers above ``after``, in the order in which they came.

        Fewer than ``limit`` if they are large (`MAX_READ_SIZE`): only an empty list means that there are no more.
        """
        return await self._read(self._reader.records, namespace, after, limit)

    async def run(
        self, namespace: bytes, author: bytes, lane: int, first: int, last: int | None, max_bytes: int
    ) -> list[bytes]:
        """Raw entries of one author with consecutive sequence numbers from ``first`` to ``last`` (``None``: no end).

        They have ``max_bytes`` in all at most, but the first comes whatever its size. A gap ends them; without an
        entry ``first`` there are none.
        """
        end = MAX_SEQ if last is None else last
        return await self._read(self._reader.run, namespace, author, lane, first, end, max_bytes)

    async def row_after(self, namespace: bytes, chains: Sequence[tuple[bytes, int, int]]) -> int | None:
        """The first row of an entry that comes after one of those: each an author, a lane and a sequence number."""
        return await self._read(self._reader.row_after, namespace, chains)

    async def proofs(self, namespace: bytes) -> list[tuple[bytes, int, int, bytes, bytes]]:
        """Author, lane, sequence number and the two entries of each proof of fraud."""
        return await self._read(self._reader.proofs, namespace)

    async def snapshot(self, namespace: bytes) -> tuple[bytes, int] | None:
        """The namespace's snapshot and the last row that it covers."""
        return await self._read(self._reader.snapshot, namespace)

    async def base(self, namespace: bytes) -> tuple[bytes, int] | None:
        """The state of the checkpoint that stands for dropped entries, and the checkpoint's number."""
        return await self._read(self._reader.base, namespace)

    async def base_part(self, namespace: bytes, seq: int, offset: int, length: int) -> bytes:
        """A part of the state of checkpoint ``seq``; empty at its end, or if another one has replaced it."""
        return await self._read(self._reader.base_part, namespace, seq, offset, length)

    async def last_row(self, namespace: bytes) -> int:
        """The last row that entries of the namespace have; 0 if there are none."""
        return await self._read(self._reader.last_row, namespace)

    def _check_open(self) -> None:
        if self._closed:
            raise ReplicaStoreError(self.path, "it is closed")

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(function, *args, **kwargs))


@contextlib.asynccontextmanager
async def open_store_view(path: Path) -> AsyncIterator[StoreView]:
    """The file as it is now, whatever a node writes to it until the end of the block; nothing is written here.

    Meanwhile the node's log grows by all that it writes.

    Raises:
        ReplicaStoreError: It is not there, cannot be read, is damaged, or from another version.
    """
    path = path.absolute()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "lattica-store-view") as thread:
        database = await outlast(loop.run_in_executor(thread, open_snapshot, path))
        try:
            yield StoreView(path, DiskReader(path, database), thread)
        finally:
            await outlast(loop.run_in_executor(thread, database.close))
