"""Peers that break the rules are refused and shunned; the document and those who are honest do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger_replicas import SimReplica
from msgspec.structs import replace
from pycrdt import Array
from sync_stranger import Stranger, stranger_at
from yjs_bytes import item, update

from lattica.errors import StreamError
from lattica.store import Document, Limits, ReplicatedStore
from lattica.store.chain import client_id
from lattica.store.clock import to_hybrid
from lattica.store.control import Grant, Role
from lattica.store.entry import ChainId, Entry, Lane, sign_entry
from lattica.store.namespace import create_genesis
from lattica.store.sync_wire import MAX_FRAME, Offer, SyncMessage
from lattica.store.testing import MemoryNetwork, converged, key_of
from lattica.store.testing.network import WAITING_FRAMES

ALICE, BOB, MALLORY, NOBODY = (key_of(number) for number in range(1, 5))
LIMIT = 4000
PATIENCE_S = 60.0
"""Seconds for what takes one, on a machine that is busy."""
Attack = Callable[[Stranger], Awaitable[None]]


@pytest.fixture(autouse=True)
def _nobody_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers say nothing while the test does something else, and a machine may stand still for seconds."""
    monkeypatch.setattr("lattica.store.sync_session.SILENCE_S", 10 * PATIENCE_S)


@dataclass
class Scene:
    """Alice's document, which Bob and Mallory may write; Bob keeps a replica, Mallory is a stranger."""

    network: MemoryNetwork
    alice: ReplicatedStore
    ours: Document
    theirs: Document

    def state(self) -> tuple[object, ...]:
        return self.ours.frontier().digest(), dict(self.ours.map("m")), list(self.ours.list("log"))

    async def stored(self) -> list[bytes]:
        return [record.raw for _, record in await self.alice.disk.records(self.ours.namespace.raw)]

    def shuns(self, who: Any) -> bool:
        replicator = self.alice.replicator_of(self.ours.namespace)
        assert replicator is not None
        return not replicator._book.is_welcome(who, asyncio.get_running_loop().time())

    async def check_alive(self) -> None:
        """Alice and Bob still tell each other."""
        number = len(self.ours.map("m"))
        async with self.theirs.transaction():
            self.theirs.map("m")[f"alive{number}"] = number
        await converged([self.ours, self.theirs])

    def stranger(self, key: Any = MALLORY) -> contextlib.AbstractAsyncContextManager[Stranger]:
        return stranger_at(self.network, self.alice, self.ours, key)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create(limits=Limits(entry=LIMIT))
        for peer in (BOB, MALLORY):
            await ours.grant(peer.peer_id)
        async with ours.transaction():
            ours.map("m")["a"] = 1
        theirs = await bob.open(ours.namespace)
        await converged([ours, theirs])
        yield Scene(network, alice, ours, theirs)


def by(stranger: Stranger, number: int = 2) -> Entry:
    """A good entry of the stranger's."""
    entry = stranger.sim.write(number)
    assert entry is not None
    return entry


def signed(stranger: Stranger, entry: Entry, **changes: Any) -> Entry:
    return sign_entry(stranger.key, stranger.sim.genesis.namespace, replace(entry.body, **changes))


def flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


# what is refused, and its sender shunned


async def forged(stranger: Stranger) -> None:
    entry = by(stranger)
    await stranger.give(entry, raws=[flipped(entry.raw)])


async def in_the_name_of_another(stranger: Stranger) -> None:
    await stranger.give(signed(stranger, by(stranger), author=BOB.peer_id.raw))


async def of_another_namespace(stranger: Stranger) -> None:
    other = SimReplica(create_genesis(MALLORY), MALLORY)
    entry = other.write(2)
    assert entry is not None
    await stranger.give(entry)


async def far_in_the_future(stranger: Stranger) -> None:
    await stranger.give(signed(stranger, by(stranger), time=to_hybrid(time.time() + 1000)))


async def too_large(stranger: Stranger) -> None:
    await stranger.give(signed(stranger, by(stranger), payload=bytes(LIMIT)))


async def no_update(stranger: Stranger) -> None:
    await stranger.give(signed(stranger, by(stranger), payload=b"\xff\x00garbage"))


