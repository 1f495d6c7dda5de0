"""An open document that takes no more strangers says so, and whom it takes agree with each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ledger_replicas import SimReplica
from sync_stranger import stranger_at
from waiting import until

from lattica.errors import StoreUsageError
from lattica.identity import IdentityKey
from lattica.store import Change, Document, Limits, Policy, Problem, ReplicatedStore
from lattica.store.changes import MAX_PENDING, ChangeFeed
from lattica.store.entry import ChainId, Lane
from lattica.store.sync_wire import SyncMessage
from lattica.store.testing import MemoryNetwork, converged, key_of

ALICE, BOB, CAROL, DAVE = (key_of(number) for number in range(1, 5))
FEW = Limits(strangers=1)


@pytest.fixture(autouse=True)
def _nobody_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.sync_session.SILENCE_S", 600.0)


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


async def put(document: Document, key: str) -> None:
    async with document.transaction():
        document.map("m")[key] = 1


def has(document: Document, author: IdentityKey) -> bool:
    return data_of(author) in document.frontier().heads


def data_of(author: IdentityKey) -> ChainId:
    return ChainId(author.peer_id.raw, Lane.DATA)


def has_control(document: Document, author: IdentityKey) -> bool:
    return ChainId(author.peer_id.raw, Lane.CONTROL) in document.frontier().heads


def given_up(store: ReplicatedStore, document: Document) -> set[ChainId]:
    """Chains for which peers are not asked again until something is new."""
    replicator = store.replicator_of(document.namespace)
    assert replicator is not None
    return {chain for running in replicator._sessions.values() for chain in running.session._state._futile}


async def apart(network: MemoryNetwork, alice: ReplicatedStore, bob: ReplicatedStore) -> tuple[Document, Document]:
    """Alice's document that takes one stranger: she has taken Carol's entries, and Bob, who is one, his own."""
    ours = await alice.create(policy=Policy.OPEN, limits=FEW)
    theirs = await bob.open(ours.namespace)
    network.partition([ALICE.peer_id], [BOB.peer_id])
    sim = SimReplica(ours.genesis, CAROL)
    entry = sim.write(1)
    assert entry is not None
    await alice._open[ours.namespace].journal.receive([entry.raw])
    await put(theirs, "bob")
    network.heal()
    return ours, theirs


@pytest.mark.slow
async def test_who_leaves_a_stranger_out_says_so_to_its_program_and_to_its_peers(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours, theirs = await apart(network, alice, bob)
        changes = ours.changes()

        await until(lambda: ours.problems >= {Problem.FULL, Problem.PEER_FULL} and theirs.problems == ours.problems)

        assert (has(ours, BOB), has(theirs, CAROL)) == (False, False)
        told = [await anext(changes) for _ in range(2)]
        assert {change.problem for change in told} == {Problem.FULL, Problem.PEER_FULL}
        assert not any(change.everything or change.places for change in told)


@pytest.mark.slow
async def test_a_grant_brings_those_together_that_were_full(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours, theirs = await apart(network, alice, bob)
        await until(lambda: Problem.FULL in ours.problems)

        await ours.grant(BOB.peer_id)

        await until(lambda: has(ours, BOB) and has(theirs, CAROL))
        await converged([ours, theirs])
        assert ours.state() == theirs.state()


@pytest.mark.slow
async def test_what_the_owner_builds_on_gets_to_those_who_are_full(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours, theirs = await apart(network, alice, bob)
        await until(lambda: Problem.FULL in theirs.problems)
        assert not has(theirs, CAROL)

        async with ours.transaction():
            ours.list("log").append("after what carol wrote")

        await until(lambda: has(theirs, CAROL) and has(theirs, ALICE))
        assert list(theirs.list("log")) == list(ours.list("log")) == [1, "after what carol wrote"]


@pytest.mark.slow
async def test_what_the_owner_builds_on_is_asked_for_again_with_all_below_it(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    """Bob has given up on Dave's second entry, which builds on Carol's, when Alice builds on it."""
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN, limits=Limits(strangers=2))
        theirs = await bob.open(ours.namespace)
        network.partition([ALICE.peer_id], [BOB.peer_id])
        carol, dave, other = (SimReplica(ours.genesis, key) for key in (CAROL, DAVE, key_of(9)))
        first, below, unrelated = dave.write(0), carol.write(1), other.write(0)
        assert first is not None
        assert below is not None
        assert unrelated is not None
        dave.receive([below])
        second = dave.write(6)
        assert second is not None
        await bob._open[ours.namespace].journal.receive([unrelated.raw, first.raw])
        await alice._open[ours.namespace].journal.receive([first.raw, below.raw, second.raw])
        network.heal()
        await until(lambda: data_of(DAVE) in given_up(bob, theirs))

        async with ours.transaction():
            ours.list("log").insert(0, "before what dave wrote")

        await until(lambda: list(theirs.list("log")) == list(ours.list("log")))
        assert list(ours.list("log")) == ["before what dave wrote", 6, 1]


async def test_who_finds_a_document_full_is_told_when_it_writes(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN, limits=FEW)
        theirs = await bob.open(ours.namespace)
        entry = SimReplica(ours.genesis, CAROL).write(1)
        assert entry is not None
        await alice._open[ours.namespace].journal.receive([entry.raw])
        await converged([ours, theirs])

        with pytest.raises(StoreUsageError, match="takes no more authors to whom nothing is granted"):
            await put(theirs, "bob")
        assert theirs.problems == {Problem.FULL}

        await ours.grant(BOB.peer_id)
        await converged([ours, theirs])
        await put(theirs, "bob")
        await converged([ours, theirs])


async def test_a_flood_of_strangers_costs_no_memory_and_blames_nobody(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice:
        ours = await alice.create(policy=Policy.OPEN, limits=FEW)
        sims = [SimReplica(ours.genesis, key_of(number)) for number in range(100, 150)]
        entries = [entry for sim in sims if (entry := sim.write(1)) is not None]
        async with asyncio.timeout(50), stranger_at(network, alice, ours, DAVE) as stranger:
            await stranger.offer(entries[0].chain, 1, entries[0].hash)
            await stranger.say(SyncMessage(entries=[entry.raw for entry in entries], answered=True))
            await stranger.ask(ChainId(ALICE.peer_id.raw, Lane.CONTROL))
            twins = [SimReplica(ours.genesis, sim.key).replica.write(sim.key, b"\0\0", 1) for sim in sims]
            proofs = [(twin.raw, entry.raw) for twin, entry in zip(twins[1:], entries[1:], strict=True)]
            await stranger.say(SyncMessage(proofs=proofs))
            await stranger.ask(ChainId(ALICE.peer_id.raw, Lane.CONTROL))

        assert ours.problems == {Problem.FULL}
        journal = alice._open[ours.namespace].journal
        assert (len(journal.replica.ledger.chains), len(journal.replica.ledger.frozen)) == (1, 0)
        assert not journal._early
        assert len(await alice.disk.records(ours.namespace.raw)) == 1
        assert await alice.disk.proofs(ours.namespace.raw) == []
        replicator = alice.replicator_of(ours.namespace)
        assert replicator is not None
        assert replicator._book.is_welcome(DAVE.peer_id, asyncio.get_running_loop().time())


@pytest.mark.slow
async def test_a_proof_that_was_of_no_use_is_told_again_with_the_entries(
    network: MemoryNetwork, tmp_path: Path
) -> None:
    """Bob, who is full, hears of Dave's fraud before he takes Dave in."""
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN, limits=FEW)
        theirs = await bob.open(ours.namespace)
        network.partition([ALICE.peer_id], [BOB.peer_id])
        first = SimReplica(ours.genesis, CAROL).write(1)
        dave = SimReplica(ours.genesis, DAVE)
        good, one = dave.write(1), dave.write(2)
        twin = SimReplica(ours.genesis, DAVE)
        assert first is not None
        assert good is not None
        twin.receive([good])
        other = twin.write(5)
        assert one is not None
        assert other is not None
        await bob._open[ours.namespace].journal.receive([first.raw])
        await alice._open[ours.namespace].journal.receive([good.raw, one.raw], [(one.raw, other.raw)])
        assert ours.frontier().frozen == {data_of(DAVE): 2}
        network.heal()
        await until(lambda: Problem.FULL in theirs.problems)
        assert theirs.frontier().frozen == {}

        await ours.grant(DAVE.peer_id)

        await until(lambda: theirs.frontier().frozen == {data_of(DAVE): 2})
        assert theirs.frontier().heads[data_of(DAVE)].seq == 1


