"""One who calls much does not hold up one who calls little: told by counts of calls, never by a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import DeadlineExceededError, LatticaError, ServerBusyError
from lattica.rpc import batch_client

AT_A_TIME = 1000
FEW = 5
SLEEPERS = 500
LIMIT = 3


@rpc.service("shared")
class Shared:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asleep = 0
        self.begun: list[int] = []

    @rpc.method(idempotent=True)
    async def echo(self, number: int) -> int:
        return number

    @rpc.method
    async def sleep(self) -> str:
        self.asleep += 1
        try:
            await self.go.wait()
        finally:
            self.asleep -= 1
        return "awake"

    @rpc.method(concurrency=LIMIT)
    async def narrow(self, number: int) -> int:
        self.begun.append(number)
        await self.go.wait()
        return number

    @rpc.method(concurrency=LIMIT, threads=LIMIT)
    def narrow_plain(self, number: int) -> int:
        self.begun.append(number)
        asyncio.run_coroutine_threadsafe(self.go.wait(), self.loop).result()
        return number

    @rpc.method(concurrency=LIMIT)
    async def narrow_results(self, number: int) -> AsyncIterator[int]:
        self.begun.append(number)
        await self.go.wait()
        yield number

    loop: asyncio.AbstractEventLoop


@dataclass
class Network:
    """A server, and peers that know it."""

    server: Rooms
    served: Shared
    peers: list[Rooms]

    def stub(self, peer: int = 0) -> Shared:
        return self.peers[peer].rpc.stub(Shared, self.server.peer_id, attempts=1)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        # A native connection takes over in the middle: answers by the one before it come later than they would.
        server = await stack.enter_async_context(open_rooms(native_port=None))
        served = Shared()
        served.loop = asyncio.get_running_loop()
        server.rpc.serve(served)
        peers = [await stack.enter_async_context(open_rooms()) for _ in range(2)]
        for peer in peers:
            peer.knows(server)
        yield Network(server, served, peers)


class Flood:
    """A great many calls: all at once, or so many at a time for as long as it takes.

    Attributes:
        answered: How many have been.
    """

    def __init__(self, stub: Shared, *, at_once: int = 0, at_a_time: int = 0) -> None:
        self.answered = 0
        self._stub = stub
        self._stopped = False
        self._tasks = [asyncio.ensure_future(self._call()) for _ in range(at_once)]
        self._tasks += [asyncio.ensure_future(self._repeat()) for _ in range(at_a_time)]

    async def _call(self) -> None:
        assert await self._stub.echo(self.answered) is not None
        self.answered += 1

    async def _repeat(self) -> None:
        while not self._stopped:
            await self._call()

    async def begun(self) -> None:
        """Return when the first calls have been answered."""
        while not self.answered:
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Return when all calls that were begun have been answered."""
        self._stopped = True
        await asyncio.gather(*self._tasks)


async def few_calls(stub: Shared, flood: Flood | None = None) -> list[int]:
    """Make some calls, one after the other; for each, how many of the flood were answered meanwhile."""
    costs = []
    for number in range(FEW):
        before = flood.answered if flood else 0
        assert await stub.echo(number) == number
        costs.append((flood.answered if flood else 0) - before)
    return costs