async def in_place_of_another(stranger: Stranger) -> None:
    """Writes items of Bob's."""
    client = client_id(stranger.sim.genesis.namespace, BOB.peer_id.raw, 1)
    payload = update({client: (0, [item(8, b"\x01\x7e", root="list:log")])})
    await stranger.give(signed(stranger, by(stranger), payload=payload))


async def without_right(stranger: Stranger) -> None:
    sim = SimReplica(stranger.sim.genesis, NOBODY)
    updates: list[bytes] = []
    sim.replica.ydoc.observe(lambda event: updates.append(event.update))
    sim.replica.ydoc.get("list:log", type=Array).append(1)
    await stranger.give(sim.replica.write(NOBODY, updates[0], 1))


async def granting_without_right(stranger: Stranger) -> None:
    grant = Grant(NOBODY.peer_id.raw, Role.WRITER)
    await stranger.give(stranger.sim.replica.control(MALLORY, grant, 1))


async def entries_that_nobody_asked_for(stranger: Stranger) -> None:
    await stranger.say(SyncMessage(entries=(by(stranger).raw,)))


async def an_answer_to_no_question(stranger: Stranger) -> None:
    await stranger.say(SyncMessage(answered=True))


async def many_questions_at_once(stranger: Stranger) -> None:
    """More than there is room for answers that nobody reads: however fast they are made, some question is too many."""
    chain = ChainId(ALICE.peer_id.raw, Lane.DATA)
    for _ in range(WAITING_FRAMES + 3):
        await stranger.say(SyncMessage(wanted={chain: ()}))


async def offers_that_are_not_kept(stranger: Stranger) -> None:
    for seq in range(1, 40):
        await stranger.offer(ChainId(MALLORY.peer_id.raw, Lane.DATA), seq, b"a hash..")
        await stranger.say(SyncMessage(answered=True))


async def garbage(stranger: Stranger) -> None:
    await stranger.say_bytes(b"\xff" * 100)


async def a_huge_frame(stranger: Stranger) -> None:
    await stranger.say_bytes(bytes(MAX_FRAME + 1))


async def too_many_authors(stranger: Stranger) -> None:
    for number in range(150):
        await stranger.say(SyncMessage(heads={ChainId(number.to_bytes(38), 1): Offer(1, b"a hash..")}))


async def a_proof_of_nothing(stranger: Stranger) -> None:
    one, other = by(stranger), by(stranger)
    await stranger.say(SyncMessage(proofs=[(one.raw, other.raw)]))


async def a_proof_of_one_entry(stranger: Stranger) -> None:
    one = by(stranger)
    await stranger.say(SyncMessage(proofs=[(one.raw, one.raw)]))


async def a_huge_proof(stranger: Stranger) -> None:
    """Which honest replicas could not pass on in one frame."""
    one = by(stranger)
    large = [signed(stranger, one, payload=bytes([number]) * LIMIT) for number in range(2)]
    await stranger.say(SyncMessage(proofs=[(large[0].raw, large[1].raw)]))


async def a_forged_proof(stranger: Stranger) -> None:
    one = by(stranger)
    other = signed(stranger, one, payload=b"other")
    await stranger.say(SyncMessage(proofs=[(one.raw, flipped(other.raw))]))


