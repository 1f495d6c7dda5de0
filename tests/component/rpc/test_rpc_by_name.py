"""Calls to whichever replica offers a name, over real rooms."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from append_log import Log, log_process
from known_providers import Known
from mesh_rooms import Rooms, open_rooms
from service_records import key, peer
from waiting import until

from lattica import rpc
from lattica.errors import (
    DeadlineExceededError,
    DecodeError,
    NoReplicaError,
    NoSuchMethodError,
    OutcomeUnknownError,
    RemoteError,
    ServerBusyError,
    UsageError,
)
from lattica.rpc import Replicas, open_replicas

NAME = "llm/layers-0-7"
USER = 9


@rpc.service("layers")
class Layers:
    """Says who it is, and does what tests need."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.begun = 0
        self.go = asyncio.Event()

    @rpc.method(idempotent=True)
    async def who(self) -> int:
        self.begun += 1
        return self.me

    @rpc.method
    async def append(self, _: int) -> int:
        self.begun += 1
        return self.me

    @rpc.method(concurrency=1)
    async def wait(self) -> int:
        self.begun += 1
        await self.go.wait()
        return self.me

    @rpc.method(idempotent=True)
    async def slow_at(self, slow: int) -> int:
        self.begun += 1
        if self.me == slow:
            await self.go.wait()
        return self.me

    @rpc.method
    async def fail(self) -> None:
        self.begun += 1
        raise ValueError("no")

    @rpc.method
    async def count(self, up_to: int) -> AsyncIterator[int]:
        self.begun += 1
        for number in range(up_to):
            yield number

    @rpc.method
    async def total(self, items: AsyncIterator[int]) -> int:
        self.begun += 1
        return sum([item async for item in items])

    @rpc.method(concurrency=1)
    async def hold(self, items: AsyncIterator[int]) -> int:
        self.begun += 1
        await self.go.wait()
        return self.me + sum([item async for item in items])

    @rpc.method(concurrency=1)
    async def hold_each(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        self.begun += 1
        await self.go.wait()
        yield self.me
        async for item in items:
            yield item


@rpc.service("other")
class Other:
    """Has none of those methods."""

    @rpc.method
    async def unrelated(self) -> None: ...


@contextlib.asynccontextmanager
async def opened(number: int, routing: Known) -> AsyncIterator[Rooms]:
    identity = key(number)
    async with (
        open_rooms(key=identity) as rooms,
        open_replicas(identity, rooms.rpc, routing) as replicas,
    ):
        rooms.rpc.use_replicas(replicas)
        yield rooms


@dataclass
class Network:
    """A user that knows where the replicas 1, 2, … are.

    Attributes:
        served: What they serve.
        stops: End one of them.
    """

    user: Rooms
    routing: Known
    stack: contextlib.AsyncExitStack
    served: dict[int, Layers] = field(default_factory=dict)
    stops: dict[int, contextlib.AsyncExitStack] = field(default_factory=dict)
    rooms: dict[int, Rooms] = field(default_factory=dict)

    async def add(self, number: int, **options: Any) -> Layers:
        """A replica."""
        layers = self.served[number] = Layers(number)
        rooms = await self.room(number)
        rooms.rpc.serve(layers, name=NAME, announce=True, **options)
        return layers

    async def room(self, number: int) -> Rooms:
        """Rooms that the user knows of, and that the routing names as a provider."""
        stop = self.stops[number] = await self.stack.enter_async_context(contextlib.AsyncExitStack())
        rooms = self.rooms[number] = await stop.enter_async_context(opened(number, Known()))
        self.user.knows(rooms)
        self.routing.providers.append(rooms.peer_id)
        return rooms

    def stub(self, **options: Any) -> Layers:
        return self.user.rpc.service(NAME, Layers, **{"timeout": 20.0, **options})

    @property
    def replicas(self) -> Replicas:
        return self.user.rpc.replicas

    async def all_known(self) -> None:
        """Wait until the user has heard all replicas."""
        names = self.replicas.replica_set(NAME)
        names.choose()
        await until(lambda: {one.peer_id for one in names.status() if one.is_confirmed} == set(map(peer, self.served)))

    @property
    def in_flight(self) -> int:
        return sum(one.in_flight for one in self.replicas.replica_set(NAME).status())


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    routing = Known()
    async with asyncio.timeout(50), contextlib.AsyncExitStack() as stack:
        user = await stack.enter_async_context(opened(USER, routing))
        network = Network(user, routing, stack)
        yield network
        for layers in network.served.values():
            layers.go.set()


async def test_calls_are_spread_over_the_replicas(network: Network) -> None:
    await network.add(1)
    await network.add(2)
    await network.all_known()
    answers = Counter(await asyncio.gather(*(network.stub().who() for _ in range(200))))
    assert set(answers) == {1, 2}
    assert min(answers.values()) > 20
    assert network.in_flight == 0


async def test_the_first_call_waits_for_a_replica(network: Network) -> None:
    waiting = asyncio.create_task(network.stub().who())
    await network.add(1)
    assert await waiting == 1


async def test_without_a_replica_the_call_ends_with_its_deadline(network: Network) -> None:
    with pytest.raises(NoReplicaError, match="no replica of 'llm/layers-0-7' can be called"):
        await network.stub(timeout=0.3).who()


async def test_calls_with_a_key_stay_at_one_replica_until_it_goes(network: Network) -> None:
    for number in (1, 2, 3):
        await network.add(number)
    await network.all_known()
    stubs = [rpc.options(network.stub(), key=f"session {number}") for number in range(12)]
    homes = [await stub.who() for stub in stubs]
    assert len(set(homes)) > 1
    for _ in range(3):
        assert [await stub.who() for stub in stubs] == homes
    gone = homes[0]
    await network.stops[gone].aclose()
    after = [await stub.who() for stub in stubs]
    assert [one for one, home in zip(after, homes, strict=True) if home != gone] == [
        home for home in homes if home != gone
    ]
    assert gone not in after


async def test_who_does_not_serve_what_it_offers_is_left_for_another(network: Network) -> None:
    await network.add(1)
    liar = await network.room(2)
    liar.rpc.serve(Other(), name=NAME, announce=True)
    names = network.replicas.replica_set(NAME)
    names.choose()
    await until(lambda: len([one for one in names.status() if one.is_confirmed]) == 2)
    assert [await network.stub().who() for _ in range(30)] == [1] * 30


async def test_if_nobody_serves_the_method_the_caller_is_told(network: Network) -> None:
    liar = await network.room(2)
    liar.rpc.serve(Other(), name=NAME, announce=True)
    with pytest.raises((NoSuchMethodError, NoReplicaError)):
        await network.stub().who()


async def test_a_busy_replica_is_left_for_another(network: Network) -> None:
    layers = [await network.add(1), await network.add(2)]
    await network.all_known()
    waiting = [asyncio.create_task(network.stub().wait()) for _ in range(2)]
    await until(lambda: [one.begun for one in layers] == [1, 1])
    with pytest.raises(ServerBusyError):
        await network.stub(attempts=2).wait()
    for one in layers:
        one.go.set()
    assert sorted(await asyncio.gather(*waiting)) == [1, 2]


async def test_with_a_key_a_busy_replica_is_waited_for(network: Network) -> None:
    layers = {1: await network.add(1), 2: await network.add(2)}
    await network.all_known()
    stub = network.stub(key="k", attempts=100)
    home = await stub.who()
    first = asyncio.create_task(stub.wait())
    await until(lambda: layers[home].begun == 2)
    second = asyncio.create_task(stub.wait())
    names = network.replicas.replica_set(NAME)
    await until(lambda: any(names.table._replicas[peer(home)].busy_until > 0 for _ in "x"))
    layers[home].go.set()
    assert list(await asyncio.gather(first, second)) == [home, home]
    assert layers[3 - home].begun == 0


async def test_what_a_handler_raises_is_final_and_no_fault_of_the_replica(network: Network) -> None:
    one, two = await network.add(1), await network.add(2)
    await network.all_known()
    for _ in range(10):
        with pytest.raises(RemoteError, match="no"):
            await network.stub().fail()
        with pytest.raises(DecodeError):
            await network.stub().append("not a number")  # type: ignore[arg-type]
    assert one.begun + two.begun == 10
    assert {one.state for one in network.replicas.replica_set(NAME).status()} == {"closed"}


async def test_deadlines_and_cancelled_calls_leave_nothing(network: Network) -> None:
    layers = await network.add(1)
    await network.all_known()
    while not layers.begun:  # the deadline may come before the call has begun
        with pytest.raises(DeadlineExceededError):
            await network.stub(timeout=0.2).wait()
    await until(lambda: not network.rooms[1].rpc._calls.dispatcher.running)
    before = layers.begun
    task = asyncio.create_task(network.stub().wait())
    await until(lambda: layers.begun > before)
    assert network.in_flight == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert network.in_flight == 0
    await until(lambda: not network.rooms[1].rpc._calls.dispatcher.running)
    assert await network.stub().who() == 1


async def test_a_second_attempt_of_a_slow_call_goes_to_another_replica(network: Network) -> None:
    await network.add(1)
    await network.add(2)
    await network.all_known()
    for slow in (1, 2):
        answers = {await network.stub(hedge_after=0.05).slow_at(slow) for _ in range(5)}
        assert answers == {3 - slow}
    assert network.in_flight == 0


async def test_streams(network: Network) -> None:
    one, two = await network.add(1), await network.add(2)
    await network.all_known()
    for _ in range(5):
        assert [number async for number in network.stub().count(3)] == [0, 1, 2]
        assert await network.stub().total(items=range(5)) == 10  # type: ignore[arg-type]
    assert one.begun + two.begun == 10
    async for _ in network.stub().count(1000):
        break
    await until(lambda: network.in_flight == 0)


@pytest.mark.parametrize("method", ["hold", "hold_each"])
async def test_a_stream_that_was_refused_goes_elsewhere_if_its_requests_can_be_had_again(
    network: Network, method: str
) -> None:
    layers = [await network.add(1), await network.add(2)]
    await network.all_known()

    async def call(items: Any) -> Any:
        called = getattr(network.stub(attempts=2), method)(items)
        return await called if method == "hold" else [item async for item in called]

    def refused() -> int:
        counters = [rooms.rpc.metrics.total for rooms in network.rooms.values()]
        samples = [sample for counter in counters for metric in counter.collect() for sample in metric.samples]
        refused = [sample for sample in samples if sample.labels["outcome"] == "resource_exhausted"]
        return round(sum(sample.value for sample in refused if sample.name.endswith("_total")))

    running = [asyncio.create_task(call([0])) for _ in range(2)]
    await until(lambda: [one.begun for one in layers] == [1, 1])
    with pytest.raises(ServerBusyError):
        await call([0])
    await until(lambda: refused() == 2)
    with pytest.raises(ServerBusyError):
        await call(iter([0]))
    await until(lambda: refused() == 3)
    for one in layers:
        one.go.set()
    await asyncio.gather(*running)


async def test_a_stream_of_requests_is_read_once(network: Network) -> None:
    """A replica that turns out not to serve the method has had the items: nobody else can."""
    liar = await network.room(2)
    liar.rpc.serve(Other(), name=NAME, announce=True)
    read = []

    def items() -> Any:
        for number in range(3):
            read.append(number)
            yield number

    with pytest.raises(NoSuchMethodError):
        await network.stub().total(items=items())
    assert read == sorted(set(read))


@pytest.mark.slow
async def test_calls_go_on_when_a_replica_is_killed(network: Network, tmp_path: Path) -> None:
    """Idempotent calls all succeed; of the others each that has a result ran once, and each in doubt once at most."""
    names = network.replicas.replica_set("log")
    async with contextlib.AsyncExitStack() as stack:
        replicas = []
        for number in (1, 2, 3):
            process = await stack.enter_async_context(log_process(key(number), tmp_path / str(number)))
            network.user.mesh.add_addresses(peer(number), [process.address])
            network.routing.providers.append(peer(number))
            replicas.append(process)
        names.choose()
        await until(lambda: sum(one.is_confirmed for one in names.status()) == 3, 20)
        log: Log = network.user.rpc.service("log", Log, timeout=30.0)
        numbers = iter(range(6000))
        answered, doubtful, answers_after = [], [], 0
        killed = asyncio.Event()

        async def caller() -> None:
            nonlocal answers_after
            for number in numbers:
                assert await log.read(number) == number
                try:
                    answered.append(await log.append(number))
                except OutcomeUnknownError:
                    doubtful.append(number)
                answers_after += killed.is_set()

        async with asyncio.TaskGroup() as callers:
            for _ in range(50):
                callers.create_task(caller())
            await until(lambda: len(answered) > 1000, 20)
            await replicas[0].kill()
            killed.set()
            # The calls of the others do not wait until the lost ones are given up, which takes ten seconds.
            await until(lambda: answers_after > 200, 20)
            assert not doubtful
    lines = [int(line) for number in (1, 2, 3) for line in (tmp_path / str(number)).read_text().split()]
    assert len(lines) == len(set(lines)), "executed twice"
    assert set(answered) <= set(lines) <= set(answered) | set(doubtful)
    assert sorted(answered + doubtful) == list(range(6000))
    assert len(doubtful) <= 50


async def test_load_and_capacity_are_announced(network: Network) -> None:
    layers = await network.add(1, capacity=7)
    await network.all_known()
    waiting = asyncio.create_task(network.stub().wait())
    await until(lambda: layers.begun == 1)
    assert network.rooms[1].rpc._calls.dispatcher.load(NAME) == 1
    [status] = network.replicas.replica_set(NAME).status()
    assert status.capacity == 7
    layers.go.set()
    assert await waiting == 1
    assert network.rooms[1].rpc._calls.dispatcher.load(NAME) == 0


async def test_objects_of_one_class_under_different_names(network: Network) -> None:
    rooms = await network.room(1)
    for number, name in enumerate(("a", "b")):
        rooms.rpc.serve(Layers(number), name=name, announce=True)
        assert await network.user.rpc.service(name, Layers, timeout=30.0).who() == number
        assert await network.user.rpc.stub(Layers, rooms.peer_id, name=name).who() == number
    with pytest.raises(NoSuchMethodError):
        await network.user.rpc.stub(Layers, rooms.peer_id).who()


async def test_wrong_uses(network: Network) -> None:
    with pytest.raises(UsageError, match="cannot be a service's name"):
        network.user.rpc.service("two words", Layers)
    with pytest.raises(UsageError, match="is no service"):
        network.user.rpc.service(NAME, Known)
    with pytest.raises(UsageError, match="capacity"):
        network.user.rpc.serve(Layers(0), announce=True, capacity=0)
    with pytest.raises(UsageError, match="cannot be a service's name"):
        network.user.rpc.serve(Layers(0), name="")
    network.user.rpc.serve(Layers(0))  # nothing was served half
    async with open_rooms() as rooms:
        with pytest.raises(UsageError, match="open_node"):
            rooms.rpc.service(NAME, Layers)
        with pytest.raises(UsageError, match="open_node"):
            rooms.rpc.serve(Layers(0), announce=True)
        rooms.rpc.serve(Layers(0))