def middle(costs: list[int]) -> int:
    """The median: threads that carry the bytes of one call may be held up by the machine."""
    return sorted(costs)[len(costs) // 2]


@pytest.mark.parametrize("peer", [0, 1], ids=["of the same node", "of another node"])
async def test_a_call_waits_for_those_under_way_and_not_for_all_that_are_to_come(network: Network, peer: int) -> None:
    loud, quiet = network.stub(0), network.stub(peer)
    await few_calls(quiet)
    flood = Flood(loud, at_a_time=AT_A_TIME)
    await flood.begun()
    costs = await few_calls(quiet, flood)
    await flood.end()
    assert middle(costs) <= 4 * AT_A_TIME, "calls of the flood answered while one call waited"


@pytest.mark.slow
@pytest.mark.parametrize("peer", [0, 1], ids=["of the same node", "of another node"])
async def test_calls_that_wait_for_room_hold_up_none_of_others(
    network: Network, monkeypatch: pytest.MonkeyPatch, peer: int
) -> None:
    monkeypatch.setattr(batch_client, "MAX_OUTSTANDING", AT_A_TIME)
    loud, quiet = network.stub(0), network.stub(peer)
    await few_calls(quiet)
    flood = Flood(loud, at_once=20 * AT_A_TIME)
    await asyncio.sleep(0)  # all have been made, and most wait
    costs = await few_calls(quiet, flood)
    before = flood.answered
    await flood.end()
    assert middle(costs) <= 4 * AT_A_TIME, "calls of the flood answered while one call waited"
    assert before < 15 * AT_A_TIME, f"calls of the flood answered before {FEW} others"


async def test_a_stub_that_floods_leaves_room_in_each_message(network: Network) -> None:
    """When all calls are made at once, so that the one stands behind the many."""
    loud, quiet = network.stub(), network.stub()
    await few_calls(quiet)
    flood = Flood(loud, at_once=6000)
    assert await quiet.echo(1) == 1
    assert flood.answered < 1500
    await flood.end()


async def test_a_call_whose_deadline_comes_before_there_is_room_fails_then(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_client, "MAX_OUTSTANDING", 3)
    stub, served = network.stub(), network.served
    sleepers = [asyncio.ensure_future(stub.sleep()) for _ in range(3)]
    await until(lambda: served.asleep == 3)
    with pytest.raises(DeadlineExceededError, match="shared/echo"):
        await rpc.options(stub, timeout=0.05).echo(1)
    waiting = asyncio.ensure_future(stub.echo(2))
    served.go.set()
    assert await waiting == 2
    await asyncio.gather(*sleepers)


async def test_sleepers_hold_up_nobody_and_all_wake(network: Network) -> None:
    loud, quiet = network.stub(0), network.stub(1)
    sleepers = [asyncio.ensure_future(loud.sleep()) for _ in range(SLEEPERS)]
    await until(lambda: network.served.asleep == SLEEPERS)
    flood = Flood(loud, at_once=1000)
    await few_calls(loud)
    await few_calls(quiet)
    await flood.end()
    assert network.served.asleep == SLEEPERS
    assert not any(sleeper.done() for sleeper in sleepers)
    network.served.go.set()
    assert await asyncio.gather(*sleepers) == ["awake"] * SLEEPERS
    await until(lambda: not network.server.rpc._calls.dispatcher.running)


async def outcome(stub: Shared, kind: str, number: int) -> int:
    """What a narrow method of some kind returns."""
    match kind:
        case "async":
            return await stub.narrow(number)
        case "plain":
            return await stub.narrow_plain(number)
        case _:
            [result] = [result async for result in stub.narrow_results(number)]
            return result


@pytest.mark.parametrize("kind", ["async", "plain", "stream"])
async def test_what_is_above_a_limit_is_refused_while_the_others_run_on(network: Network, kind: str) -> None:
    """Whoever makes the calls: the limit is the method's, not the caller's."""
    stubs, served = [network.stub(0), network.stub(1)], network.served
    running = [asyncio.ensure_future(outcome(stubs[number % 2], kind, number)) for number in range(LIMIT)]
    await until(lambda: len(served.begun) == LIMIT)
    refused = await asyncio.gather(
        *(outcome(stubs[number % 2], kind, number) for number in range(LIMIT, 10 * LIMIT)), return_exceptions=True
    )
    assert {type(error) for error in refused} == {ServerBusyError}
    assert f"{LIMIT} calls of it" in str(refused[0])
    assert not any(call.done() for call in running)
    assert await stubs[0].echo(1) == 1
    served.go.set()
    assert await asyncio.gather(*running) == list(range(LIMIT))
    assert sorted(served.begun) == list(range(LIMIT)), "what was refused was not begun"
    assert await outcome(stubs[1], kind, 99) == 99


async def test_a_refused_call_is_made_again_until_there_is_room(network: Network) -> None:
    stub = rpc.options(network.stub(), attempts=1000, timeout=50.0)
    running = [asyncio.ensure_future(stub.narrow(number)) for number in range(4 * LIMIT)]
    await until(lambda: len(network.served.begun) == LIMIT)
    network.served.go.set()
    assert await asyncio.gather(*running) == list(range(4 * LIMIT))
    assert sorted(network.served.begun) == list(range(4 * LIMIT))


async def test_a_caller_that_goes_makes_room(network: Network) -> None:
    stub, served = network.stub(), network.served
    running = [asyncio.ensure_future(stub.narrow(number)) for number in range(LIMIT)]
    await until(lambda: len(served.begun) == LIMIT)
    running[0].cancel()

    async def gets_in() -> bool:
        call = asyncio.ensure_future(stub.narrow(LIMIT))
        await until(lambda: call.done() or LIMIT in served.begun)
        if LIMIT in served.begun:
            served.go.set()
        try:
            return await call == LIMIT
        except LatticaError:
            return False

    while not await gets_in():  # the cancellation and the call may meet on their way
        pass
    assert await asyncio.gather(*running[1:]) == [1, 2]
