"""Between entries and the disk: what a batch holds, and a replica of what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch, Record
from lattica.store.entry import ChainId, Entry, read_entry
from lattica.store.ledger import Fraud
from lattica.store.namespace import Genesis, NamespaceId
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.settle import Settled


def record_of(entry: Entry) -> Record:
    """An entry as the disk keeps it."""
    body = entry.body
    return Record(body.author, body.lane, body.seq, entry.hash, entry.raw)


def batch_of(namespace: NamespaceId, settled: Settled) -> Batch:
    """What is to become durable."""
    batch = Batch(namespace.raw)
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


async def stored_entries(disk: StoreDisk, namespace: NamespaceId) -> list[Entry]:
    """All entries on disk, in order. Their signatures were checked before they got there."""
    entries: list[Entry] = []
    row = 0
    while records := await disk.records(namespace.raw, row):
        entries += [read_entry(record.raw, namespace) for _, record in records]
        row = records[-1][0]
    return entries


async def load_replica(disk: StoreDisk, genesis: Genesis, own: bytes) -> Replica:
    """What counts of what is on disk."""
    frozen = {
        ChainId(author, lane): Fraud(seq, one, other)
        for author, lane, seq, one, other in await disk.proofs(genesis.namespace.raw)
    }
    replica, _ = replay(genesis, own, frozen, await stored_entries(disk, genesis.namespace))
    return replica
