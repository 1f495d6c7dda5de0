"""Plain Python services where callers wait for each other, results crowd, and sessions go wrong."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import DeadlineExceededError, RemoteError, RpcError
from lattica.rpc import batch_server, call_memory
from lattica.rpc.batch_client import RESUME_PAUSE_MIN_S, BatchClient
from lattica.rpc.call_server import CallServer

LARGE = 1 << 20


@rpc.service("crowd")
class Crowd:
    def __init__(self) -> None:
        self.order: list[int] = []
        self.go = asyncio.Event()

    @rpc.method
    async def number(self, number: int) -> int:
        self.order.append(number)
        return number

    @rpc.method
    async def wait(self) -> None:
        await self.go.wait()

    @rpc.method
    async def large(self, number: int) -> bytes:
        return bytes([number]) * LARGE

    @rpc.method(idempotent=True)
    async def large_of_large(self, data: bytes) -> bytes:
        return data[:1] * 3 * LARGE

    @rpc.method
    def next_of_nothing(self) -> int:
        nothing: list[int] = []
        return next(iter(nothing))


@dataclass(frozen=True, slots=True)
class Two:
    alice: Rooms
    bob: Rooms
    served: Crowd
    stub: Crowd

    @property
    def batch(self) -> BatchClient:
        return self.alice.rpc._callers[self.bob.peer_id].batch

    @property
    def calls(self) -> CallServer:
        return self.bob.rpc._calls


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with asyncio.timeout(60), open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        served = Crowd()
        bob.rpc.serve(served)
        yield Two(alice, bob, served, alice.rpc.stub(Crowd, bob.peer_id))
        served.go.set()


@pytest.mark.parametrize("method", ["large", "large_of_large"])
async def test_no_result_is_forgotten_while_its_caller_fetches_others(
    two: Two, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(call_memory, "MAX_REMEMBERED_BYTES", 4 * LARGE)
    call: Any = getattr(two.stub, method)
    arguments = list(range(30)) if method == "large" else [b"x" * (LARGE // 8)] * 30
    results = await asyncio.gather(*map(call, arguments))
    assert [len(result) for result in results] == [LARGE * (1 if method == "large" else 3)] * 30
    await until(lambda: not two.calls.dispatcher.running)


async def test_a_plain_method_that_raises_stop_iteration_is_answered(two: Two) -> None:
    with pytest.raises(RemoteError, match="next_of_nothing raised StopIteration"):
        await two.stub.next_of_nothing()


@pytest.mark.slow
async def test_sessions_that_end_at_once_are_not_opened_without_pause(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[float] = []

    async def refuse(context: Any, *_: Any) -> None:
        opened.append(time.monotonic())
        await context.abort(grpc.StatusCode.INTERNAL, "a fault")

    async def read(server: Any, peer: Any, memory: Any, stream: Any, context: Any) -> None:
        await refuse(context)

    monkeypatch.setattr(batch_server, "_read", read)
    await two.alice.rpc.channel(two.bob.peer_id).channel_ready()
    while len(opened) < 4:
        with pytest.raises(DeadlineExceededError):
            await rpc.options(two.stub, timeout=2.0).number(1)
    _, *pauses = [later - earlier for earlier, later in itertools.pairwise(opened)]
    assert min(pauses) > RESUME_PAUSE_MIN_S, "only the first one that is lost is replaced at once"


async def test_a_fault_of_the_path_finder_fails_the_call_and_not_the_node(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(two.alice.mesh, "open_route", fail)
    with pytest.raises(RpcError, match="a fault"):
        await two.stub.number(1)
    monkeypatch.undo()
    assert await two.stub.number(2) == 2
