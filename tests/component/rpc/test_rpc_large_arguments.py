"""Large arguments that a node has no room for, of peers that send and of peers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import ServerBusyError
from lattica.rpc import own_server
from lattica.rpc.batch_wire import CALL_METHOD, ONCE
from lattica.rpc.intake import Intake
from lattica.rpc.own_wire import _SIZE, _VALUE_HEAD, VALUE, CallHeader, header_message

MIB = 1 << 20


@rpc.service("intake")
class Taker:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.begun = 0

    @rpc.method
    async def hold(self, data: bytes) -> int:
        self.running += 1
        await self.go.wait()
        self.running -= 1
        return len(data)

    @rpc.method(concurrency=1)
    async def hold_one(self, data: bytes) -> None:
        self.running += 1
        await self.go.wait()

    @rpc.method(concurrency=1, idempotent=True)
    async def hold_one_again(self, data: bytes) -> None:
        self.running += 1
        await self.go.wait()

    @rpc.method
    async def sizes(self, items: AsyncIterator[bytes]) -> list[int]:
        self.begun += 1
        return [len(item) async for item in items]

    @rpc.method(idempotent=True)
    async def sizes_again(self, items: AsyncIterator[bytes]) -> list[int]:
        return await self.sizes(items)

    @rpc.method
    async def each_size(self, items: AsyncIterator[bytes]) -> AsyncIterator[int]:
        self.begun += 1
        async for item in items:
            yield len(item)

    @rpc.method
    def plain_sizes(self, items: Iterator[bytes]) -> list[int]:
        self.begun += 1
        return [len(item) for item in items]

    @rpc.method(concurrency=1)
    async def hold_stream(self, items: AsyncIterator[int]) -> int:
        self.running += 1
        await self.go.wait()
        return sum([item async for item in items])

    @rpc.method(concurrency=1)
    async def hold_results(self, count: int) -> AsyncIterator[int]:
        self.running += 1
        await self.go.wait()
        for number in range(count):
            yield number


@dataclass
class Two:
    alice: Rooms
    bob: Rooms
    served: Taker
    stub: Taker

    @property
    def intake(self) -> Intake:
        return self.bob.rpc._calls.intake

    def announcing(self, size: int, method: str = "hold", flags: int = 0) -> Any:
        """A call by hand, of which only the announcement of its arguments is sent."""
        call = self.alice.rpc.channel(self.bob.peer_id).stream_stream(CALL_METHOD)()
        value = _VALUE_HEAD.pack(VALUE, 1, 1) + _SIZE.pack(size) + b"x"
        return call, header_message(CallHeader(f"intake/{method}", bytes(16), 0, flags)) + value


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with asyncio.timeout(60), open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        served = Taker()
        bob.rpc.serve(served)
        bob.rpc._calls.intake = Intake(16 * MIB)
        yield Two(alice, bob, served, rpc.options(alice.rpc.stub(Taker, bob.peer_id), attempts=1))


@pytest.mark.parametrize("size", [MIB, 7 * MIB], ids=["one-message", "pieces"])
async def test_what_is_over_a_peers_share_is_refused_while_the_rest_runs(two: Two, size: int) -> None:
    """As long as the method runs, for that is how long its arguments are there."""
    fitting = two.intake.peer_limit // (size + 100)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(two.stub.hold(bytes(size))) for _ in range(fitting)]
        await until(lambda: two.served.running == fitting)
        with pytest.raises(ServerBusyError, match="of your arguments at one time"):
            await two.stub.hold(bytes(size))
        two.served.go.set()
    assert [task.result() for task in running] == [size] * fitting
    await until(lambda: two.intake.taken == 0)
    assert await two.stub.hold(bytes(size)) == size


async def test_a_claim_that_is_too_large_is_refused_before_anything_comes(two: Two) -> None:
    call, message = two.announcing(two.intake.peer_limit)
    await call.write(message)
    assert b"of your arguments at one time" in await call.read()
    assert two.intake.taken == 0
    call.cancel()


@pytest.mark.parametrize(("method", "flags"), [("hold_one", ONCE), ("hold_one_again", 0)])
async def test_a_busy_method_refuses_before_the_arguments_come(two: Two, method: str, flags: int) -> None:
    running = asyncio.create_task(getattr(two.stub, method)(b"x"))
    await until(lambda: two.served.running == 1)
    call, message = two.announcing(8 * MIB, method, flags)
    await call.write(message)
    assert b"calls of it under way" in await call.read()
    call.cancel()
    two.served.go.set()
    await running


async def test_who_announces_and_sends_nothing_loses_its_claim(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_server, "PIECE_WAIT_S", 0.1)
    call, message = two.announcing(8 * MIB)
    await call.write(message)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert "of which nothing came" in await call.details()
    await until(lambda: two.intake.taken == 0)


async def test_who_leaves_in_the_middle_loses_its_claim(two: Two) -> None:
    call, message = two.announcing(8 * MIB)
    await call.write(message)
    await until(lambda: two.intake.taken > 8 * MIB)
    call.cancel()
    await until(lambda: two.intake.taken == 0)


async def test_items_of_a_stream_count_one_at_a_time(two: Two) -> None:
    size = two.intake.peer_limit // 2
    assert await two.stub.sizes(_stream(size, size, size, size)) == [size] * 4
    await until(lambda: two.intake.taken == 0)


OVER: list[Callable[[Taker, Any], Coroutine[Any, Any, Any]]] = [
    lambda stub, items: stub.sizes(items),
    lambda stub, items: stub.plain_sizes(items),
    lambda stub, items: _all(stub.each_size(items)),
]


@pytest.mark.parametrize("call", OVER, ids=["requests", "plain-requests", "both"])
async def test_an_item_of_a_stream_that_finds_no_room_is_refused_as_busy(two: Two, call: Any) -> None:
    with pytest.raises(ServerBusyError, match=r"was broken off: .* of your arguments at one time") as caught:
        await call(two.stub, _stream(1, two.intake.peer_limit + 1))
    assert caught.value.has_begun
    await until(lambda: _refused(two) == 1)
    await until(lambda: two.intake.taken == 0)


@pytest.mark.parametrize(
    ("method", "lasts", "begun"), [("sizes_again", True, 3), ("sizes", True, 1), ("sizes_again", False, 1)]
)
async def test_it_is_sent_again_if_it_may_run_twice_and_its_items_can_be_had_again(
    two: Two, method: str, lasts: bool, begun: int
) -> None:
    items = [bytes(two.intake.peer_limit + 1)]
    with pytest.raises(ServerBusyError):
        await getattr(rpc.options(two.stub, attempts=3), method)(items if lasts else iter(items))
    assert two.served.begun == begun


@pytest.mark.parametrize(
    "call",
    [lambda stub: stub.hold_stream([1, 2]), lambda stub: _all(stub.hold_results(3))],
    ids=["requests", "results"],
)
async def test_a_stream_that_was_refused_before_it_began_is_made_again(two: Two, call: Any) -> None:
    first = asyncio.create_task(call(two.stub))
    await until(lambda: two.served.running == 1)
    with pytest.raises(ServerBusyError, match="was not begun"):
        await call(two.stub)
    patient = asyncio.create_task(call(rpc.options(two.stub, attempts=1000)))
    await until(lambda: _refused(two) >= 3)
    two.served.go.set()
    assert await patient == await first


def _refused(two: Two) -> float:
    samples = [sample for metric in two.bob.rpc.metrics.total.collect() for sample in metric.samples]
    refused = [one for one in samples if one.labels["outcome"] == "resource_exhausted" and one.name.endswith("total")]
    return float(sum(one.value for one in refused))


async def _all(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


async def _stream(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield bytes(size)
