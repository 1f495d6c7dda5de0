"""Stores in a network in memory: whatever breaks, all come to hold the same, and no acknowledged write is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger_replicas import SimReplica
from waiting import until

from lattica.errors import NamespaceError, NoReplicaError, StoreUsageError
from lattica.store import Change, Document, NamespaceId, Policy, ReplicatedStore
from lattica.store.entry import ChainId, Lane, read_entry
from lattica.store.store import FIND_TIMEOUT_S
from lattica.store.testing import MemoryNetwork, converged, key_of

ALICE, BOB, CAROL = (key_of(number) for number in (1, 2, 3))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


async def put(document: Document, key: str, value: int = 1) -> None:
    async with document.transaction():
        document.map("m")[key] = value


def peers(store: ReplicatedStore, document: Document) -> list[object]:
    replicator = store.replicator_of(document.namespace)
    assert replicator is not None
    return list(replicator.peers)


async def test_two_stores_that_write_at_once_come_to_hold_the_same(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN)
        theirs = await bob.open(ours.namespace)

        async def write(document: Document, who: str) -> None:
            for number in range(100):
                async with document.transaction():
                    document.map("m")[f"{who}{number}"] = number
                    document.counter("n").add(1)

        await asyncio.gather(write(ours, "a"), write(theirs, "b"), write(ours, "c"))
        await converged([ours, theirs])
        for document in (ours, theirs):
            assert len(document.map("m")) == 300
            assert document.counter("n").value == 300
        await until(lambda: (peers(alice, ours), peers(bob, theirs)) == ([BOB.peer_id], [ALICE.peer_id]))


class Crowd:
    """Five stores, of which one may be restarted, and what they were told is durable."""

    def __init__(self, network: MemoryNetwork, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.keys = [key_of(number) for number in range(1, 6)]
        self.ids = [key.peer_id for key in self.keys]
        self.documents: list[Document] = []
        self.acknowledged: set[str] = set()
        self._stacks: list[contextlib.AsyncExitStack] = []

    async def start(self) -> None:
        namespace: NamespaceId | None = None
        for key in self.keys:
            store = await self._open(key)
            document = await (store.open(namespace) if namespace else store.create(policy=Policy.OPEN))
            namespace = document.namespace
            self.documents.append(document)

    async def _open(self, key: object) -> ReplicatedStore:
        stack = contextlib.AsyncExitStack()
        self._stacks.append(stack)
        return await stack.enter_async_context(self.network.open(key, self.folder))  # type: ignore[arg-type]

    async def restart(self, number: int) -> None:
        await self._stacks[number].aclose()
        stacks, self._stacks = self._stacks, []
        store = await self._open(self.keys[number])
        stacks[number] = self._stacks[0]
        self._stacks = stacks
        self.documents[number] = await store.open(self.documents[number].namespace)

    async def write(self, number: int, key: str) -> None:
        await put(self.documents[number], key)
        self.acknowledged.add(key)

    async def stop(self) -> None:
        for stack in self._stacks:
            await stack.aclose()


@pytest.fixture
async def crowd(network: MemoryNetwork, tmp_path: Path) -> AsyncIterator[Crowd]:
    crowd = Crowd(network, tmp_path)
    try:
        await crowd.start()
        yield crowd
    finally:
        await crowd.stop()


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_partitions_and_a_restart_no_acknowledged_write_is_lost(crowd: Crowd, seed: int) -> None:
    chance = random.Random(seed)
    await converged(crowd.documents)
    for turn in range(2):
        chance.shuffle(crowd.ids)
        crowd.network.partition(crowd.ids[:2], crowd.ids[2:])
        await asyncio.gather(*(crowd.write(n, f"{turn} cut {n} {k}") for n in range(5) for k in range(10)))
        await crowd.restart(chance.randrange(5))
        await asyncio.gather(*(crowd.write(n, f"{turn} later {n} {k}") for n in range(5) for k in range(5)))
        crowd.network.heal()
        await asyncio.gather(*(crowd.write(n, f"{turn} healed {n}") for n in range(5)))
        await converged(crowd.documents, timeout=60)
    assert len(crowd.acknowledged) == 160
    for document in crowd.documents:
        assert set(dict(document.map("m"))) == crowd.acknowledged


async def test_one_who_comes_late_gets_everything(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN)
        theirs = await bob.open(ours.namespace)
        for number in range(100):
            await put(ours if number % 2 else theirs, f"k{number}", number)
        await converged([ours, theirs])
        async with network.open(CAROL, tmp_path) as carol:
            late = await carol.open(str(ours.namespace))
            await converged([ours, theirs, late])
            assert dict(late.map("m")) == {f"k{number}": number for number in range(100)}
            await put(late, "late")
            await converged([ours, theirs, late])


@pytest.mark.slow
async def test_of_calls_that_cross_one_stream_is_left(
    network: MemoryNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.sync_session.SILENCE_S", 600.0)  # or a stall of the machine ends the one
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        for _ in range(3):
            network.partition([ALICE.peer_id], [BOB.peer_id])
            await until(lambda: not peers(alice, ours) and not peers(bob, theirs))
            for store, peer in ((alice, BOB.peer_id), (bob, ALICE.peer_id)):
                replicator = store.replicator_of(ours.namespace)
                assert replicator is not None
                replicator.add_peers([peer])
            network.heal()
            await put(ours, "a")
            await converged([ours, theirs])
            await until(lambda: len(network.links) == 2)  # both sides of one
        await asyncio.sleep(0.3)  # longer than between two looks: nobody calls again
        assert len(network.links) == 2


# rights


@pytest.mark.slow
async def test_a_revoked_writer_who_did_not_know_is_told_and_goes_on_once_granted_again(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        await ours.grant(BOB.peer_id)
        await converged([ours, theirs])
        await put(theirs, "before")
        await converged([ours, theirs])
        changes = theirs.changes()
        network.partition([ALICE.peer_id], [BOB.peer_id])
        await ours.revoke(BOB.peer_id)
        for number in range(3):
            await put(theirs, f"in vain {number}")
            assert (await anext(changes)).local
        network.heal()
        await converged([ours, theirs])
        async with asyncio.timeout(20):
            assert await anext(changes) == Change(author=None, everything=True, lost=3)
        for document in (ours, theirs):
            assert dict(document.map("m")) == {"before": 1}
        with pytest.raises(StoreUsageError, match="right"):
            await put(theirs, "no")
        assert dict(theirs.map("m")) == {"before": 1}
        await ours.grant(BOB.peer_id)
        await converged([ours, theirs])
        await put(theirs, "again")
        await converged([ours, theirs])
        for document in (ours, theirs):
            assert dict(document.map("m")) == {"before": 1, "again": 1}
        replicator = alice.replicator_of(ours.namespace)
        assert replicator is not None
        assert replicator._book.is_welcome(BOB.peer_id, asyncio.get_running_loop().time()), "it was honest"


async def test_two_stores_with_one_key_are_found_out_everywhere(network: MemoryNetwork, tmp_path: Path) -> None:
    """What they wrote before they went apart stays."""
    async with network.open(ALICE, tmp_path) as alice, network.open(CAROL, tmp_path) as carol:
        ours = await alice.create()
        await ours.grant(BOB.peer_id)
        other = await carol.open(ours.namespace)
        async with network.open(BOB, tmp_path) as bob:
            theirs = await bob.open(ours.namespace)
            await converged([ours, theirs, other])
            await put(theirs, "together")
            await converged([ours, theirs, other])
            sim = SimReplica(ours.genesis, BOB)
            raws = [record.raw for _, record in await bob.disk.records(ours.namespace.raw)]
            sim.receive([read_entry(raw, ours.namespace) for raw in raws])
            await put(theirs, "one")
            await converged([ours, theirs, other])
            twin = sim.write(0)
            assert twin is not None
            await carol._open[ours.namespace].journal.receive([twin.raw])  # which it heard from the twin
            await converged([ours, theirs, other])
        chain = ChainId(BOB.peer_id.raw, Lane.DATA)
        for document in (ours, theirs, other):
            assert document.frontier().frozen == {chain: 2}
            assert dict(document.map("m")) == {"together": 1}
        for store in (alice, carol):
            assert len(await store.disk.proofs(ours.namespace.raw)) == 1


# namespaces


async def test_a_namespace_that_nobody_has_is_not_found_in_time(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice:
        with pytest.raises(NoReplicaError, match="namespace n"):
            async with asyncio.timeout(FIND_TIMEOUT_S - 1):  # it does not take the usual time
                await alice.open(NamespaceId(bytes(32)), timeout=0.2)
        with pytest.raises(NamespaceError):
            await alice.open("nonsense")
        assert alice.namespaces == []


async def test_documents_are_created_closed_opened_again_and_forgotten(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice:
        document = await alice.create("notes")
        assert await alice.open(document.namespace) is document
        await put(document, "a")
        await alice.close(document.namespace)
        await alice.close(document.namespace)
        with pytest.raises(StoreUsageError, match="closed"):
            await put(document, "b")
        again = await alice.open(document.namespace)
        assert again is not document
        assert dict(again.map("m")) == {"a": 1}
        forgotten = await alice.create()
        await alice.forget(forgotten.namespace)
        await alice.forget(forgotten.namespace)
        with pytest.raises(NoReplicaError):
            await alice.open(forgotten.namespace, timeout=0.1)
    async with network.open(ALICE, tmp_path) as alice:
        assert [genesis.title for genesis in alice.namespaces] == ["notes"]
        assert dict((await alice.open(document.namespace)).map("m")) == {"a": 1}


async def test_who_has_forgotten_a_document_goes_on_after_what_it_wrote_before(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    """Its owner may write at once; with a number used again, it would be taken for a fraud."""
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        for number in range(3):
            await put(ours, f"before {number}")
        await converged([ours, theirs])
        await alice.forget(ours.namespace)
        again = await alice.open(ours.namespace)
        await put(again, "again")
        await converged([again, theirs])
        assert not theirs.frontier().frozen
        assert set(dict(theirs.map("m"))) == {"before 0", "before 1", "before 2", "again"}


async def test_a_closed_document_is_out_of_touch_and_leaves_no_task(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        await put(ours, "a")
        await converged([ours, theirs])
        await alice.close(ours.namespace)
        await until(lambda: not network.links)
        assert network.providers[ours.namespace.multihash] == {BOB.peer_id}
        await bob.close(ours.namespace)
        await until(lambda: not bob._tasks._tasks and not alice._tasks._tasks)


# cancellation


async def after_steps(steps: int, task: asyncio.Task[object]) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_opening_that_is_cancelled_at_any_step_can_be_done_again(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        await put(ours, "a")
        for steps in range(25):
            await after_steps(steps, asyncio.create_task(bob.open(ours.namespace)))
            theirs = await bob.open(ours.namespace)
            await converged([ours, theirs])
            await (bob.forget if steps % 2 else bob.close)(ours.namespace)
        await until(lambda: not bob._tasks._tasks)


async def test_what_comes_in_is_whole_wherever_taking_it_in_is_cancelled(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    """Also when something counts no more, and all is made anew meanwhile."""
    async with network.open(ALICE, tmp_path) as alice:
        ours = await alice.create()
        await ours.grant(BOB.peer_id)
        journal = alice._open[ours.namespace].journal
        for steps in range(30):
            sim = SimReplica(ours.genesis, BOB)
            raws = [record.raw for _, record in await alice.disk.records(ours.namespace.raw)]
            sim.receive([read_entry(raw, ours.namespace) for raw in raws])
            entries = [sim.write(number) for number in (0, 1, 2)]
            sent = [entry.raw for entry in entries if entry is not None]
            await after_steps(steps, asyncio.create_task(journal.receive(sent[:2])))
            await journal.receive(sent)
            await after_steps(steps, asyncio.create_task(ours.revoke(BOB.peer_id)))
            await ours.revoke(BOB.peer_id)
            await ours.grant(BOB.peer_id)
            await check_disk(alice, ours)


async def check_disk(store: ReplicatedStore, document: Document) -> None:
    """What is in memory is what is on disk."""
    before = document.frontier().digest(), list(document.list("log")), str(document.text("notes"))
    assert document._journal.replica.ledger.frontier().digest() == before[0]
    fresh = SimReplica(document.genesis, CAROL)
    raws = [record.raw for _, record in await store.disk.records(document.namespace.raw)]
    fresh.receive([read_entry(raw, document.namespace) for raw in raws])
    assert fresh.digest == before[0]
    assert fresh.state()["list:log"] == before[1]
    assert fresh.state()["text:notes"] == before[2]
