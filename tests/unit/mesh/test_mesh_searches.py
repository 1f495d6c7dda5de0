"""The search for better paths: one for each peer, its pipes given to who waits or kept for a moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping

import pytest

from lattica.background import background_tasks
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh import searches as module
from lattica.mesh.paths import PathInfo, PathKind
from lattica.mesh.pipes import OpenPipe
from lattica.mesh.searches import Searches

ALICE = PeerId(bytes((0x12, 0x20)) + bytes(32))


class World:
    """What the searches are told and what they tell.

    Attributes:
        results: Of the next attempts: a pipe, none, or an error. Without one an attempt waits.
    """

    def __init__(self) -> None:
        self.searches: Searches
        self.results: asyncio.Queue[OpenPipe | PeerUnreachableError | None] = asyncio.Queue()
        self.attempts = 0
        self.found: list[OpenPipe] = []
        self.failed: list[Mapping[str, str]] = []
        self.wanted = True
        self._far: list[socket.socket] = []

    def pipe(self, kind: PathKind = PathKind.PUNCHED_TCP) -> OpenPipe:
        near, far = socket.socketpair()
        self._far.append(far)
        path = PathInfo(
            peer_id=ALICE, kind=kind, remote=PeerAddress.tcp("12.0.0.2", 1), since=time.monotonic(), rtt=0.01
        )
        return OpenPipe(near, path)

    async def attempt(self, peer: PeerId, attempts: dict[str, str]) -> OpenPipe | None:
        self.attempts += 1
        result = await self.results.get()
        if isinstance(result, PeerUnreachableError):
            raise result
        attempts["punch"] = "no luck"
        return result

    def close(self) -> None:
        for sock in self._far:
            sock.close()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(module, "LAST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "READY_S", 1000.0)
    made = World()
    async with background_tasks() as tasks:
        made.searches = Searches(
            made.attempt,
            wanted=lambda _: made.wanted,
            found=made.found.append,
            failed=lambda _, attempts: made.failed.append(attempts),
            tasks=tasks,
        )
        try:
            yield made
        finally:
            made.searches.close()
            made.close()


async def until_attempted(world: World, count: int) -> None:
    async with asyncio.timeout(10):
        while world.attempts < count:
            await asyncio.sleep(0)


async def test_who_waits_gets_the_pipe_and_nobody_is_told_of_it(world: World) -> None:
    world.results.put_nowait(pipe := world.pipe())
    assert await world.searches.next_pipe(ALICE) is pipe
    assert world.found == []
    pipe.sock.close()


async def test_a_pipe_for_which_nobody_waits_is_announced_and_can_be_taken_once(world: World) -> None:
    world.searches.start(ALICE)
    world.results.put_nowait(pipe := world.pipe())
    async with asyncio.timeout(10):
        while not world.found:
            await asyncio.sleep(0)
    assert world.searches.take_nowait(ALICE) is pipe
    assert world.searches.take_nowait(ALICE) is None
    pipe.sock.close()


async def test_a_pipe_that_nobody_takes_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_S", 0.01)
    world.searches.offer(pipe := world.pipe())
    async with asyncio.timeout(10):
        while pipe.sock.fileno() >= 0:
            await asyncio.sleep(0.005)
    assert world.searches.take_nowait(ALICE) is None


async def test_a_newer_pipe_displaces_one_that_nobody_took(world: World) -> None:
    first, second = world.pipe(), world.pipe()
    world.searches.offer(first)
    world.searches.offer(second)
    assert first.sock.fileno() < 0
    assert world.searches.take_nowait(ALICE) is second
    second.sock.close()


async def test_there_is_one_search_however_many_ask(world: World) -> None:
    for _ in range(10):
        world.searches.start(ALICE)
    await until_attempted(world, 1)
    assert world.attempts == 1


async def test_who_waits_is_told_when_an_attempt_fails_and_why(world: World) -> None:
    world.results.put_nowait(None)
    assert await world.searches.next_pipe(ALICE) is None
    assert world.searches.failures(ALICE) == {"punch": "no luck"}
    assert world.failed == [{"punch": "no luck"}]


async def test_a_search_goes_on_while_it_is_wanted(world: World) -> None:
    world.searches.start(ALICE)
    for _ in range(5):
        world.results.put_nowait(None)
    await until_attempted(world, 6)
    world.wanted = False
    world.results.put_nowait(None)
    async with asyncio.timeout(10):
        while ALICE in world.searches._running:
            await asyncio.sleep(0)
    assert world.attempts == 6


async def test_a_peer_that_cannot_be_reached_at_all_fails_an_attempt_as_well(world: World) -> None:
    world.results.put_nowait(PeerUnreachableError(ALICE, {"dht": "nobody knows it"}))
    assert await world.searches.next_pipe(ALICE) is None
    assert world.searches.failures(ALICE) == {"dht": "nobody knows it"}


async def test_who_needs_a_path_does_not_wait_for_the_end_of_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 1000.0))
    world.results.put_nowait(None)
    assert await world.searches.next_pipe(ALICE) is None
    world.results.put_nowait(pipe := world.pipe())
    async with asyncio.timeout(10):
        assert await world.searches.next_pipe(ALICE) is pipe
    pipe.sock.close()


async def test_a_pipe_given_to_who_has_just_stopped_waiting_is_not_lost(world: World) -> None:
    waiting = asyncio.ensure_future(world.searches.next_pipe(ALICE))
    await until_attempted(world, 1)
    world.searches.offer(pipe := world.pipe())
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert world.searches.take_nowait(ALICE) is pipe
    pipe.sock.close()


async def test_a_success_ends_the_search(world: World) -> None:
    world.results.put_nowait(pipe := world.pipe())
    assert await world.searches.next_pipe(ALICE) is pipe
    assert world.searches.failures(ALICE) == {}
    world.searches.start(ALICE)
    await until_attempted(world, 2)
    pipe.sock.close()
