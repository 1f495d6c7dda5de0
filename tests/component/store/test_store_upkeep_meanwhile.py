"""Checkpoints and snapshots are made while others write: what comes meanwhile is kept, and what it undoes is undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from held_calls import PATIENCE_S, Gate
from ledger_replicas import key_of
from pycrdt import Map
from stored_journals import Writer, open_journal, state, wait_snapshot

from lattica.store import checkpoints, snapshotter
from lattica.store.control import EVERYBODY, Revoke
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.entry import Lane
from lattica.store.journal import Journal
from lattica.store.loading import load_replica, stored_entries
from lattica.store.namespace import Genesis, Policy, create_genesis
from lattica.store.replica import Replica
from lattica.store.snapshot import bury_replaced
from lattica.store.snapshotter import SNAPSHOT_AFTER
from lattica.store.state import make_state

OWNER, WRITER, LATE = key_of(1), key_of(2), key_of(3)
OWN = OWNER.peer_id.raw


@pytest.fixture
def genesis() -> Genesis:
    return create_genesis(OWNER, policy=Policy.OPEN)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[StoreDisk]:
    async with open_store_disk(tmp_path / "store") as disk:
        yield disk


@pytest.fixture
def making_state(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(make_state)
    monkeypatch.setattr(checkpoints, "make_state", gate)
    return gate


@pytest.fixture
def burying(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(bury_replaced)
    monkeypatch.setattr(snapshotter, "bury_replaced", gate)
    return gate


async def set_key(journal: Journal, key: str, value: int) -> None:
    async with journal.transaction():
        journal.replica.ydoc.get("map:settings", type=Map)[key] = value


def told(replica: Replica) -> tuple[bytes, dict[str, Any]]:
    """How far a replica goes, and what it holds."""
    return replica.ledger.frontier().digest(), state(replica.ydoc)


async def data_on(disk: StoreDisk, genesis: Genesis) -> list[tuple[bytes, int]]:
    entries = await stored_entries(disk, genesis.namespace)
    return [(entry.body.author, entry.body.seq) for entry in entries if entry.body.lane is Lane.DATA]


async def test_writers_go_on_while_a_state_is_made(disk: StoreDisk, genesis: Genesis, making_state: Gate) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(20))
        await set_key(journal, "before", 1)
        compacting = asyncio.create_task(journal.upkeep.checkpoints.compact())
        await making_state.wait_reached()
        await set_key(journal, "meanwhile", 2)
        making_state.open()
        assert await compacting

        assert await data_on(disk, genesis) == [(OWN, 2)], "what is beyond the cut is kept, and nothing else"
        assert told(await load_replica(disk, genesis, OWN)) == told(journal.replica)
        assert await journal.upkeep.checkpoints.compact()
        assert await data_on(disk, genesis) == []
        assert told(await load_replica(disk, genesis, OWN)) == told(journal.replica)


async def test_what_was_revoked_while_a_state_was_made_is_not_in_it(
    disk: StoreDisk, genesis: Genesis, making_state: Gate
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(20))
        compacting = asyncio.create_task(journal.upkeep.checkpoints.compact())
        await making_state.wait_reached()
        await journal.control(lambda _: [Revoke(WRITER.peer_id.raw, EVERYBODY, 5, 0)])
        making_state.open()
        assert await compacting

        [checkpoint] = journal.replica.ledger.rights.checkpoints.values()
        assert [(cut.author, cut.seq) for cut in checkpoint.cut] == [(WRITER.peer_id.raw, 5)]
        assert told(await load_replica(disk, genesis, OWN)) == told(journal.replica)
        assert told(journal.replica)[1] == {f"key {number}": number for number in range(5)}


async def test_of_two_compactions_at_a_time_one_finds_nothing_to_do(
    disk: StoreDisk, genesis: Genesis, making_state: Gate
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(20))
        both = [asyncio.create_task(journal.upkeep.checkpoints.compact()) for _ in range(2)]
        await making_state.wait_reached()
        making_state.open()
        assert sorted(await asyncio.gather(*both)) == [False, True]
        assert len(journal.replica.ledger.rights.checkpoints) == 1


@pytest.mark.slow
async def test_a_running_node_lets_go_of_what_was_replaced_once_it_is_in_a_snapshot(
    disk: StoreDisk, genesis: Genesis, burying: Gate
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(SNAPSHOT_AFTER + 1))
        await burying.wait_reached()
        size = len(journal.replica.ydoc.get_update())
        await set_key(journal, "key 1", -1)
        burying.open()
        await wait_snapshot(disk, genesis)

        assert journal.replica.content().graves is not None
        assert len(journal.replica.ydoc.get_update()) < size // 20
        await set_key(journal, "key 2", -2)
        assert (told(journal.replica)[1]["key 1"], told(journal.replica)[1]["key 2"]) == (-1, -2)
        assert told(await load_replica(disk, genesis, OWN)) == told(journal.replica)


@pytest.mark.slow
async def test_a_document_stays_whole_if_somebody_asks_for_what_is_being_buried(
    disk: StoreDisk, genesis: Genesis, burying: Gate
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(SNAPSHOT_AFTER + 1))
        await burying.wait_reached()
        await journal.receive(Writer(genesis, LATE).write(3))  # of keys that have values, which it has not seen
        burying.open()
        await wait_snapshot(disk, genesis)

        assert journal.replica.content().graves is None
        loaded = await load_replica(disk, genesis, OWN)
        assert loaded.snapshotted
        assert told(loaded) == told(journal.replica)


@pytest.mark.slow
async def test_a_snapshot_that_is_being_made_is_kept_when_the_document_is_closed(
    disk: StoreDisk, genesis: Genesis, burying: Gate
) -> None:
    async with open_journal(disk, genesis, OWNER) as journal, asyncio.timeout(PATIENCE_S):
        await journal.receive(Writer(genesis, WRITER).write(SNAPSHOT_AFTER + 1))
        await burying.wait_reached()
        closing = asyncio.create_task(journal.close())
        await asyncio.sleep(0)
        burying.open()
        await closing
        before = told(journal.replica)

    loaded = await load_replica(disk, genesis, OWN)
    assert loaded.snapshotted == SNAPSHOT_AFTER + 1
    assert told(loaded) == before
