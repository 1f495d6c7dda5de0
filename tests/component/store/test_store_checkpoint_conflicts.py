"""Whoever writes while a checkpoint is made, or without hearing of it, loses nothing that was the last word."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from open_documents import Desk, key_of, open_desk, put, remove
from pycrdt import Map

from lattica.store import Document, Policy
from lattica.store.item_runs import Place
from lattica.store.loading import load_replica
from lattica.store.namespace import Genesis, create_genesis
from lattica.store.testing import MemoryNetwork, converged

ALICE, BOB = key_of(1), key_of(2)
PATIENCE_S = 20.0


@pytest.fixture
def genesis() -> Genesis:
    return create_genesis(ALICE, policy=Policy.OPEN)


def values(desk: Desk) -> dict[str, object]:
    return dict(desk.document.map("m"))


async def folded(desk: Desk) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not desk.journal.replica.ledger.base:
            await asyncio.sleep(0.01)


async def outrun(alice: Desk, bob: Desk) -> None:
    """A key is deleted and the document compacted; the other writes it without having heard of the checkpoint."""
    await put(alice, "k", 1)
    await remove(alice, "k")
    await bob.hear(alice)
    assert await alice.document.compact()
    await put(bob, "k", 2)


@contextlib.asynccontextmanager
async def pair(folder: Path, genesis: Genesis) -> AsyncIterator[tuple[Desk, Desk]]:
    async with open_desk(folder / "alice", genesis, ALICE) as alice, open_desk(folder / "bob", genesis, BOB) as bob:
        yield alice, bob


async def test_a_value_of_a_deleted_key_is_written_again_when_the_checkpoint_is_heard_of(
    tmp_path: Path, genesis: Genesis
) -> None:
    async with pair(tmp_path, genesis) as (alice, bob):
        await outrun(alice, bob)
        await alice.hear(bob)
        assert values(alice) == {}, "it builds on what the checkpoint has left out"

        changes = bob.document.changes()
        await bob.hear(alice)
        await folded(bob)
        async with asyncio.timeout(PATIENCE_S):
            change = await anext(changes)
        assert (change.local, change.everything, set(change.places)) == (True, False, {Place("map:m", "k")})
        await alice.hear(bob)
        assert values(alice) == values(bob) == {"k": 2}
        assert alice.document.frontier() == bob.document.frontier()
    async with open_desk(tmp_path / "bob", genesis, BOB) as bob:
        assert values(bob) == {"k": 2}


async def test_the_state_and_what_is_written_again_get_to_the_disk_together(tmp_path: Path, genesis: Genesis) -> None:
    async with pair(tmp_path, genesis) as (alice, bob):
        await outrun(alice, bob)

        hearing = asyncio.create_task(bob.hear(alice))
        async with asyncio.timeout(PATIENCE_S):
            while await bob.disk.base(genesis.namespace.raw) is None:
                await asyncio.sleep(0)
        loaded = await load_replica(bob.disk, genesis, BOB.peer_id.raw)
        assert loaded.ydoc.get("map:m", type=Map).to_py() == {"k": 2}
        await hearing


async def test_what_the_owner_writes_while_a_state_is_made_stands(tmp_path: Path, genesis: Genesis) -> None:
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        await put(alice, "k", 1)
        await remove(alice, "k")
        compacting = asyncio.create_task(alice.document.compact())
        await asyncio.sleep(0)
        await put(alice, "k", 2)
        assert await compacting
        assert values(alice) == {"k": 2}
        assert await alice.document.compact() in {True, False}
        assert values(alice) == {"k": 2}
    async with open_desk(tmp_path / "alice", genesis, ALICE) as alice:
        assert values(alice) == {"k": 2}


async def test_a_fold_that_changes_nothing_is_no_change(tmp_path: Path, genesis: Genesis) -> None:
    async with pair(tmp_path, genesis) as (alice, bob):
        for number in range(20):
            await put(alice, "k", number)
        await bob.hear(alice)
        await put(bob, "mine", 1)
        changes = bob.document.changes()
        assert await alice.document.compact()
        await bob.hear(alice)
        await folded(bob)
        await put(bob, "k", 99)
        async with asyncio.timeout(PATIENCE_S):
            change = await anext(changes)
        assert (change.local, change.everything) == (True, False)
        assert values(bob) == {"k": 99, "mine": 1}


class Team:
    """Some authors of one document, who write what can be checked in the end."""

    def __init__(self, documents: list[Document], chance: random.Random) -> None:
        self.documents = documents
        self.chance = chance
        self.added = 0
        self.last: dict[tuple[int, str], int] = {}
        self.queued: set[str] = set()

    async def write(self, number: int, step: int) -> None:
        """One transaction: a counter, a key of ours, one that all write, one that comes and goes, and a list."""
        document = self.documents[number]
        async with document.transaction():
            document.counter("steps").add(1)
            document.map("own")[f"{number}/{step % 3}"] = step
            document.map("shared")[f"{step % 2}"] = step
            jobs = document.set("jobs")
            (jobs.discard if self.chance.random() < 0.5 else jobs.add)(f"job {self.chance.randrange(4)}")
            self.queue(document, f"{number}/{step}")
        self.added += 1
        self.last[number, f"{number}/{step % 3}"] = step

    def queue(self, document: Document, element: str) -> None:
        """Put something anywhere into a list, and take some of what is ours there out again."""
        queue = document.list("queue")
        queue.insert(self.chance.choice((0, len(queue), self.chance.randrange(len(queue) + 1))), element)
        self.queued.add(element)
        ours = [place for place, other in enumerate(queue) if str(other).partition("/")[0] == element.partition("/")[0]]
        for place in sorted(self.chance.sample(ours, len(ours) * 2 // 3), reverse=True):
            self.queued.discard(str(queue[place]))
            del queue[place]

    def check(self) -> None:
        """All hold the same, and whatever only one of them writes is what that one has written last."""
        first = self.documents[0]
        for document in self.documents:
            assert document.state() == first.state()
            assert document.counter("steps").value == self.added
            assert dict(document.map("own")) == {key: step for (_, key), step in self.last.items()}
            assert sorted(map(str, document.list("queue"))) == sorted(self.queued)


async def check_story(folder: Path, seed: int, steps: int) -> None:
    chance, network = random.Random(seed), MemoryNetwork()
    async with contextlib.AsyncExitStack() as ending:
        stores = [await ending.enter_async_context(network.open(key_of(number), folder)) for number in range(1, 5)]
        created = await stores[0].create(policy=Policy.OPEN)
        documents = [created, *[await store.open(created.namespace) for store in stores[1:]]]
        team = Team(documents, chance)
        peers = [key_of(number).peer_id for number in range(1, 5)]
        for step in range(steps):
            await team.write(chance.randrange(len(documents)), step)
            if chance.random() < 0.1:
                cut = chance.randrange(1, len(peers))
                chance.shuffle(peers)
                network.partition(peers[:cut], peers[cut:])
            if chance.random() < 0.1:
                network.heal()
            if chance.random() < 0.1:
                await documents[0].compact()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.02)
        network.heal()
        await settled(documents)
        team.check()


async def settled(documents: list[Document]) -> None:
    """Until all have one frontier, and nobody writes anything again."""
    while True:
        await converged(documents, timeout=120)
        before = documents[0].frontier()
        await asyncio.sleep(0.2)
        if all(document.frontier() == before for document in documents):
            return


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_one_alone_writes_is_there_after_partitions_and_checkpoints(tmp_path: Path, seed: int) -> None:
    await check_story(tmp_path, seed, 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 30))
async def test_the_same_in_longer_stories(tmp_path: Path, seed: int) -> None:
    await check_story(tmp_path, seed, 400)