ATTACKS = [
    forged,
    in_the_name_of_another,
    of_another_namespace,
    far_in_the_future,
    too_large,
    no_update,
    in_place_of_another,
    without_right,
    granting_without_right,
    entries_that_nobody_asked_for,
    an_answer_to_no_question,
    many_questions_at_once,
    offers_that_are_not_kept,
    garbage,
    a_huge_frame,
    too_many_authors,
    a_proof_of_nothing,
    a_proof_of_one_entry,
    a_huge_proof,
    a_forged_proof,
]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_who_breaks_the_rules_is_shunned_and_leaves_no_trace(
    scene: Scene, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.sync_wire.MAX_HEADS", 100)
    before, stored = scene.state(), await scene.stored()
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        with contextlib.suppress(StreamError):
            await attack(stranger)
            await stranger.wait_end()
    assert scene.shuns(MALLORY.peer_id)
    assert scene.state() == before
    assert await scene.stored() == stored
    assert not scene.shuns(BOB.peer_id)
    await scene.check_alive()
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as again:
        await again.wait_end()
    assert all(not message.heads for message in again.heard), "its call is not taken for a while"


async def test_no_update_that_was_damaged_gets_in_or_harms(scene: Scene) -> None:
    chance = random.Random(1)
    before, stored = scene.state(), await scene.stored()
    journal = scene.ours._journal
    async with scene.stranger() as stranger:
        good = [by(stranger, number) for number in range(5)]
        for turn in range(300):
            entry = chance.choice(good)
            payload = bytearray(entry.body.payload)
            for _ in range(chance.randint(1, 3)):
                payload[chance.randrange(len(payload))] = chance.randrange(256)
            damaged = signed(
                stranger, entry, payload=bytes(payload), seq=1, after=0, prev=stranger.sim.genesis.namespace.raw
            )
            received = await journal.receive([damaged.raw])
            if received.added:  # it happens to be good
                break
            assert received.refused or received.missing, turn
    if not received.added:
        assert scene.state() == before
        assert await scene.stored() == stored
    await scene.check_alive()


@pytest.mark.parametrize("last", ["forged", "of no frame"])
async def test_what_came_before_a_forgery_is_kept(scene: Scene, last: str) -> None:
    """Frames are read ahead of what is done with them, but count in their order."""
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        entries = [by(stranger, number) for number in range(8)]
        await stranger.offer(entries[-1].chain, entries[-1].body.seq, entries[-1].hash)
        for entry in entries[:-1]:
            await stranger.say(SyncMessage(entries=(entry.raw,)))
        if last == "forged":
            await stranger.say(SyncMessage(entries=(flipped(entries[-1].raw),)))
        else:
            await stranger.say_bytes(b"\xff" * 20)
        await stranger.wait_end()
    async with asyncio.timeout(PATIENCE_S):
        while (known := scene.ours.frontier().heads.get(entries[0].chain)) is None or known.seq < 7:
            await asyncio.sleep(0.01)
    assert known.hash == entries[6].hash
    assert scene.shuns(MALLORY.peer_id)
    await scene.check_alive()


# what is refused, but may come of honest peers


async def test_what_its_author_may_not_write_any_more_is_left_out_without_blame(scene: Scene) -> None:
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        entries = [by(stranger, number) for number in range(3)]
        await stranger.give(entries[0])
        while len(scene.ours.frontier().heads) < 3:
            await asyncio.sleep(0.01)
        await scene.ours.revoke(MALLORY.peer_id)
        before, stored = scene.state(), await scene.stored()
        await stranger.give(*entries[1:])
        await stranger.ask(ChainId(ALICE.peer_id.raw, Lane.CONTROL))
        assert scene.state() == before
        assert await scene.stored() == stored
    assert not scene.shuns(MALLORY.peer_id)
    await scene.check_alive()


async def test_entries_that_are_here_already_or_whose_predecessors_are_not_change_nothing(scene: Scene) -> None:
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        entries = [by(stranger, number) for number in range(3)]
        await stranger.give(entries[0])
        while len(scene.ours.frontier().heads) < 3:
            await asyncio.sleep(0.01)
        before, stored = scene.state(), await scene.stored()
        await stranger.give(entries[2])
        await stranger.give(entries[1], raws=[entries[0].raw, *[entry.raw for entry in stranger.sim.stored[:3]]])
        await stranger.ask(ChainId(ALICE.peer_id.raw, Lane.CONTROL))
        assert scene.state() == before
        assert await scene.stored() == stored
    assert not scene.shuns(MALLORY.peer_id)


async def test_who_is_a_little_ahead_of_our_clock_is_not_blamed(scene: Scene) -> None:
    """It may pass on what it has found good by its own clock."""
    before = scene.state()
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        entry = signed(stranger, by(stranger), time=to_hybrid(time.time() + 80))
        with contextlib.suppress(StreamError):
            await stranger.give(entry)
            await stranger.wait_end()
    assert not scene.shuns(MALLORY.peer_id)
    assert scene.state() == before
    await scene.check_alive()


async def test_frauds_of_those_who_have_no_right_are_nobodys_concern(scene: Scene) -> None:
    before = scene.state()
    async with asyncio.timeout(PATIENCE_S), scene.stranger(NOBODY) as stranger:
        sim = SimReplica(scene.ours.genesis, NOBODY)
        one = sim.replica.write(NOBODY, b"\0\0", 1)
        other = sim.replica.write(NOBODY, b"\0\0", 2)
        await stranger.say(SyncMessage(proofs=[(one.raw, other.raw)]))
        await stranger.ask(ChainId(ALICE.peer_id.raw, Lane.CONTROL))
    assert scene.state() == before
    assert not scene.shuns(NOBODY.peer_id)


# what takes long


async def test_who_is_silent_is_let_go(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # Alice and Bob take each other for gone, too
        patch.setattr("lattica.store.sync_session.SILENCE_S", 0.3)
        async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
            while await stranger.hear() is not None:
                pass
    await scene.check_alive()


async def test_who_asks_and_does_not_read_is_let_go_and_costs_little(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.sync_session.STUCK_S", 0.5)
    monkeypatch.setattr("lattica.store.sync_answer.ANSWER_BYTES", 1000)
    for number in range(60):
        async with scene.ours.transaction():
            scene.ours.map("m")[f"k{number}"] = "x" * 2000
    replicator = scene.alice.replicator_of(scene.ours.namespace)
    assert replicator is not None
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        await stranger.say(SyncMessage(wanted={ChainId(ALICE.peer_id.raw, Lane.DATA): ()}))
        await scene.check_alive()
        while MALLORY.peer_id in replicator.peers:
            with contextlib.suppress(asyncio.QueueFull):
                stranger._link.other.inbox.put_nowait(b"")
            await asyncio.sleep(0.05)
        waiting = stranger._link.inbox.qsize()
        assert waiting <= 16, "no more than the stream takes"
    await scene.check_alive()


async def test_who_does_not_answer_does_not_keep_others_from_it_for_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.sync_session.LEASE_S", 0.3)
    monkeypatch.setattr("lattica.store.sync_session.PING_S", 0.2)
    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        await stranger.offer(ChainId(BOB.peer_id.raw, Lane.DATA), 99, b"a hash..")
        staying = asyncio.create_task(stranger.wait_end())
        await scene.check_alive()
        assert not staying.done()
        monkeypatch.setattr("lattica.store.sync_session.ANSWER_S", 0.1)
        await staying
    assert scene.shuns(MALLORY.peer_id)


async def test_floods_of_heads_do_not_hold_up_others(scene: Scene) -> None:
    async def flood(stranger: Stranger) -> None:
        for turn in range(1, 1000):
            heads = {ChainId(number.to_bytes(38), 1): Offer(turn, b"a hash..") for number in range(3000)}
            await stranger.say(SyncMessage(heads=heads))

    async def drain(stranger: Stranger) -> None:
        while (message := await stranger.hear()) is not None:
            if message.wanted:
                await stranger.say(SyncMessage(answered=True))

    async with asyncio.timeout(PATIENCE_S), scene.stranger() as stranger:
        tasks = [asyncio.create_task(flood(stranger)), asyncio.create_task(drain(stranger))]
        await scene.check_alive()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_strangers_that_call_do_not_keep_us_from_whom_we_choose(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob, asyncio.timeout(PATIENCE_S):
        ours = await alice.create()
        network.partition([ALICE.peer_id], [BOB.peer_id])
        async with contextlib.AsyncExitStack() as stack:
            strangers = [
                await stack.enter_async_context(stranger_at(network, alice, ours, key_of(number)))
                for number in range(10, 26)
            ]
            replicator = alice.replicator_of(ours.namespace)
            assert replicator is not None
            while len(replicator.peers) < len(strangers):
                await asyncio.sleep(0.01)
            staying = [asyncio.create_task(stranger.wait_end()) for stranger in strangers]
            network.heal()
            opening = asyncio.create_task(bob.open(ours.namespace))
            replicator.add_peers([BOB.peer_id])
            async with ours.transaction():
                ours.map("m")["a"] = 1
            theirs = await opening
            while dict(theirs.map("m")) != {"a": 1}:
                await asyncio.sleep(0.01)
            assert not any(task.done() for task in staying)
            for task in staying:
                task.cancel()
            await asyncio.wait(staying)
