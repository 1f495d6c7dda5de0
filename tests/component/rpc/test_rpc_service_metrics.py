"""Calls by name are counted by service: how they end, where they move, and how many replicas there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from known_providers import Known
from mesh_rooms import Rooms, open_rooms
from prometheus_client import CollectorRegistry, Metric
from service_records import key, peer
from waiting import until

from lattica import rpc
from lattica.errors import DeadlineExceededError, NoReplicaError, RemoteError, ServerBusyError
from lattica.rpc import open_replicas
from lattica.rpc.replicas import ReplicaSettings
from lattica.rpc.service_metrics import MAX_SERVICES, OTHER, ServiceMetrics

NAME = "metered"


@rpc.service()
class Metered:
    def __init__(self, me: int) -> None:
        self.me = me
        self.begun = 0
        self.go = asyncio.Event()

    @rpc.method(idempotent=True)
    async def who(self) -> int:
        return self.me

    @rpc.method
    async def fail(self) -> None:
        raise ValueError("no")

    @rpc.method(concurrency=1)
    async def hold(self) -> int:
        self.begun += 1
        await self.go.wait()
        return self.me

    @rpc.method(idempotent=True)
    async def slow(self) -> int:
        self.begun += 1
        await self.go.wait()
        return self.me

    @rpc.method
    async def count(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    @rpc.method
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


@dataclass
class Network:
    """A user and two replicas.

    Attributes:
        own: Ends what the user knows of replicas.
        stops: End the replicas, without a goodbye.
    """

    user: Rooms
    registry: CollectorRegistry
    own: contextlib.AsyncExitStack
    served: list[Metered]
    stops: list[contextlib.AsyncExitStack]
    stub: Metered

    def value(self, metric: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"lattica_rpc_service_{metric}", {"service": NAME, **labels}) or 0.0

    def outcomes(self) -> dict[str, float]:
        """Of the calls that have ended, once Prometheus has been told."""
        return values(self.registry, "calls", "outcome")


def values(registry: CollectorRegistry, metric: str, label: str) -> dict[str, float]:
    families: list[Metric] = [one for one in registry.collect() if one.name == f"lattica_rpc_service_{metric}"]
    samples = [sample for family in families for sample in family.samples if sample.name.endswith("_total")]
    return {sample.labels[label]: sample.value for sample in samples}


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    routing, registry, silent = Known(), CollectorRegistry(), ReplicaSettings(farewell=False)
    async with asyncio.timeout(50), contextlib.AsyncExitStack() as stack:
        user = await stack.enter_async_context(open_rooms(key=key(9)))
        metrics = ServiceMetrics(registry)
        own = await stack.enter_async_context(contextlib.AsyncExitStack())
        replicas = await own.enter_async_context(open_replicas(key(9), user.rpc, routing, metrics=metrics))
        user.rpc.use_replicas(replicas)
        served: list[Metered] = []
        stops = []
        for number in (1, 2):
            stop = await stack.enter_async_context(contextlib.AsyncExitStack())
            rooms = await stop.enter_async_context(open_rooms(key=key(number)))
            rooms.rpc.use_replicas(
                await stop.enter_async_context(open_replicas(key(number), rooms.rpc, Known(), settings=silent))
            )
            user.knows(rooms)
            routing.providers.append(rooms.peer_id)
            metered = Metered(number)
            rooms.rpc.serve(metered, name=NAME, announce=True)
            served.append(metered)
            stops.append(stop)
        network = Network(user, registry, own, served, stops, user.rpc.service(NAME, Metered, timeout=20.0))
        await network.stub.who()
        await until(lambda: network.value("replicas_healthy") == 2)
        yield network
        for metered in served:
            metered.go.set()


async def test_calls_of_all_kinds_are_counted_by_how_they_end(network: Network) -> None:
    await asyncio.gather(*(network.stub.who() for _ in range(10)))
    assert [number async for number in network.stub.count(3)] == [0, 1, 2]
    assert await network.stub.total([1, 2]) == 3  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(RemoteError):
            await network.stub.fail()
    with pytest.raises(DeadlineExceededError):
        await rpc.options(network.stub, timeout=0.1).hold()
    await until(lambda: sum(network.outcomes().values()) == 16)
    assert network.outcomes() == {"ok": 13, "failed": 2, "deadline_exceeded": 1}
    assert values(network.registry, "moves", "reason") == {}


async def test_a_call_that_nobody_can_take_is_counted(network: Network) -> None:
    nobody = network.user.rpc.service("nobody", Metered, timeout=0.2)
    with pytest.raises(NoReplicaError):
        await nobody.who()
    await until(lambda: "no_replica" in network.outcomes())
    assert values(network.registry, "calls", "service") == {NAME: 1, "nobody": 1}


async def test_a_call_that_goes_on_to_another_replica_is_counted_once_with_its_move(network: Network) -> None:
    running = [asyncio.create_task(network.stub.hold()) for _ in range(2)]
    await until(lambda: [one.begun for one in network.served] == [1, 1])
    with pytest.raises(ServerBusyError):
        await rpc.options(network.stub, attempts=2).hold()
    await until(lambda: network.outcomes() == {"ok": 1, "resource_exhausted": 1})
    assert values(network.registry, "moves", "reason") == {"resource_exhausted": 1}
    for one in network.served:
        one.go.set()
    await asyncio.gather(*running)


@pytest.mark.parametrize("answering", [0, 1], ids=["first", "second"])
async def test_second_attempts_are_counted_by_who_answered(network: Network, answering: int) -> None:
    replicas = network.user.rpc.replicas.replica_set(NAME)
    answer = asyncio.create_task(rpc.options(network.stub, hedge_after=0.05).slow())
    while not (called := [one.peer_id for one in replicas.status() if one.in_flight]):
        await asyncio.sleep(0)
    order = sorted(network.served, key=lambda one: peer(one.me) not in called)  # by call: the second may begin first
    await until(lambda: [one.begun for one in order] == [1, 1])
    order[answering].go.set()
    assert await answer == order[answering].me
    counted = {("first", "second")[answering]: 1}
    assert values(network.registry, "hedges", "answered_by") == counted
    assert values(network.registry, "moves", "reason") == {}
    for metered in network.served:
        metered.go.set()
    await rpc.options(network.stub, hedge_after=10.0).slow()
    assert values(network.registry, "hedges", "answered_by") == counted, "its second attempt was not made"


async def test_a_replica_that_does_not_answer_is_known_but_not_healthy(network: Network) -> None:
    await network.stops[0].aclose()
    while network.value("replicas_healthy") == 2:
        assert set(await asyncio.gather(*(network.stub.who() for _ in range(10)))) == {2}
    await until(lambda: network.value("replicas_healthy") == 1)
    assert network.value("replicas_known") == 2, "its lease holds"
    assert values(network.registry, "moves", "reason")


async def test_what_a_node_knew_goes_with_it(network: Network) -> None:
    await network.own.aclose()
    assert (network.value("replicas_known"), network.value("replicas_healthy")) == (0, 0)
    assert network.outcomes() == {"ok": 1}


async def test_names_that_a_program_makes_up_do_not_make_labels_without_end() -> None:
    registry = CollectorRegistry()
    metrics = ServiceMetrics(registry)
    for number in range(MAX_SERVICES + 3):
        metrics.of(f"name {number}").moved("unreachable")
    metrics.of("name 0").moved("unreachable")
    moved = values(registry, "moves", "service")
    assert (len(moved), moved["name 0"], moved[OTHER]) == (MAX_SERVICES + 1, 2, 3)


async def test_replicas_that_several_nodes_of_a_process_see_are_added() -> None:
    registry = CollectorRegistry()
    metrics = ServiceMetrics(registry)
    one, other = metrics.of(NAME), metrics.of(NAME)
    one.replicas(known=3, healthy=2)
    other.replicas(known=2, healthy=2)
    one.replicas(known=1, healthy=0)
    assert registry.get_sample_value("lattica_rpc_service_replicas_known", {"service": NAME}) == 3
    assert registry.get_sample_value("lattica_rpc_service_replicas_healthy", {"service": NAME}) == 2
