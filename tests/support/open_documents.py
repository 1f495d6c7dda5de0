"""Documents of one namespace on disks of their own, which hear of each other's entries as the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from lattica.background import background_tasks
from lattica.identity import IdentityKey
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.document import Document
from lattica.store.journal import Journal
from lattica.store.loading import load_replica
from lattica.store.namespace import Genesis


def key_of(number: int) -> IdentityKey:
    return IdentityKey.from_seed(bytes((number,)) * 32)


class Desk:
    """An open document, and the clock that it reads: the time of day and ``ahead`` seconds.

    Attributes:
        ahead: How many.
        stopped: The time of day at which the clock stands still; ``None`` while it goes.
    """

    def __init__(self, key: IdentityKey, disk: StoreDisk) -> None:
        self.key = key
        self.peer = key.peer_id
        self.disk = disk
        self.ahead = 0.0
        self.stopped: float | None = None
        self.journal: Journal
        self.document: Document

    def now(self) -> float:
        return (time.time() if self.stopped is None else self.stopped) + self.ahead

    async def hear(self, other: Desk) -> None:
        """Take in all that the other has stored."""
        records = await other.disk.records(other.document.namespace.raw)
        received = await self.journal.receive([record.raw for _, record in records])
        assert not received.refused


def stop_clocks(*desks: Desk) -> None:
    """Let the time of day be the same to all from now on, however long something takes; ``ahead`` moves it."""
    now = time.time()
    for desk in desks:
        desk.stopped = now


def advance(seconds: float, *desks: Desk) -> None:
    """Let so much time pass for all."""
    for desk in desks:
        desk.ahead += seconds


async def put(desk: Desk, key: str, value: Any) -> None:
    """Write a key of the map ``m``."""
    async with desk.document.transaction():
        desk.document.map("m")[key] = value


async def remove(desk: Desk, key: str) -> None:
    """Delete it."""
    async with desk.document.transaction():
        del desk.document.map("m")[key]


@contextlib.asynccontextmanager
async def open_desk(path: Path, genesis: Genesis, key: IdentityKey, *, ahead: float = 0.0) -> AsyncIterator[Desk]:
    async with open_store_disk(path) as disk, background_tasks() as tasks:
        batch = Batch(genesis.namespace.raw)
        batch.genesis(genesis.raw)
        await disk.commit(batch)
        desk = Desk(key, disk)
        desk.ahead = ahead
        replica = await load_replica(disk, genesis, key.peer_id.raw)
        desk.journal = Journal(key, disk, replica, tasks, now=desk.now)
        desk.document = Document(desk.journal)
        try:
            yield desk
        finally:
            await desk.journal.close()


@contextlib.asynccontextmanager
async def following(follower: Desk, other: Desk) -> AsyncIterator[None]:
    """In this block the follower hears at once of all that the other writes."""
    news = asyncio.Event()
    news.set()

    async def follow() -> None:
        while True:
            await news.wait()
            news.clear()
            await follower.hear(other)

    unsubscribe = other.journal.commits.subscribe(news.set)
    try:
        async with background_tasks() as tasks:
            tasks.start(follow())
            yield
    finally:
        unsubscribe()
