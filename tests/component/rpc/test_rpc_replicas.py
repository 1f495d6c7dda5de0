"""Nodes offer names and find who offers them: over memory, and over real rooms."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from mesh_rooms import Rooms, open_rooms
from replica_network import MemoryServices
from service_records import NAME, key, peer, record
from waiting import until

from lattica.dht.testing import in_virtual_time
from lattica.errors import NoReplicaError, UsageError
from lattica.identity import IdentityKey, PeerId
from lattica.rpc import Replicas, ReplicaSet, open_replicas
from lattica.rpc.breaker import TRIP_AFTER
from lattica.rpc.replicas import Outcome, ReplicaSettings
from lattica.rpc.replicas.limits import MAX_HEARSAY_PER_SOURCE
from lattica.rpc.replicas.record import service_key
from lattica.rpc.replicas.wire import encode_answer


@pytest.fixture
def network() -> MemoryServices:
    return MemoryServices()


def known(replicas: ReplicaSet) -> set[PeerId]:
    """Whom it may call."""
    return {one.peer_id for one in replicas.status() if one.is_confirmed and one.state == "closed"}


@in_virtual_time
async def test_a_replica_is_found_by_its_name(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(9) as user:
        one.announce(NAME, capacity=3, load=lambda: 2.0)
        assert one.offered == [NAME]
        replicas = user.replica_set(NAME)
        assert await replicas.pick(timeout=5) == peer(1)
        (status,) = replicas.status()
        assert (status.capacity, status.load, status.is_confirmed) == (3, 2.0, True)
        assert user.replica_set(NAME) is replicas


@in_virtual_time
async def test_callers_wait_for_the_first_replica(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(9) as user:
        waiting = asyncio.create_task(user.replica_set(NAME).pick(timeout=10))
        await until(lambda: network.searches > 0)
        one.announce(NAME)
        assert await waiting == peer(1)


@in_virtual_time
async def test_without_a_replica_the_error_says_what_was_tried(network: MemoryServices) -> None:
    network.providers[service_key(NAME)] = [peer(1), peer(2)]
    async with network.node(2), network.node(9) as user:
        with pytest.raises(NoReplicaError) as caught:
            await user.replica_set(NAME).wait_available(0.2)
    assert caught.value.name == NAME
    assert caught.value.attempts["dht"] == "it named 2 peers"
    assert "nobody there" in caught.value.attempts[str(peer(1))]
    assert caught.value.attempts[str(peer(2))] == "it does not offer the service"
    assert "no replica of 'llm/layers-0-7' can be called" in str(caught.value)


@in_virtual_time
async def test_as_many_replicas_as_were_started_are_waited_for(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(2) as two, network.node(9) as user:
        replicas = user.replica_set(NAME)
        waiting = asyncio.create_task(replicas.wait_healthy(2, timeout=60))
        one.announce(NAME)
        await replicas.pick(timeout=60)
        assert not waiting.done()
        two.announce(NAME)
        await waiting
        assert {status.peer_id for status in replicas.status() if status.is_confirmed} == {peer(1), peer(2)}
        with pytest.raises(NoReplicaError, match="2 of 3 are well"):
            await replicas.wait_healthy(3, timeout=0.2)


@in_virtual_time
async def test_nobody_waits_for_a_node_that_closes(network: MemoryServices) -> None:
    async with network.node(9) as user:
        waiting = asyncio.create_task(user.replica_set(NAME).pick())
        await until(lambda: network.searches > 0)
    with pytest.raises(NoReplicaError, match="it is closing"):
        await waiting


@in_virtual_time
async def test_one_answer_finds_all(network: MemoryServices) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(1, 6):
            node = await stack.enter_async_context(network.node(number))
            node.announce(NAME)
        first = network.nodes[peer(1)].replica_set(NAME)
        await until(lambda: len(known(first)) == 4)
        network.providers[service_key(NAME)] = [peer(1)]
        user = await stack.enter_async_context(network.node(9))
        replicas = user.replica_set(NAME)
        await replicas.pick(key="k", timeout=5)
        await until(lambda: len(known(replicas)) == 5, 1.0)
        assert network.searches <= 6 * 2


@in_virtual_time
async def test_the_others_learn_of_a_new_replica_from_itself(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(2) as two:
        one.announce(NAME)
        await until(lambda: service_key(NAME) in network.providers)
        two.announce(NAME)
        await until(lambda: known(one.replica_set(NAME)) == {peer(2)}, 1.0)


@in_virtual_time
async def test_a_withdrawn_name_is_over_at_once(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(2) as two, network.node(9) as user:
        one.announce(NAME)
        two.announce(NAME)
        replicas = user.replica_set(NAME)
        replicas.choose()
        await until(lambda: known(replicas) == {peer(1), peer(2)})
        await one.withdraw(NAME)
        assert known(replicas) == {peer(2)}
        await one.withdraw(NAME)  # once more is no error
        one.announce(NAME)
        await until(lambda: known(replicas) == {peer(1), peer(2)})


@in_virtual_time
async def test_a_node_that_stops_withdraws_its_names(network: MemoryServices) -> None:
    async with network.node(9) as user:
        async with network.node(1) as one:
            one.announce(NAME)
            assert await user.replica_set(NAME).pick(timeout=5) == peer(1)
        assert user.replica_set(NAME).choose() is None


@in_virtual_time
async def test_whoever_was_not_told_hears_the_goodbye_when_it_asks(network: MemoryServices) -> None:
    async with network.node(1, lease=2.0, farewell=False) as one, network.node(9) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(timeout=5)
        await one.withdraw(NAME)
        assert known(replicas) == {peer(1)}
        await until(lambda: not replicas.status(), 1.6)  # before the lease's end


@pytest.mark.parametrize("skew", [-100_000.0, 0.0, 100_000.0])
@in_virtual_time
async def test_a_dead_replica_vanishes_when_its_lease_ends_whatever_its_clock(
    network: MemoryServices, skew: float
) -> None:
    lease = 1.0
    async with network.node(1, lease=lease, skew=skew) as one, network.node(9) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(timeout=5)
        loop = asyncio.get_running_loop()
        lives = loop.time() + 2 * lease
        while loop.time() < lives:  # renewed meanwhile
            assert replicas.choose() == peer(1)
            await asyncio.sleep(0.05)
        network.gone.add(peer(1))
        died = loop.time()
        await until(lambda: not replicas.status(), lease + 0.3)
        assert loop.time() - died <= lease + 0.1
        with pytest.raises(NoReplicaError):
            await replicas.wait_available(0.01)


@in_virtual_time
async def test_a_replica_that_is_back_is_found_again(network: MemoryServices) -> None:
    async with network.node(1, lease=0.5) as one, network.node(9) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(timeout=5)
        network.gone.add(peer(1))
        await until(lambda: not replicas.status())
        network.gone.clear()
        assert await replicas.pick(timeout=5) == peer(1)


@in_virtual_time
async def test_calls_leave_a_replica_that_fails_and_come_back_after_a_probe(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(2) as two, network.node(9) as user:
        one.announce(NAME)
        two.announce(NAME)
        replicas = user.replica_set(NAME)
        replicas.choose()
        await until(lambda: known(replicas) == {peer(1), peer(2)})
        network.gone.add(peer(1))
        for _ in range(TRIP_AFTER):
            replicas.started(peer(1))
            replicas.finished(peer(1), 0.01, Outcome.FAILED)
        assert {replicas.choose() for _ in range(20)} == {peer(2)}
        asked = network.asked[peer(1)]
        network.gone.clear()
        await until(lambda: known(replicas) == {peer(1), peer(2)}, 5.0)
        assert network.asked[peer(1)] > asked


@in_virtual_time
async def test_a_name_that_nobody_uses_is_not_asked_about(network: MemoryServices) -> None:
    async with network.node(1, lease=0.6) as one, network.node(9, idle=0.3) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(timeout=5)
        await until(lambda: not replicas._watching)
        asked = network.asked[peer(1)]
        await asyncio.sleep(1.2)  # two leases
        assert network.asked[peer(1)] == asked
        assert replicas.choose() is None  # what was known has expired; this use wakes it
        assert await replicas.pick(timeout=5) == peer(1)


@in_virtual_time
async def test_a_name_that_was_used_once_leaves_nothing(network: MemoryServices) -> None:
    async with network.node(9, idle=0.05) as user:
        user.replica_set("used/once").choose()
        await until(lambda: not user.replica_set("used/once")._watching)
        gc.collect()
        assert "used/once" not in user._sets


@in_virtual_time
async def test_few_questions_keep_many_replicas_known(network: MemoryServices) -> None:
    """What others pass on spares questions: fewer than one a lease and pair."""
    count, lease = 12, 1.0
    async with contextlib.AsyncExitStack() as stack:
        for number in range(1, count + 1):
            node = await stack.enter_async_context(network.node(number, lease=lease))
            node.announce(NAME)
        sets = [node.replica_set(NAME) for node in network.nodes.values()]
        await until(lambda: all(len(known(one)) == count - 1 for one in sets))
        before, leases = sum(network.asked.values()), 4
        await asyncio.sleep(leases * lease)
        assert all(len(known(one)) == count - 1 for one in sets)
        a_lease = (sum(network.asked.values()) - before) / leases
        assert a_lease < 1.6 * count * (count - 1)


@in_virtual_time
async def test_a_liar_brings_in_no_more_than_its_share(network: MemoryServices) -> None:
    """Made-up replicas are asked, and called only when no real one is there."""
    made_up = iter(range(1000, 100_000))

    def lie() -> bytes:
        loop = asyncio.get_running_loop()
        wall = 1_750_000_000 + loop.time()
        others = [(record(next(made_up), issued_at=wall).envelope, 30.0) for _ in range(30)]
        return encode_answer(record(5, lease=0.5, issued_at=wall).envelope, others)

    network.answer[peer(5)] = lie
    network.providers[service_key(NAME)] = [peer(5), peer(1)]
    async with network.node(1) as one, network.node(9) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(key="k", timeout=5)
        await until(lambda: network.asked.get(peer(5), 0) > 3)
        assert len(replicas.status()) <= 2 + MAX_HEARSAY_PER_SOURCE
        assert {replicas.choose() for _ in range(50)} <= {peer(1), peer(5)}


@pytest.mark.parametrize(
    "answer",
    [
        b"junk\xff",
        encode_answer(record(2).envelope, []),
        encode_answer(record(5, name="other").envelope, []),
        encode_answer(record(5).envelope, [(b"junk", 30.0)]),
        encode_answer(b"", [(record(6).envelope, 30.0)] * 10_000),
    ],
    ids=["junk", "foreign", "other-name", "forged-other", "flood"],
)
@in_virtual_time
async def test_an_answer_that_breaks_the_protocol_counts_for_nothing(network: MemoryServices, answer: bytes) -> None:
    network.answer[peer(5)] = lambda: answer
    network.providers[service_key(NAME)] = [peer(5)]
    async with network.node(9) as user:
        with pytest.raises(NoReplicaError, match=r"broke the protocol|malformed"):
            await user.replica_set(NAME).wait_available(0.2)
        assert user.replica_set(NAME).status() == []


@in_virtual_time
async def test_only_the_replica_itself_says_goodbye(network: MemoryServices) -> None:
    async with network.node(1) as one, network.node(9) as user:
        one.announce(NAME)
        replicas = user.replica_set(NAME)
        await replicas.pick(timeout=5)
        goodbye = record(1, instance=2, sequence=1, lease=0).envelope
        with pytest.raises(Exception, match="not the caller's own"):
            user.goodbye(goodbye, peer(2))
        with pytest.raises(Exception, match="not the caller's own"):
            user.goodbye(record(1).envelope, peer(1))
        assert known(replicas) == {peer(1)}
        user.goodbye(goodbye, peer(1))
        assert known(replicas) == set()


@in_virtual_time
async def test_bad_names_and_capacities_are_refused(network: MemoryServices) -> None:
    async with network.node(1) as one:
        with pytest.raises(UsageError, match="cannot be a service's name"):
            one.replica_set("two words")
        with pytest.raises(UsageError, match="cannot be a service's name"):
            one.announce("")
        with pytest.raises(UsageError, match="capacity"):
            one.announce(NAME, capacity=0)


# over real rooms


@dataclass
class KnownProviders:
    """A `ServiceRouting` that is told who is there."""

    providers: list[PeerId] = field(default_factory=list)

    async def find(self, key: bytes) -> AsyncIterator[PeerId]:
        for provider in self.providers:
            yield provider

    async def announce(self, key: bytes) -> None:
        """Told otherwise."""

    def withdraw(self, key: bytes) -> None:
        """Told otherwise."""


@contextlib.asynccontextmanager
async def opened(number: int, routing: KnownProviders, **settings: float) -> AsyncIterator[tuple[Rooms, Replicas]]:
    identity: IdentityKey = key(number)
    given = ReplicaSettings(**settings)  # type: ignore[arg-type]
    async with (
        open_rooms(key=identity) as rooms,
        open_replicas(identity, rooms.rpc, routing, settings=given) as replicas,
    ):
        rooms.rpc.use_replicas(replicas)
        yield rooms, replicas


@pytest.mark.slow
async def test_calls_go_to_the_other_one_when_a_replica_dies(network: MemoryServices) -> None:
    """It stops without a goodbye: nothing of it is left when its lease is over."""
    nobody = KnownProviders()
    async with (
        opened(9, KnownProviders([peer(1), peer(2)])) as (user, replicas),
        opened(1, nobody, lease=2.0) as (first, offering),
    ):
        async with opened(2, nobody, lease=2.0, farewell=False) as (second, also_offering):
            user.knows(first)
            user.knows(second)
            offering.announce(NAME)
            also_offering.announce(NAME)
            one = replicas.replica_set(NAME)
            one.choose()
            await until(lambda: known(one) == {peer(1), peer(2)})
            assert user.rpc.replicas is replicas
        await until(lambda: {status.peer_id for status in one.status()} == {peer(1)})
        assert await one.pick(timeout=30) == peer(1)


async def test_a_goodbye_travels_between_rooms(network: MemoryServices) -> None:
    async with (
        opened(9, KnownProviders([peer(1)])) as (user, replicas),
        opened(1, KnownProviders()) as (first, offering),
    ):
        user.knows(first)
        first.knows(user)
        offering.announce(NAME)
        one = replicas.replica_set(NAME)
        await one.pick(timeout=30)
        await offering.withdraw(NAME)
        await until(lambda: not one.status())  # long before the lease's end


async def test_rooms_without_a_node_know_no_names() -> None:
    async with open_rooms() as rooms:
        with pytest.raises(UsageError, match="open_node"):
            _ = rooms.rpc.replicas
