"""Namespaces are opened by their snapshots: quickly, and never to find anything else than all entries say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from entry_forge import Forge
from ledger_replicas import SimReplica, key_of
from pycrdt import Map
from stored_journals import (
    Writer,
    open_journal,
    replayed,
    snapshot_size,
    state,
    stored_journal,
    told,
    wait_snapshot,
)

from lattica.identity import IdentityKey
from lattica.store import loading
from lattica.store.control import EVERYBODY, Revoke
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.journal import Journal
from lattica.store.loading import load_replica, record_of
from lattica.store.namespace import Genesis, Policy, create_genesis
from lattica.store.replica import Replica
from lattica.store.snapshotter import REST, SNAPSHOT_AFTER, SNAPSHOT_AT_CLOSE, Snapshotter

OWNER, WRITER = key_of(1), key_of(2)
OWN = OWNER.peer_id.raw
MANY = SNAPSHOT_AT_CLOSE + 1


@pytest.fixture
def genesis() -> Genesis:
    return create_genesis(OWNER, policy=Policy.OPEN)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[StoreDisk]:
    async with open_store_disk(tmp_path / "store") as disk:
        yield disk


async def set_key(journal: Journal, key: str, value: int) -> None:
    async with journal.transaction():
        journal.replica.ydoc.get("map:settings", type=Map)[key] = value


async def revoke(journal: Journal, author: IdentityKey, last: int) -> None:
    await journal.control(lambda _: [Revoke(author.peer_id.raw, EVERYBODY, last, 0)])


async def test_a_closed_namespace_is_opened_by_its_snapshot_and_what_came_after(
    disk: StoreDisk, genesis: Genesis
) -> None:
    writer = Writer(genesis, WRITER)
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(writer.write(MANY))
        await set_key(journal, "mine", 1)
    async with open_journal(disk, genesis, OWNER) as journal:
        assert journal.replica.snapshotted == MANY + 1
        await journal.receive(writer.write(10))
        await set_key(journal, "mine", 2)
        before = told(journal.replica)

    loaded = await load_replica(disk, genesis, OWN)

    assert (loaded.snapshotted, loaded.ledger.size) == (MANY + 1, MANY + 12)
    assert told(loaded) == before == told(await replayed(disk, genesis, OWN))


async def test_a_small_namespace_has_no_snapshot(disk: StoreDisk, genesis: Genesis) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY - 1))

    assert await disk.snapshot(genesis.namespace.raw) is None


@pytest.mark.slow
async def test_a_snapshot_is_made_while_entries_come_and_go_on_coming(disk: StoreDisk, genesis: Genesis) -> None:
    writer = Writer(genesis, WRITER)
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(writer.write(SNAPSHOT_AFTER + 1))
        for number in range(20):
            await set_key(journal, "mine", number)
        await wait_snapshot(disk, genesis)

        assert SNAPSHOT_AFTER < await snapshot_size(disk, genesis, OWN) <= SNAPSHOT_AFTER + 21
        assert told(await load_replica(disk, genesis, OWN)) == told(journal.replica)


async def test_without_a_snapshot_some_entries_at_a_time_are_in_memory(
    disk: StoreDisk, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(50))
        await set_key(journal, "mine", 1)
        before = told(journal.replica)
    most = 0
    go_on = loading._go_on

    def count(replica: Replica, entries: Sequence[Entry]) -> bool:
        nonlocal most
        most = max(most, len(entries))
        return go_on(replica, entries)

    monkeypatch.setattr(disk, "records", partial(disk.records, limit=7))
    monkeypatch.setattr(loading, "_go_on", count)
    monkeypatch.delattr(loading, "stored_entries")
    loaded = await load_replica(disk, genesis, OWN)

    assert (told(loaded), most) == (before, 7)


async def test_an_entry_that_skips_others_is_weighed_with_all_of_them(disk: StoreDisk) -> None:
    forge = Forge(Policy.OPEN)
    one, skipped = forge.write(WRITER), forge.write(WRITER)
    batch = Batch(forge.namespace.raw)
    batch.genesis(forge.genesis.raw)
    for entry in (one, skipped, forge.resumed(WRITER, one, 5)):
        batch.put(record_of(entry))
    await disk.commit(batch)

    loaded = await load_replica(disk, forge.genesis, OWN)

    assert [loaded.ledger.chain(one.chain).mark(seq) is not None for seq in (1, 2, 5)] == [True, False, True]
    assert told(loaded) == told(await replayed(disk, forge.genesis, OWN))


async def test_snapshots_take_a_tenth_of_the_time(disk: StoreDisk, genesis: Genesis) -> None:
    replica = Replica(genesis, OWN)
    snapshotter = Snapshotter(disk, replica)
    snapshotter.since = SNAPSHOT_AFTER + 1
    assert snapshotter.due_in(replica, now=0.0) == 0.0

    snapshotter.took(2.0, now=2.0)

    assert snapshotter.due_in(replica, now=3.0) == 2.0 * REST - 1.0
    assert snapshotter.due_in(replica, now=3.0 + 2.0 * REST) == 0.0
    snapshotter.since = SNAPSHOT_AFTER
    assert snapshotter.due_in(replica, now=3.0 + 2.0 * REST) is None


async def test_a_snapshot_that_has_to_rest_is_made_afterwards_though_nothing_more_is_written(
    disk: StoreDisk, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = [0.05, 0.0]
    monkeypatch.setattr(Snapshotter, "due_in", lambda *_: waits.pop(0) if waits else None)
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(5))
        await wait_snapshot(disk, genesis)

        assert await snapshot_size(disk, genesis, OWN) == 5


async def test_a_closed_document_makes_no_snapshot_later(
    disk: StoreDisk, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Snapshotter, "due_in", lambda *_: 3600.0)
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(5))
        resting = journal.upkeep._resting

    assert resting is not None
    assert resting.cancelled()


@pytest.mark.slow
async def test_a_revocation_voids_the_snapshot_that_is_being_made(disk: StoreDisk, genesis: Genesis) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(SNAPSHOT_AFTER + 1))
        await revoke(journal, WRITER, 5)
        before = told(journal.replica)

    loaded = await load_replica(disk, genesis, OWN)

    assert await snapshot_size(disk, genesis, OWN) == 0
    assert (loaded.snapshotted, loaded.ledger.size) == (0, 6)
    assert told(loaded) == before


async def test_a_proven_fraud_voids_the_snapshot(disk: StoreDisk, genesis: Genesis) -> None:
    one, other = Writer(genesis, WRITER), Writer(genesis, WRITER, prefix="other key")
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(one.write(MANY))
    async with open_journal(disk, genesis, OWNER) as journal:
        assert journal.replica.snapshotted == MANY
        await journal.receive(other.write(1))
        before = told(journal.replica)

    loaded = await load_replica(disk, genesis, OWN)

    assert await disk.snapshot(genesis.namespace.raw) == (b"", 0)
    assert loaded.ledger.size == 0
    assert told(loaded) == before


@pytest.mark.parametrize("at", [0, 5, -1])
async def test_a_damaged_snapshot_is_done_without_and_replaced(disk: StoreDisk, genesis: Genesis, at: int) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY))
        before = told(journal.replica)
    raw, row = await disk.snapshot(genesis.namespace.raw) or (b"", 0)
    damaged = bytearray(raw)
    damaged[at] ^= 1
    batch = Batch(genesis.namespace.raw)
    batch.snapshot(bytes(damaged), row)
    await disk.commit(batch)

    async with open_journal(disk, genesis, OWNER) as journal:
        assert (journal.replica.snapshotted, told(journal.replica)) == (0, before)
    assert await snapshot_size(disk, genesis, OWN) == MANY


async def test_entries_that_change_what_counts_before_them_are_not_put_on_a_snapshot(
    disk: StoreDisk, genesis: Genesis
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY))
    owner = SimReplica(genesis, OWNER)
    revocation = owner.replica.control(OWNER, Revoke(WRITER.peer_id.raw, EVERYBODY, 7, 0), 1)
    batch = Batch(genesis.namespace.raw)
    batch.put(record_of(revocation))
    await disk.commit(batch)

    loaded = await load_replica(disk, genesis, OWN)

    assert loaded.snapshotted == 0
    assert loaded.ledger.chain(ChainId(WRITER.peer_id.raw, Lane.DATA)).head == 7


async def test_what_is_no_entry_does_not_get_into_a_snapshot(disk: StoreDisk, genesis: Genesis) -> None:
    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY))
        journal.replica.ydoc.get("map:settings", type=Map)["stray"] = 1

    assert "stray" not in state((await load_replica(disk, genesis, OWN)).ydoc)


async def test_a_transaction_that_was_given_up_twice_does_not_get_into_a_snapshot(
    disk: StoreDisk, genesis: Genesis
) -> None:
    writing = asyncio.Event()

    async def write(journal: Journal) -> None:
        async with journal.transaction():
            del journal.replica.ydoc.get("map:settings", type=Map)["key 1"]
            writing.set()
            await asyncio.Event().wait()

    async with open_journal(disk, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY))
        task = asyncio.create_task(write(journal))
        await writing.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert "key 1" in state(journal.replica.ydoc), "cancelled again, it is undone all the same"

    assert "key 1" in state((await load_replica(disk, genesis, OWN)).ydoc)


async def test_a_replica_whose_identity_has_changed_has_no_snapshot(tmp_path: Path, genesis: Genesis) -> None:
    path = tmp_path / "store"
    async with stored_journal(path, genesis, OWNER) as journal:
        await journal.receive(Writer(genesis, WRITER).write(MANY))
    async with stored_journal(path, genesis, key_of(3)) as journal:
        assert journal.replica.snapshotted == 0
        await set_key(journal, "mine", 1)
    async with stored_journal(path, genesis, key_of(3)) as journal:
        assert journal.replica.snapshotted == MANY + 1
        await set_key(journal, "mine", 2)
        assert state(journal.replica.ydoc)["mine"] == 2
