"""Journals on real disks, and entries for them that somebody has written elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ledger_replicas import NOW
from pycrdt import Doc, Map

from lattica.background import background_tasks
from lattica.identity import IdentityKey
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.journal import Journal
from lattica.store.loading import load_replica, stored_entries
from lattica.store.namespace import Genesis
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.snapshot import load_snapshot


@contextlib.asynccontextmanager
async def open_journal(disk: StoreDisk, genesis: Genesis, key: IdentityKey) -> AsyncIterator[Journal]:
    """A journal, closed at the end of the block."""
    batch = Batch(genesis.namespace.raw)
    batch.genesis(genesis.raw)
    await disk.commit(batch)
    async with background_tasks() as tasks:
        journal = Journal(key, disk, await load_replica(disk, genesis, key.peer_id.raw), tasks)
        try:
            yield journal
        finally:
            await journal.close()


@contextlib.asynccontextmanager
async def stored_journal(path: Path, genesis: Genesis, key: IdentityKey) -> AsyncIterator[Journal]:
    """A journal with a disk of its own."""
    async with open_store_disk(path) as disk, open_journal(disk, genesis, key) as journal:
        yield journal


class Writer:
    """An author somewhere else, who sets keys of a map."""

    def __init__(self, genesis: Genesis, key: IdentityKey, *, prefix: str = "key") -> None:
        self._key = key
        self._prefix = prefix
        self._replica = Replica(genesis, key.peer_id.raw)
        self._updates: list[bytes] = []
        self._replica.ydoc.observe(lambda event: self._updates.append(event.update))
        self._settings = self._replica.ydoc.get("map:settings", type=Map)

    def write(self, count: int) -> list[bytes]:
        """So many entries more, as sent."""
        raws = []
        for number in range(count):
            self._settings[f"{self._prefix} {number % 50}"] = number
            entry = self._replica.write(self._key, self._updates.pop(), NOW)
            self._replica.add_own(entry)
            raws.append(entry.raw)
        return raws


def state(ydoc: Doc[Any]) -> dict[str, Any]:
    """What the map holds."""
    return dict(ydoc.get("map:settings", type=Map).to_py())


def told(replica: Replica) -> tuple[object, ...]:
    """What can be told of a replica from outside."""
    return replica.ledger.frontier().digest(), state(replica.ydoc), replica.tops


async def snapshot_size(disk: StoreDisk, genesis: Genesis, own: bytes) -> int:
    """How many entries the snapshot on disk holds; 0 if there is none, or none that is good."""
    raw, _ = await disk.snapshot(genesis.namespace.raw) or (b"", 0)
    replica = load_snapshot(genesis, own, {}, raw)
    return 0 if replica is None else replica.snapshotted


async def wait_snapshot(disk: StoreDisk, genesis: Genesis) -> None:
    """Until there is one, within a minute."""
    async with asyncio.timeout(60):
        while not (await disk.snapshot(genesis.namespace.raw) or (b"", 0))[0]:
            await asyncio.sleep(0.01)


async def replayed(disk: StoreDisk, genesis: Genesis, own: bytes) -> Replica:
    """A replica of all entries on disk, whatever snapshots say. Without proven frauds."""
    replica, _ = replay(genesis, own, {}, await stored_entries(disk, genesis.namespace))
    return replica
