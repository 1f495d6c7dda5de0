"""A peer with calls without end leaves others their share of places and threads: told by who is begun when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import ServerBusyError
from lattica.rpc import current_call, shares

LIMIT = 4
MANY = 40
LARGE = bytes(200_000)


@rpc.service("coveted")
class Coveted:
    """Each call lasts until the test ends it.

    Attributes:
        begun: Who called, the first one first.
        running: What ends the calls under way.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.running: list[asyncio.Event] = []
        self.is_over = False
        self.thread_may_end = threading.Semaphore(0)

    async def _last(self, who: str) -> None:
        self.begun.append(who)
        event = asyncio.Event()
        self.running.append(event)
        if not self.is_over:
            await event.wait()

    def end_one(self) -> None:
        self.running.pop(0).set()

    def end_all(self) -> None:
        self.is_over = True
        while self.running:
            self.end_one()

    @rpc.method(concurrency=LIMIT)
    async def small(self, who: str) -> None:
        await self._last(who)

    @rpc.method(concurrency=LIMIT)
    async def large(self, who: str, data: bytes) -> None:
        await self._last(who)

    @rpc.method(concurrency=LIMIT, idempotent=True)
    async def large_again(self, who: str, data: bytes) -> None:
        await self._last(who)

    @rpc.method(concurrency=LIMIT)
    async def results(self, who: str) -> AsyncIterator[int]:
        await self._last(who)
        yield 1

    @rpc.method
    async def unlimited(self, who: str) -> None:
        await self._last(who)

    @rpc.method(threads=1)
    def plain(self, who: str) -> None:
        self.begun.append(who)
        self.thread_may_end.acquire()

    @rpc.method
    async def caller(self) -> str:
        call = current_call()
        return str(call.peer) if call else ""


@dataclass
class Network:
    server: Rooms
    served: Coveted
    loud: Coveted
    quiet: Coveted


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with asyncio.timeout(50), AsyncExitStack() as stack:
        server, *peers = [await stack.enter_async_context(open_rooms(native_port=None)) for _ in range(3)]
        served = Coveted()
        server.rpc.serve(served)
        stubs = []
        for peer in peers:
            peer.knows(server)
            stubs.append(peer.rpc.stub(Coveted, server.peer_id, attempts=10_000))
        yield Network(server, served, *stubs)
        served.end_all()
        served.thread_may_end.release(2 * MANY)


async def first_of(results: AsyncIterator[Any]) -> Any:
    return [result async for result in results]


Call: TypeAlias = Callable[[Any, str], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "small": lambda stub, who: stub.small(who),
    "large-once": lambda stub, who: stub.large(who, LARGE),
    "large-again": lambda stub, who: stub.large_again(who, LARGE),
    "pieces": lambda stub, who: stub.large(who, 20 * LARGE),
    "results": lambda stub, who: first_of(stub.results(who)),
    "node": lambda stub, who: stub.unlimited(who),
}


@pytest.mark.parametrize("kind", CALLS)
async def test_the_next_place_is_for_the_peer_that_has_none(
    network: Network, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "KEPT_S", 60.0)
    served, call = network.served, CALLS[kind]
    if kind == "node":
        network.server.rpc._calls.dispatcher.gate.limit = LIMIT
    loud = [asyncio.ensure_future(call(network.loud, "loud")) for _ in range(MANY)]
    await until(lambda: len(served.begun) == LIMIT)
    with pytest.raises(ServerBusyError, match=f"{LIMIT} calls "):
        await call(rpc.options(network.quiet, attempts=1), "quiet")
    served.end_one()
    await until(lambda: network.server.rpc._calls.dispatcher.running == LIMIT - 1)
    with pytest.raises(ServerBusyError, match=f"{LIMIT - 1} of the {LIMIT} calls .*are yours"):
        await asyncio.wait_for(call(rpc.options(network.loud, attempts=1), "loud"), 30)
    quiet = asyncio.ensure_future(call(network.quiet, "quiet"))
    await until(lambda: len(served.begun) == LIMIT + 1)
    assert served.begun == ["loud"] * LIMIT + ["quiet"]
    served.end_all()
    await asyncio.gather(quiet, *loud)
    assert sorted(served.begun) == ["loud"] * MANY + ["quiet"]
    assert not network.server.rpc._calls.dispatcher.running


async def test_two_peers_that_both_want_more_get_as_much(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one came much later, and calls as much as the other from then on.

    Who of two with equal shares is first at the next place is left to luck. Both are refused before each place falls
    free, so whoever has less by then is the next: at worst one of them gets eight of twelve.
    """
    monkeypatch.setattr(shares, "KEPT_S", 60.0)
    served = network.served
    calls = [asyncio.ensure_future(network.loud.small("loud")) for _ in range(MANY)]
    await until(lambda: len(served.begun) == LIMIT)
    calls += [asyncio.ensure_future(network.quiet.small("quiet")) for _ in range(MANY)]
    for number in range(LIMIT, LIMIT + 12):
        for stub in (network.loud, network.quiet):
            with pytest.raises(ServerBusyError):
                await rpc.options(stub, attempts=1).small("")
        served.end_one()
        await until(lambda: len(served.begun) == number + 1)  # noqa: B023 - awaited within the turn
    assert served.begun[LIMIT : LIMIT + 2] == ["quiet"] * 2
    assert 4 <= served.begun[LIMIT:].count("quiet") <= 8
    served.end_all()
    await asyncio.gather(*calls)


async def test_a_peer_alone_may_have_all_places(network: Network) -> None:
    calls = [asyncio.ensure_future(network.loud.small("loud")) for _ in range(MANY)]
    for _ in range(3):
        await until(lambda: len(network.served.running) == LIMIT)
        network.served.end_one()
    await until(lambda: len(network.served.running) == LIMIT)
    network.served.end_all()
    await asyncio.gather(*calls)


async def test_peers_take_turns_at_the_threads_of_a_plain_method(network: Network) -> None:
    served = network.served
    await network.quiet.caller()
    loud = [asyncio.ensure_future(network.loud.plain("loud")) for _ in range(MANY)]
    await until(lambda: network.server.rpc._calls.dispatcher.running == MANY)
    quiet = asyncio.ensure_future(network.quiet.plain("quiet"))
    await until(lambda: network.server.rpc._calls.dispatcher.running == MANY + 1)
    served.thread_may_end.release(MANY + 1)
    await asyncio.gather(quiet, *loud)
    assert served.begun.index("quiet") <= 4
    assert len(served.begun) == MANY + 1
