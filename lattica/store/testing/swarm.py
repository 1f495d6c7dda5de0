"""Many replicas in one process, to see what it costs to keep them alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lattica.store.document import Document
from lattica.store.namespace import NamespaceId, Policy
from lattica.store.replicator import DEGREE
from lattica.store.store import ReplicatedStore
from lattica.store.testing.network import MemoryNetwork, converged, key_of

MEET_S = 60.0
CONVERGE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What replicas have sent to get some writes to all.

    Attributes:
        replicas: How many they were.
        writes: How many writes.
        sent: Bytes of all frames of all replicas.
        frames: How many those were.
        entries: Bytes of the entries that were written.
        sessions: Streams of one replica with others, on average.
        seconds: From the first write until the last was everywhere, in all rounds.
    """

    replicas: int
    writes: int
    sent: int
    frames: int
    entries: int
    sessions: float
    seconds: float

    @property
    def bytes_each(self) -> float:
        """Bytes that one replica has sent for one write."""
        return self.sent / self.replicas / self.writes

    @property
    def frames_each(self) -> float:
        """Frames that one replica has sent for one write."""
        return self.frames / self.replicas / self.writes

    @property
    def entry(self) -> float:
        """Bytes of an entry: what each replica but the author's has to be sent once."""
        return self.entries / self.writes


async def measure_traffic(folder: Path, replicas: int, *, writers: int, rounds: int) -> Traffic:
    """Have some of the replicas write at the same time, wait until all know it, and so on."""
    network = MemoryNetwork()
    async with contextlib.AsyncExitStack() as stack:
        keys = [key_of(number + 1) for number in range(replicas)]
        stores = [await stack.enter_async_context(network.open(key, folder)) for key in keys]
        first = await stores[0].create(policy=Policy.OPEN)
        documents = [first, *[await store.open(first.namespace) for store in stores[1:]]]
        await _all_meet(stores, first.namespace)
        await _write_round(documents[:writers], 0)
        await converged(documents, CONVERGE_S)
        entries = sum([await _entry_bytes(store, first.namespace) for store in stores[:1]])
        network.sent.clear()
        network.frames.clear()
        seconds = 0.0
        for number in range(1, rounds + 1):
            await _write_round(documents[:writers], number)
            seconds += await converged(documents, CONVERGE_S)
        sent, frames = network.sent.total(), network.frames.total()
        return Traffic(
            replicas=replicas,
            writes=writers * rounds,
            sent=sent,
            frames=frames,
            entries=await _entry_bytes(stores[0], first.namespace) - entries,
            sessions=sum(len(_peers(store, first.namespace)) for store in stores) / replicas,
            seconds=seconds,
        )


async def _write_round(documents: Sequence[Document], number: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for writer, document in enumerate(documents):
            tasks.create_task(_write(document, f"key-{writer}", number))


async def _write(document: Document, key: str, number: int) -> None:
    async with document.transaction():
        document.map("m")[key] = number


async def _all_meet(stores: Sequence[ReplicatedStore], namespace: NamespaceId) -> None:
    """Wait until each replica is in touch with as many as it wants to be."""
    wanted = min(DEGREE, len(stores) - 1)
    async with asyncio.timeout(MEET_S):
        while any(len(_peers(store, namespace)) < wanted for store in stores):
            await asyncio.sleep(0.05)


def _peers(store: ReplicatedStore, namespace: NamespaceId) -> Sequence[object]:
    replicator = store.replicator_of(namespace)
    return [] if replicator is None else replicator.peers


async def _entry_bytes(store: ReplicatedStore, namespace: NamespaceId) -> int:
    total, row = 0, 0
    while records := await store.disk.records(namespace.raw, row):
        total += sum(len(record.raw) for _, record in records)
        row = records[-1][0]
    return total
