"""What one replica does by itself, and the same by plain pycrdt: without signatures, rules, and a disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from pycrdt import Doc, Map

from benchmarks.store_documents import KEYS, ROOT, edits, entries_of, open_genesis
from lattica.background import background_tasks
from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey, PeerId
from lattica.store import Document, NamespaceId, SyncLink, open_store
from lattica.store.disk import Batch, StoreDisk, open_store_disk
from lattica.store.journal import Journal
from lattica.store.replica import Replica

WRITES = 500
WRITERS = 100
WRITES_EACH = 20
TOGETHER = 1000
"""Values in one transaction."""
TRANSACTIONS = 10
APPLIED = 10_000
FRAME = 500
"""Entries in a frame, as many as are sent in one."""


class Alone:
    """No network; implements `lattica.store.StorePeers` and `lattica.store.ReplicaRouting`."""

    def call(self, peer: PeerId) -> AbstractAsyncContextManager[SyncLink]:
        raise PeerUnreachableError(peer, {})

    async def genesis(self, peer: PeerId, namespace: bytes) -> bytes:
        raise PeerUnreachableError(peer, {})

    async def find(self, key: bytes) -> AsyncIterator[PeerId]:
        nobody: tuple[PeerId, ...] = ()
        for peer in nobody:
            yield peer

    async def announce(self, key: bytes) -> None:
        pass

    def withdraw(self, key: bytes) -> None:
        pass


@contextlib.asynccontextmanager
async def new_document(folder: Path) -> AsyncIterator[Document]:
    """A document of our own, on disk."""
    async with open_store(IdentityKey.generate(), folder / "documents.db", Alone(), Alone()) as store:
        yield await store.create("benchmark")


async def one_writer(folder: Path) -> float:
    """Writes per second, each durable before the next begins."""
    async with new_document(folder) as document:
        started = time.perf_counter()
        await _write(document, "a", WRITES)
        return WRITES / (time.perf_counter() - started)


async def many_writers(folder: Path) -> float:
    """Writes per second of many that write at the same time, each waiting for its own."""
    async with new_document(folder) as document:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for writer in range(WRITERS):
                tasks.create_task(_write(document, f"{writer}", WRITES_EACH))
        return WRITERS * WRITES_EACH / (time.perf_counter() - started)


async def _write(document: Document, name: str, count: int) -> None:
    for number in range(count):
        async with document.transaction():
            document.map("m")[f"{name}-{number % KEYS}"] = number


async def together(folder: Path) -> float:
    """Values per second, many in a transaction."""
    async with new_document(folder) as document:
        started = time.perf_counter()
        for number in range(TRANSACTIONS):
            async with document.transaction():
                values = document.map("m")
                for key in range(TOGETHER):
                    values[f"key-{key}"] = number
        return TRANSACTIONS * TOGETHER / (time.perf_counter() - started)


def plain_writes(_: Path) -> float:
    """Writes per second of pycrdt, each giving its update."""
    started = time.perf_counter()
    for _update in edits(1, APPLIED):
        pass
    return APPLIED / (time.perf_counter() - started)


def plain_together(_: Path) -> float:
    """Values per second of pycrdt, many in a transaction."""
    doc: Doc[Any] = Doc(client_id=1)
    shared = doc.get(ROOT, type=Map)
    started = time.perf_counter()
    for number in range(TRANSACTIONS):
        with doc.transaction():
            for key in range(TOGETHER):
                shared[f"key-{key}"] = float(number)
    return TRANSACTIONS * TOGETHER / (time.perf_counter() - started)


def append_and_sync(folder: Path) -> float:
    """Writes per second of 300 bytes at the end of a file, each synced: what the disk allows."""
    with (folder / "log").open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(WRITES):
            file.write(bytes(300))
            os.fdatasync(file.fileno())
        return WRITES / (time.perf_counter() - started)


async def apply(folder: Path) -> float:
    """Entries per second of another author's: checked, applied, durable."""
    author, me = IdentityKey.generate(), IdentityKey.generate()
    genesis = open_genesis(author)
    entries = [entry.raw for entry in entries_of(author, genesis, APPLIED)]
    async with open_store_disk(folder / "documents.db") as disk, background_tasks() as tasks:
        await _begin(disk, genesis.namespace, genesis.raw)
        journal = Journal(me, disk, Replica(genesis, me.peer_id.raw), tasks)
        started = time.perf_counter()
        for start in range(0, APPLIED, FRAME):
            await journal.receive(entries[start : start + FRAME])
        elapsed = time.perf_counter() - started
        assert sum(head.seq for head in journal.frontier.heads.values()) == APPLIED
        return APPLIED / elapsed


async def _begin(disk: StoreDisk, namespace: NamespaceId, raw: bytes) -> None:
    batch = Batch(namespace.raw)
    batch.genesis(raw)
    await disk.commit(batch)


def plain_apply(_: Path) -> float:
    """Updates per second that pycrdt applies."""
    return APPLIED / plain_apply_s(list(edits(1, APPLIED)))


def plain_apply_s(updates: Sequence[bytes]) -> float:
    """Seconds that pycrdt takes to apply updates."""
    doc: Doc[Any] = Doc(client_id=2)
    started = time.perf_counter()
    for update in updates:
        doc.apply_update(update)
    return time.perf_counter() - started
