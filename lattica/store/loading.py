"""Between entries and the disk: what a batch holds, and a replica of what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from blake3 import blake3

from lattica.errors import EntryRefusedError
from lattica.store.absorb import Absorbed
from lattica.store.disk_batch import Batch, Record
from lattica.store.disk_view import StoreView
from lattica.store.entry import ChainId, Entry, Lane, read_entry
from lattica.store.ledger import Base, Fraud, Verdict
from lattica.store.namespace import Genesis, NamespaceId
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.settle import Settled, settle
from lattica.store.snapshot import load_snapshot
from lattica.store.state import read_state


def record_of(entry: Entry) -> Record:
    """An entry as the disk keeps it."""
    body = entry.body
    return Record(body.author, body.lane, body.seq, entry.hash, entry.raw)


def batch_of(namespace: NamespaceId, settled: Settled) -> Batch:
    """What is to become durable."""
    batch = Batch(namespace.raw)
    if settled.replayed:
        batch.snapshot(b"", 0)
    for chain, first, last in _ranges(settled.drop):
        batch.drop(chain.author, chain.lane, first, last)
    for entry in settled.put:
        batch.put(record_of(entry))
    for chain, fraud in settled.frauds.items():
        batch.proof(chain.author, chain.lane, fraud.seq, fraud.one, fraud.other)
    return batch


def _ranges(entries: Sequence[Entry]) -> list[tuple[ChainId, int, int]]:
    """Chain, first and last number of runs without gaps."""
    found: list[tuple[ChainId, int, int]] = []
    for chain, seq in sorted((entry.chain, entry.body.seq) for entry in entries):
        if found and found[-1][0] == chain and found[-1][2] == seq - 1:
            found[-1] = (chain, found[-1][1], seq)
        else:
            found.append((chain, seq, seq))
    return found


LARGE = 2000
"""Entries, or items of a state, from which on working through them takes so long that it is done in a thread."""

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call something that works through ``size`` entries or so, in a thread if that takes long.

    Python runs one thread at a time, but lets others have their turn.
    """
    if size < LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


async def stored_entries(disk: StoreView, namespace: NamespaceId, after: int = 0) -> list[Entry]:
    """All entries on disk with row numbers above ``after``, in order. Their signatures were checked before."""
    return [entry async for entries in _entries(disk, namespace, after) for entry in entries]


async def _entries(disk: StoreView, namespace: NamespaceId, after: int = 0) -> AsyncIterator[list[Entry]]:
    """The entries on disk with row numbers above ``after``, in order, some at a time."""
    while records := await disk.records(namespace.raw, after):
        yield [read_entry(record.raw, namespace) for _, record in records]
        after = records[-1][0]


def _size(entries: Sequence[Entry], base: Base | None) -> int:
    return len(entries) + (len(base.state.update) // 16 if base is not None else 0)


async def settled(
    replica: Replica,
    absorbed: Absorbed,
    frauds: Mapping[ChainId, Fraud],
    stored: Sequence[Entry],
    base: Base | None,
) -> Settled:
    """What `settle` says, without holding up the loop for long."""
    return await off_loop(_size(stored, base), settle, replica, absorbed, frauds, stored, base)


async def stored_base(disk: StoreView, genesis: Genesis) -> Base | None:
    """The state on disk that stands for entries that are not."""
    raw, seq = await disk.base(genesis.namespace.raw) or (b"", 0)
    return Base(seq, read_state(raw, blake3(raw).digest())) if seq else None


async def load_replica(disk: StoreView, genesis: Genesis, own: bytes) -> Replica:
    """What counts of what is on disk: by the snapshot, if there is one, and what came after it, one by one.

    Where that is not all that there is to it, as after a revocation, by all entries at once.
    """
    frozen = {
        ChainId(author, lane): Fraud(seq, one, other)
        for author, lane, seq, one, other in await disk.proofs(genesis.namespace.raw)
    }
    replica = await _one_by_one(disk, genesis, own, frozen)
    if replica is not None:
        return replica
    base = await stored_base(disk, genesis)
    entries = await stored_entries(disk, genesis.namespace)
    replayed, _ = await off_loop(_size(entries, base), replay, genesis, own, frozen, entries, base)
    return replayed


async def _one_by_one(disk: StoreView, genesis: Genesis, own: bytes, frozen: Mapping[ChainId, Fraud]) -> Replica | None:
    """The replica, if every entry from the snapshot on, or from the beginning, is plainly added."""
    raw, row = await disk.snapshot(genesis.namespace.raw) or (b"", 0)
    replica = load_snapshot(genesis, own, frozen, raw) if raw else None
    if replica is None:
        base = await stored_base(disk, genesis)
        row, replica = 0, await off_loop(_size((), base), Replica, genesis, own, frozen, base)
    async for entries in _entries(disk, genesis.namespace, row):
        if not await off_loop(len(entries), _go_on, replica, entries):
            return None
    return replica


def _go_on(replica: Replica, entries: Sequence[Entry]) -> bool:
    return all(_goes_on(replica, entry) for entry in entries)


def _goes_on(replica: Replica, entry: Entry) -> bool:
    """Add an entry that came later; whether nothing else follows from it."""
    try:
        added = replica.add(entry) is Verdict.ADDED
    except EntryRefusedError:
        return False
    if added and entry.body.author == replica.own:
        replica.used(Lane(entry.body.lane), entry.body.seq)
    return added
