"""An owner whose checkpoint is not what the entries say is found out, and programs are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from open_documents import Desk, key_of, open_desk

from lattica.store import Change, Policy, Problem
from lattica.store.control import Checkpoint
from lattica.store.folding import checkpoint_of, state_of
from lattica.store.namespace import create_genesis
from lattica.store.testing import MemoryNetwork

ALICE, BOB = key_of(1), key_of(2)
GENESIS = create_genesis(ALICE, policy=Policy.OPEN)


async def write(desk: Desk) -> None:
    async with desk.document.transaction():
        desk.document.map("m")["a"] = 1


def sign_checkpoint(owner: Desk, *, wrong: bool) -> bytes:
    """The owner's checkpoint of all that it has; a wrong one has another state's hash."""
    replica = owner.journal.replica
    made = state_of(replica, 1)
    found = checkpoint_of(made.folded.folds, made.raw)
    checkpoint = Checkpoint(found.cut, bytes(32) if wrong else found.state, found.size)
    return replica.control(owner.key, checkpoint, owner.journal.tick()).raw


async def first_problem(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(20):
        return await anext(change async for change in changes if change.problem)


async def test_a_program_is_told_of_a_checkpoint_that_differs_from_what_it_covers(tmp_path: Path) -> None:
    async with open_desk(tmp_path / "alice", GENESIS, ALICE) as alice, open_desk(tmp_path / "bob", GENESIS, BOB) as bob:
        await write(alice)
        await bob.hear(alice)
        changes = bob.document.changes()

        await bob.journal.receive([sign_checkpoint(alice, wrong=True)])

        change = await first_problem(changes)
        assert (change.problem, change.everything, change.lost) == (Problem.CHECKPOINT_DIFFERS, False, 0)
        assert bob.document.problems == {Problem.CHECKPOINT_DIFFERS}
        assert (bob.journal.replica.ledger.base, dict(bob.document.map("m"))) == (0, {"a": 1})


async def test_a_program_that_opens_the_document_later_is_told_though_nothing_is_written(tmp_path: Path) -> None:
    async with open_desk(tmp_path / "alice", GENESIS, ALICE) as alice:
        await write(alice)
        async with open_desk(tmp_path / f"{BOB.peer_id}.db", GENESIS, BOB) as bob:
            await bob.hear(alice)
            await bob.journal.receive([sign_checkpoint(alice, wrong=True)])
    async with MemoryNetwork().open(BOB, tmp_path) as store:
        document = await store.open(GENESIS.namespace)

        async with asyncio.timeout(20):
            while document.problems != {Problem.CHECKPOINT_DIFFERS}:
                await asyncio.sleep(0.01)


async def test_a_right_checkpoint_is_no_problem(tmp_path: Path) -> None:
    async with open_desk(tmp_path / "alice", GENESIS, ALICE) as alice, open_desk(tmp_path / "bob", GENESIS, BOB) as bob:
        await write(alice)
        await bob.hear(alice)
        await bob.journal.receive([sign_checkpoint(alice, wrong=False)])

        async with asyncio.timeout(20):
            while not bob.journal.replica.ledger.base:
                await asyncio.sleep(0.01)
        assert bob.document.problems == set()
