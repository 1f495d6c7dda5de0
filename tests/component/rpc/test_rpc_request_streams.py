"""Streams of requests that break off, or do not end, with plain methods and with async ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import LatticaError


@rpc.service("collect")
class Collect:
    """Commits what it has got when the stream ends."""

    def __init__(self) -> None:
        self.got = 0
        self.committed: list[list[int]] = []
        self.ended = 0

    @rpc.method
    async def collect(self, items: AsyncIterator[int]) -> int:
        try:
            collected = []
            async for item in items:
                collected.append(item)
                self.got += 1
            self.committed.append(collected)
            return len(collected)
        finally:
            self.ended += 1

    @rpc.method
    def collect_plainly(self, items: AsyncIterator[int]) -> int:
        try:
            collected = []
            for item in cast("Iterator[int]", items):
                collected.append(item)
                self.got += 1
            self.committed.append(collected)
            return len(collected)
        finally:
            self.ended += 1


METHODS = pytest.mark.parametrize("method", ["collect", "collect_plainly"])


@dataclass(frozen=True, slots=True)
class Two:
    alice: Rooms
    bob: Rooms
    served: Collect
    stub: Collect

    async def begin(self, method: str) -> asyncio.Task[int]:
        """A call of which one item has come, and whose stream does not end."""
        call = asyncio.create_task(getattr(self.stub, method)(endless()))
        await until(lambda: self.served.got == 1)
        return call


async def endless() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with asyncio.timeout(60), open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        served = Collect()
        bob.rpc.serve(served)
        yield Two(alice, bob, served, alice.rpc.stub(Collect, bob.peer_id))


@METHODS
@pytest.mark.parametrize("numbers", [[], [1], list(range(1000))], ids=len)
async def test_a_stream_that_ends_is_whole(two: Two, method: str, numbers: list[int]) -> None:
    assert await getattr(two.stub, method)(numbers) == len(numbers)
    assert two.served.committed == [numbers]


@METHODS
async def test_a_stream_that_is_cut_off_does_not_look_like_one_that_ends(two: Two, method: str) -> None:
    call = await two.begin(method)
    for pipe in list(two.alice.mesh._table.of(two.bob.peer_id)):
        two.alice.mesh._table.drop(pipe)
    with pytest.raises(LatticaError):
        await call
    await until(lambda: two.served.ended == 1)
    assert two.served.committed == []


@METHODS
async def test_nor_does_one_whose_caller_gives_up(two: Two, method: str) -> None:
    call = await two.begin(method)
    call.cancel()
    await until(lambda: two.served.ended == 1)
    assert two.served.committed == []


@pytest.mark.slow
@METHODS
async def test_a_caller_that_does_not_end_its_stream_does_not_hold_up_a_node_that_closes(method: str) -> None:
    async with asyncio.timeout(60), open_rooms() as alice:
        async with open_rooms() as bob:
            alice.knows(bob)
            served = Collect()
            bob.rpc.serve(served)
            call = await Two(alice, bob, served, alice.rpc.stub(Collect, bob.peer_id)).begin(method)
        await until(lambda: served.ended == 1)
        assert served.committed == []
        with pytest.raises(LatticaError):
            await call
