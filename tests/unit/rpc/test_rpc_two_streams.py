"""Two streams are open while a better path takes over: what the older one had is not forgotten, whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import grpc
import msgspec
import pytest
from grpc.aio import AioRpcError, Metadata

from lattica import rpc
from lattica.rpc import batch_wire as wire
from lattica.rpc.batch_calls import Lane
from lattica.rpc.batch_client import BatchClient
from lattica.rpc.channel import PeerChannel
from lattica.rpc.metrics import METRICS
from lattica.rpc.service import spec_of

PATIENCE_S = 30.0
LOST = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "the connection was lost")


@rpc.service("s")
class Service:
    @rpc.method
    async def once(self, data: bytes) -> None: ...


class Stream:
    """A session's gRPC call, as the test wants it to go on."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[list[int]] = asyncio.Queue()
        self._welcome = asyncio.Event()
        self._read: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def welcome(self) -> None:
        self._welcome.set()

    def lose(self) -> None:
        self._read.put_nowait(LOST)

    def answer(self, number: int) -> None:
        self._read.put_nowait(wire.encode_responses([(number, msgspec.Raw(b"\xc0"))], [], [], 0))

    async def initial_metadata(self) -> Metadata:
        await self._welcome.wait()
        return Metadata((wire.INSTANCE_KEY, b"server"), (wire.KNOWN_KEY, "1"))

    async def read(self) -> bytes:
        got = await self._read.get()
        if isinstance(got, Exception):
            raise got
        return got

    async def write(self, message: bytes) -> None:
        self.written.put_nowait([call.id for call in wire.decode_requests(message)[0].calls])

    async def done_writing(self) -> None:
        pass

    def cancel(self) -> None:
        self.lose()


class Channel:
    """Leads to a peer, and at times by a better path."""

    def __init__(self) -> None:
        self.peer_id = "peer"
        self.attempts: dict[str, str] = {}
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._replaced = asyncio.Event()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(function())
        self.tasks.add(task)
        return task

    def stream_stream(self, _: str) -> Callable[..., Stream]:
        def call(**_: Any) -> Stream:
            stream = Stream()
            self.streams.put_nowait(stream)
            return stream

        return call

    async def session(self, _: float | None) -> Any:
        return SimpleNamespace(route=SimpleNamespace(path_kind="lan"))

    def replace(self) -> None:
        """Say that there is a better path."""
        replaced, self._replaced = self._replaced, asyncio.Event()
        replaced.set()

    async def wait_replaced(self) -> None:
        await self._replaced.wait()


@pytest.mark.parametrize("welcomed", [False, True], ids=["before it is welcomed", "after"])
async def test_calls_of_the_older_stream_are_sent_again_when_it_is_lost(welcomed: bool) -> None:
    channel = Channel()
    client = BatchClient(cast(PeerChannel, channel), METRICS)
    async with asyncio.timeout(PATIENCE_S):
        spec, args = spec_of(Service).methods["once"], b"\x90"
        calling = channel.spawn(lambda: client.call(spec, args, lane=Lane(), deadline=None, flags=wire.ONCE))
        older = await channel.streams.get()
        older.welcome()
        [number] = await older.written.get()

        channel.replace()
        newer = await channel.streams.get()
        if welcomed:
            newer.welcome()
        older.lose()
        while not client.table.has_doubts and not welcomed:
            await asyncio.sleep(0)
        newer.welcome()
        assert await newer.written.get() == [number]
        newer.answer(number)
        assert (await calling)[0] == number
    for task in list(channel.tasks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, AioRpcError):
            await task
