"""Something goes wrong while a checkpoint takes the place of entries: all is as before, or nobody goes on with it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from held_calls import PATIENCE_S, Gate
from open_documents import Desk, key_of, open_desk, put, remove
from pycrdt import Doc, Map
from waiting import until

from lattica.background import background_tasks
from lattica.errors import ReplicaStoreError, StoreUsageError
from lattica.identity import IdentityKey
from lattica.store import Document, Policy, checkpoints
from lattica.store.disk import open_store_disk
from lattica.store.entry import Lane
from lattica.store.journal import Journal
from lattica.store.loading import load_replica
from lattica.store.namespace import Genesis, create_genesis
from lattica.store.replica import Replica
from lattica.store.snapshotter import SNAPSHOT_AT_CLOSE
from lattica.store.state import make_state
from lattica.store.testing import MemoryNetwork, converged

ALICE, BOB, CAROL = key_of(1), key_of(2), key_of(3)
LARGE = bytes(60_000)
"""Some of these make a state after which a snapshot is due."""


class FailingKey(IdentityKey):
    """Signs so many times, and fails then: whatever is to be written again cannot be.

    Attributes:
        left: How many times more.
        error: What it fails with.
    """

    left: float = math.inf
    error: Exception = StoreUsageError("the key is out of reach")

    def sign(self, message: bytes) -> bytes:
        if not self.left:
            raise self.error
        self.left -= 1
        return super().sign(message)


def failing_key(number: int) -> FailingKey:
    return FailingKey.from_seed(bytes((number,)) * 32)


@pytest.fixture
def genesis() -> Genesis:
    return create_genesis(ALICE, policy=Policy.OPEN)


@pytest.fixture
def making_state(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(make_state)
    monkeypatch.setattr(checkpoints, "make_state", gate)
    return gate


def values(desk: Desk) -> dict[str, object]:
    return {key: value for key, value in desk.document.map("m").items() if value != LARGE}


async def as_stored(desk: Desk) -> tuple[bytes, int, dict[str, Any]]:
    """What opening the document would find."""
    return told(await load_replica(desk.disk, desk.journal.genesis, desk.peer.raw))


def told(replica: Replica) -> tuple[bytes, int, dict[str, Any]]:
    frontier = replica.ledger.frontier()
    return frontier.digest(), replica.ledger.base, replica.ydoc.get("map:m", type=Map).to_py() or {}


async def delete(alice: Desk, *others: Desk) -> None:
    """A key is written and deleted, beside what makes a large state; others hear of it."""
    for number in range(6):
        await put(alice, f"large {number}", LARGE)
    await put(alice, "k", 1)
    await remove(alice, "k")
    for other in others:
        await other.hear(alice)


async def outrun(alice: Desk, bob: Desk) -> None:
    """The document is compacted, and the other writes that key without having heard of the checkpoint."""
    await delete(alice, bob)
    assert await alice.document.compact()
    await put(bob, "k", 2)


async def check_it_takes_no_more(desk: Desk) -> None:
    with pytest.raises(ReplicaStoreError, match="open it again"):
        await put(desk, "late", 1)
    with pytest.raises(ReplicaStoreError, match="open it again"):
        await desk.document.compact()


async def check_it_goes_on(alice: Desk, bob: Desk) -> None:
    """What was acknowledged before is there, and both come to hold the same."""
    bob.journal.upkeep.begin_due()
    await until(lambda: bob.journal.replica.ledger.base)
    assert values(bob) == {"k": 2}
    await put(bob, "later", 3)
    await alice.hear(bob)
    assert values(alice) == values(bob) == {"k": 2, "later": 3}
    assert alice.document.frontier() == bob.document.frontier()
    assert told(bob.journal.replica) == await as_stored(bob)


async def test_who_folds_and_fails_takes_no_more_and_is_as_before_when_it_is_opened_again(
    tmp_path: Path, genesis: Genesis
) -> None:
    key = failing_key(2)
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        async with open_desk(tmp_path / "bob", genesis, key) as bob:
            await outrun(alice, bob)
            changes = bob.document.changes()
            key.left = 0
            await bob.hear(alice)
            await until(lambda: bob.journal.commits.failure)
            with pytest.raises(ReplicaStoreError, match="the key is out of reach"):
                async with asyncio.timeout(PATIENCE_S):
                    [_ async for _ in changes]
            await check_it_takes_no_more(bob)
            before = await as_stored(bob)
            assert before[1] == 0
            assert before[2]["k"] == 2
        async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
            assert told(bob.journal.replica) == before
            await check_it_goes_on(alice, bob)


async def test_a_fold_that_fails_for_a_bug_ends_with_a_crash_and_all_that_was_acknowledged_is_there(
    tmp_path: Path, genesis: Genesis
) -> None:
    key = failing_key(2)
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:

        async def crash_folding() -> None:
            async with open_desk(tmp_path / "bob", genesis, key) as bob:
                await outrun(alice, bob)
                key.left, key.error = 0, RuntimeError("a bug")
                await bob.hear(alice)
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as crash:
            async with asyncio.timeout(PATIENCE_S):
                await crash_folding()
        assert crash.group_contains(RuntimeError, match="a bug")
        async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
            assert values(bob) == {"k": 2}
            assert bob.journal.replica.ledger.base == 0
            await check_it_goes_on(alice, bob)


async def test_a_document_that_fails_leaves_others_alone_and_catches_up_when_it_is_opened_again(tmp_path: Path) -> None:
    network, key = MemoryNetwork(), failing_key(2)
    async with network.open(ALICE, tmp_path) as home, network.open(key, tmp_path) as away:
        ours, other = await home.create(policy=Policy.OPEN), await home.create(policy=Policy.OPEN)
        theirs, others = await away.open(ours.namespace), await away.open(other.namespace)
        await write(ours, "k", 1)
        async with ours.transaction():
            del ours.map("m")["k"]
        await converged([ours, theirs])
        network.partition([ALICE.peer_id], [key.peer_id])
        assert await ours.compact()
        await write(theirs, "k", 2)
        key.left = 0
        network.heal()
        await until(lambda: theirs._journal.commits.failure)

        key.left = math.inf
        await write(ours, "later", 3)
        await write(others, "a", 1)
        await converged([other, others])
        with pytest.raises(ReplicaStoreError, match="open it again"):
            await write(theirs, "late", 1)
        await away.close(ours.namespace)
        theirs = await away.open(ours.namespace)
        await until(lambda: ours.state() == theirs.state() == {"map:m": {"k": 2, "later": 3}})
        await converged([ours, theirs])


async def write(document: Document, key: str, value: int) -> None:
    async with document.transaction():
        document.map("m")[key] = value


@pytest.mark.parametrize(
    ("error", "raised"),
    [(StoreUsageError("the key is out of reach"), ReplicaStoreError), (RuntimeError("a bug"), RuntimeError)],
)
async def test_an_owner_whose_compaction_fails_is_told_and_can_begin_anew(
    tmp_path: Path, genesis: Genesis, making_state: Gate, error: Exception, raised: type[Exception]
) -> None:
    key = failing_key(1)
    async with open_desk(tmp_path / "alice", genesis, key) as alice:
        await delete(alice)
        compacting = asyncio.create_task(alice.document.compact())
        await making_state.wait_reached()
        await put(alice, "k", 2)  # refers to what is left out
        key.left, key.error = 1, error  # enough for the checkpoint, but not for what is to be written again
        making_state.open()
        with pytest.raises(raised, match=str(error)[-5:]):
            await compacting
        await check_it_takes_no_more(alice)
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        assert values(alice) == {"k": 2}
        assert alice.journal.replica.ledger.base == 0
        assert not alice.journal.replica.ledger.rights.checkpoints
        await put(alice, "later", 3)
        assert await alice.document.compact()
        assert values(alice) == {"k": 2, "later": 3}
        assert told(alice.journal.replica) == await as_stored(alice)


async def test_a_checkpoint_that_cannot_be_signed_changes_nothing(tmp_path: Path, genesis: Genesis) -> None:
    key = failing_key(1)
    async with open_desk(tmp_path / "alice", genesis, key) as alice:
        await put(alice, "k", 1)
        before = told(alice.journal.replica)
        key.left, key.error = 0, RuntimeError("the key is out of reach")
        with pytest.raises(RuntimeError, match="out of reach"):
            await alice.document.compact()
        assert told(alice.journal.replica) == before == await as_stored(alice)
        key.left = math.inf
        await put(alice, "k", 2)
        assert await alice.document.compact()
        assert told(alice.journal.replica) == await as_stored(alice)
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        assert values(alice) == {"k": 2}


@pytest.mark.parametrize("error", [StoreUsageError("the key is out of reach"), RuntimeError("a bug")])
async def test_a_state_that_cannot_be_taken_over_changes_nothing_and_can_be_taken_over_later(
    tmp_path: Path, genesis: Genesis, error: Exception
) -> None:
    key = failing_key(2)
    async with (
        open_desk(tmp_path / "alice", genesis, ALICE) as alice,
        open_desk(tmp_path / "bob", genesis, key) as bob,
        open_desk(tmp_path / "carol", genesis, CAROL) as carol,
    ):
        await delete(alice, bob)
        await put(carol, "c", 1)
        await alice.hear(carol)
        assert await alice.document.compact()
        await put(bob, "k", 2)
        seq, raw = await heard_of_checkpoint(alice, bob)
        before = told(bob.journal.replica)
        key.left, key.error = 0, error
        with pytest.raises(type(error), match=str(error)[-5:]):
            await bob.journal.upkeep.checkpoints.adopt(seq, raw)
        assert told(bob.journal.replica) == before == await as_stored(bob)

        key.left = math.inf
        await put(bob, "b", 3)
        await bob.journal.upkeep.checkpoints.adopt(seq, raw)
        assert values(bob) == {"c": 1, "k": 2, "b": 3}
        await alice.hear(bob)
        assert alice.document.frontier() == bob.document.frontier()
        assert told(bob.journal.replica) == await as_stored(bob)


async def heard_of_checkpoint(alice: Desk, bob: Desk) -> tuple[int, bytes]:
    """The owner's checkpoint, which the other gets to know of but lacks entries for, and its state."""
    await bob.journal.receive(await stored(alice, Lane.CONTROL))
    found = await alice.disk.base(alice.document.namespace.raw)
    assert found is not None
    assert not bob.journal.replica.ledger.reaches(bob.journal.replica.ledger.rights.checkpoints[found[1]])
    return found[1], found[0]


