"""Messages of a crowd wait for what goes with them, and others do not: told by what each message carries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from lattica import rpc
from lattica.rpc import RpcMetrics
from lattica.rpc.batch_calls import CallTable, Lane, Pending
from lattica.rpc.batch_server import BatchStream
from lattica.rpc.batch_wire import decode_requests, decode_responses
from lattica.rpc.call_server import CallServer
from lattica.rpc.caller_stream import CallerStream, StreamOwner
from lattica.rpc.dispatch import Dispatcher
from lattica.rpc.gathering import CROWD
from lattica.rpc.service import spec_of
from lattica.rpc.shares import PeerLoad


@rpc.service("s")
class Service:
    @rpc.method
    async def method(self) -> None: ...


SPEC = spec_of(Service).methods["method"]


@dataclass
class Wire:
    """A gRPC call, or its context, that keeps what is written."""

    messages: list[bytes] = field(default_factory=list)

    async def write(self, message: bytes) -> None:
        self.messages.append(message)

    async def done_writing(self) -> None: ...


@dataclass
class Owner:
    table: CallTable = field(default_factory=CallTable)
    metrics: RpcMetrics = field(default_factory=RpcMetrics)
    timers: int = 0

    def acknowledge_soon(self) -> None:
        self.timers += self.table.has_notes


@contextlib.asynccontextmanager
async def running(coroutine: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)  # it waits for news
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("others", "carried"), [(0, [1, 1]), (CROWD - 1, [1, 1]), (CROWD, [2])])
async def test_calls_that_follow_each_other_share_a_message_when_many_are_under_way(
    others: int, carried: list[int]
) -> None:
    owner, wire, lane = Owner(), Wire(), Lane()

    def call() -> None:
        future = asyncio.get_running_loop().create_future()
        owner.table.add(Pending(owner.table.new_id(), future, SPEC, b"\x90", None, 0, None), lane)
        stream.wake.set()

    stream = CallerStream(cast(StreamOwner, owner), wire, "direct")
    for _ in range(others):
        call()
    owner.table.take(stream, 0.0)
    assert owner.table.sent == others
    stream.wake.clear()
    async with running(stream._write()):
        call()
        await asyncio.sleep(0)
        call()
        await turns()
    assert [len(decode_requests(message)[0].calls) for message in wire.messages] == carried


@dataclass
class SlowWire(Wire):
    """While a message is being written, the answer of a call comes by another way."""

    table: CallTable | None = None

    async def write(self, message: bytes) -> None:
        await super().write(message)
        assert self.table is not None
        self.table.received(self.table.new_id())


async def test_acknowledgements_that_come_during_a_message_wait_for_the_next_one() -> None:
    owner, lane = Owner(), Lane()
    wire = SlowWire(table=owner.table)
    stream = CallerStream(cast(StreamOwner, owner), wire, "direct")
    async with running(stream._write()):
        for number in (1, 2):
            future = asyncio.get_running_loop().create_future()
            owner.table.add(Pending(owner.table.new_id(), future, SPEC, b"\x90", None, 0, None), lane)
            stream.wake.set()
            await turns()
            assert (len(wire.messages), owner.timers) == (number, number)
    assert [len(decode_requests(message)[0].received) for message in wire.messages] == [0, 1]


@pytest.mark.parametrize(("others", "carried"), [(0, [1, 1]), (CROWD - 1, [1, 1]), (CROWD, [2])])
async def test_so_do_answers(others: int, carried: list[int]) -> None:
    server, wire, load = CallServer(Dispatcher(), RpcMetrics()), Wire(), PeerLoad()
    for _ in range(others):
        server.dispatcher.gate.enter(load)
    stream = BatchStream(server, wire)
    async with running(stream.write()):
        stream.answer(1, b"\xc0")
        await asyncio.sleep(0)
        stream.answer(2, b"\xc0")
        await turns()
    assert [len(decode_responses(message)[0].results) for message in wire.messages] == carried
