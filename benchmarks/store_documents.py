"""Documents to measure with: entries as an author would have written them, without waiting for a disk each time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from pycrdt import Doc, Map, TransactionEvent

from lattica.identity import IdentityKey
from lattica.store.chain import client_id
from lattica.store.clock import HybridClock
from lattica.store.disk import Batch, open_store_disk
from lattica.store.entry import Body, Dep, Entry, Kind, Lane, sign_entry
from lattica.store.loading import record_of
from lattica.store.namespace import Genesis, Policy, create_genesis

ROOT = "map:m"
KEYS = 1000
"""Keys that are written, in turn: a document of state, not of history."""
BATCH = 5000


def open_genesis(key: IdentityKey) -> Genesis:
    """A new namespace in which everybody may write."""
    return create_genesis(key, title="benchmark", policy=Policy.OPEN)


def edits(client: int, count: int) -> Iterator[bytes]:
    """The update of each of so many writes of one small value, by plain pycrdt."""
    doc: Doc[Map[float]] = Doc(client_id=client)
    shared = doc.get(ROOT, type=Map)
    updates: list[bytes] = []

    def note(event: TransactionEvent) -> None:
        updates.append(event.update)

    doc.observe(note)
    for number in range(count):
        shared[f"key-{number % KEYS}"] = float(number)
        yield updates.pop()


class EntryWriter:
    """Signs one author's entries, from the first one on.

    Attributes:
        last: The latest one.
    """

    def __init__(self, key: IdentityKey, genesis: Genesis) -> None:
        self.last: Entry | None = None
        self._key = key
        self._namespace = genesis.namespace
        self._clock = HybridClock()

    def write(self, update: bytes, deps: tuple[Dep, ...] = ()) -> Entry:
        """The next entry, which depends on those."""
        after, prev = (self.last.body.seq, self.last.hash) if self.last is not None else (0, self._namespace.raw)
        body = Body(
            author=self._key.peer_id.raw,
            lane=Lane.DATA,
            kind=Kind.UPDATE,
            seq=after + 1,
            after=after,
            prev=prev,
            time=self._clock.tick(time.time()),
            deps=deps,
            payload=update,
        )
        self.last = sign_entry(self._key, self._namespace, body)
        return self.last


def entries_of(key: IdentityKey, genesis: Genesis, count: int) -> Iterator[Entry]:
    """An author's first entries, one write each."""
    writer = EntryWriter(key, genesis)
    return map(writer.write, edits(client_id(genesis.namespace, key.peer_id.raw, 1), count))


def plain_update(keys: Sequence[IdentityKey], genesis: Genesis, count: int) -> bytes:
    """The same writes as `write_document`'s in a document of plain pycrdt, as one update."""
    doc: Doc[Map[float]] = Doc(client_id=1)
    for key in keys:
        for update in edits(client_id(genesis.namespace, key.peer_id.raw, 1), count // len(keys)):
            doc.apply_update(update)
    whole: bytes = doc.get_update()
    return whole


async def write_document(path: Path, keys: Sequence[IdentityKey], count: int) -> Genesis:
    """A store's file with one document of so many entries, written by authors that have not heard of each other.

    The first one owns it.
    """
    genesis = open_genesis(keys[0])
    await store_entries(path, genesis, chain(*(entries_of(key, genesis, count // len(keys)) for key in keys)))
    return genesis


async def store_entries(path: Path, genesis: Genesis, entries: Iterable[Entry]) -> None:
    """Write a store's file with one document of these entries."""
    left = iter(entries)
    async with open_store_disk(path) as disk:
        batch = Batch(genesis.namespace.raw)
        batch.genesis(genesis.raw)
        await disk.commit(batch)
        while some := list(islice(left, BATCH)):
            batch = Batch(genesis.namespace.raw)
            for entry in some:
                batch.put(record_of(entry))
            await disk.commit(batch)