async def stored(desk: Desk, lane: Lane) -> list[bytes]:
    records = await desk.disk.records(desk.document.namespace.raw)
    return [record.raw for _, record in records if record.lane == lane]


@pytest.mark.parametrize("lane", list(Lane))
async def test_what_comes_when_all_is_ending_is_in_no_snapshot(tmp_path: Path, genesis: Genesis, lane: Lane) -> None:
    """The owner's checkpoint, whose state is taken over, or data."""
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        await put(alice, "a", 1)
        data = await stored(alice, Lane.DATA)
        assert await alice.document.compact()
        control, base = await stored(alice, Lane.CONTROL), await alice.disk.base(genesis.namespace.raw)
    assert base is not None
    raw, seq = base
    async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
        await bob.journal.receive(control)
    async with open_store_disk(tmp_path / "bob") as disk:
        async with background_tasks() as tasks:
            journal = Journal(BOB, disk, await load_replica(disk, genesis, BOB.peer_id.raw), tasks)
            before = told(journal.replica)
        with pytest.raises(RuntimeError):
            await (journal.receive(data) if lane is Lane.DATA else journal.upkeep.checkpoints.adopt(seq, raw))
        assert told(journal.replica) != before, "only memory has it"
        journal.upkeep.added(SNAPSHOT_AT_CLOSE + 1)
        await journal.close()
        assert not await disk.snapshot(genesis.namespace.raw)
        assert told(await load_replica(disk, genesis, BOB.peer_id.raw)) == before


class FailingDoc(Doc[Any]):  # type: ignore[misc]
    """Takes one update, and no other: what is to be taken in with it is half in memory."""

    taken = 0

    def apply_update(self, update: bytes) -> None:
        self.taken += 1
        if self.taken > 1:
            raise RuntimeError("a bug")
        super().apply_update(update)


async def test_entries_that_were_taken_in_before_one_failed_are_in_no_snapshot(
    tmp_path: Path, genesis: Genesis
) -> None:
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
            before = await as_stored(bob)
            await put(alice, "a", 1)
            await put(alice, "b", 2)
            bob.journal.replica.ydoc = FailingDoc(client_id=bob.journal.replica.ydoc.client_id)
            with pytest.raises(RuntimeError, match="a bug"):
                await bob.hear(alice)
            assert bob.journal.replica.ledger.size == 2
            bob.journal.upkeep.added(SNAPSHOT_AT_CLOSE + 1)
            await check_it_takes_no_more(bob)
        async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
            assert told(bob.journal.replica) == before
            await bob.hear(alice)
            assert values(bob) == {"a": 1, "b": 2}