async def test_a_fraud_that_is_left_out_is_a_problem_too(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice:
        ours = await alice.create(policy=Policy.OPEN, limits=Limits(strangers=0))
        one, other = (SimReplica(ours.genesis, DAVE).write(number) for number in (1, 2))
        assert one is not None
        assert other is not None

        await alice._open[ours.namespace].journal.receive([], [(one.raw, other.raw)])

        assert ours.problems == {Problem.FULL}
        assert ours.frontier().frozen == {}


@pytest.mark.slow
async def test_who_counts_what_a_fraud_makes_void_is_told_of_it(network: MemoryNetwork, tmp_path: Path) -> None:
    """Bob, who had no use for the proof when it came, has got the entries from somebody who does not mind."""
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(policy=Policy.OPEN, limits=FEW)
        theirs = await bob.open(ours.namespace)
        network.partition([ALICE.peer_id], [BOB.peer_id])
        first = SimReplica(ours.genesis, CAROL).write(1)
        one, other = (SimReplica(ours.genesis, DAVE).write(number) for number in (1, 2))
        assert first is not None
        assert one is not None
        assert other is not None
        await bob._open[ours.namespace].journal.receive([first.raw])
        await alice._open[ours.namespace].journal.receive([], [(one.raw, other.raw)])
        network.heal()
        await until(lambda: Problem.FULL in theirs.problems)
        await ours.grant(DAVE.peer_id)
        await until(lambda: has_control(theirs, ALICE))
        assert theirs.frontier().frozen == {}

        await bob._open[ours.namespace].journal.receive([one.raw])

        await until(lambda: theirs.frontier().frozen == {data_of(DAVE): 1})
        assert not has(theirs, DAVE)


def test_a_slow_observer_learns_of_problems_all_the_same() -> None:
    feed = ChangeFeed()
    with feed.observe() as observer:
        feed.report(Problem.FULL)
        for _ in range(MAX_PENDING + 1):
            feed.publish(Change(author=None, lost=1))
        feed.report(Problem.FULL)

        taken = observer.take()

    assert [change.problem for change in taken if change.problem] == [Problem.FULL]
    assert sum(change.lost for change in taken) == MAX_PENDING + 1
