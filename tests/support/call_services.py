"""Services that do what a test asks for, over generated code and without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica._proto import content_pb2, content_pb2_grpc, peer_pb2, peer_pb2_grpc
from lattica.rpc import PeerChannel, Rpc, caller_id

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
EchoStub: TypeAlias = "peer_pb2_grpc.PeerAsyncStub"
StreamStub: TypeAlias = "content_pb2_grpc.ContentAsyncStub"


class Echo(peer_pb2_grpc.PeerServicer):
    """Echoes. The metadata key ``do`` asks for more: ``abort <CODE> <details>`` (with "oe"
    for an umlaut, which metadata cannot have), ``raise``, ``wait``.

    Attributes:
        begun: Calls that have begun to wait until `go` is set.
        waiting: Those that still do.
        cancelled: Those that were cancelled while they waited.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls = 0
        self.begun = 0
        self.waiting = 0
        self.cancelled = 0
        self.connections: set[str] = set()

    async def Echo(self, request: peer_pb2.EchoRequest, context: Context) -> peer_pb2.EchoResponse:
        self.calls += 1
        sent = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata((("first", str(sent.get("say", ""))),))
        context.set_trailing_metadata((("last", str(sent.get("say", ""))), ("raw-bin", b"\x00\xff")))
        await self._do(str(sent.get("do", "")), context)
        return peer_pb2.EchoResponse(payload=request.payload, caller=caller_id(context).raw)

    async def _do(self, what: str, context: Context) -> None:
        match what.split(maxsplit=2):
            case ["abort", code, details]:
                await context.abort(grpc.StatusCode[code], details.replace("oe", "\u00f6"))
            case ["raise"]:
                raise ZeroDivisionError("a fault of the service")
            case ["wait"]:
                await self._wait()

    async def _wait(self) -> None:
        self.begun += 1
        self.waiting += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


class Streams(content_pb2_grpc.ContentServicer):
    """`GetManifest` counts to the number that the request's bytes spell; `GetChunks` answers each request."""

    def __init__(self) -> None:
        self.part_bytes = 0
        self.pause = 0.0
        self.ended = asyncio.Event()

    async def GetManifest(
        self, request: content_pb2.ManifestRequest, context: Context
    ) -> AsyncIterator[content_pb2.ManifestPart]:
        data = bytes(self.part_bytes)
        try:
            for number in range(int(request.cid)):
                yield content_pb2.ManifestPart(total=number, data=data)
                await asyncio.sleep(self.pause)
        finally:
            self.ended.set()

    async def GetChunks(
        self, request_iterator: AsyncIterator[content_pb2.ChunkRequest], context: Context
    ) -> AsyncIterator[content_pb2.ChunkResponse]:
        async for request in request_iterator:
            answers = [content_pb2.ChunkAnswer(tag=wanted.tag) for wanted in request.wanted]
            yield content_pb2.ChunkResponse(answers=answers)


class Raw(grpc.GenericRpcHandler):
    """Bytes without generated code: ``/raw/Size`` and, for a stream of them, ``/raw/Sizes``."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == "/raw/Size":
            return grpc.unary_unary_rpc_method_handler(self._size)
        if details.method == "/raw/Sizes":
            return grpc.stream_unary_rpc_method_handler(self._sizes)
        return None

    async def _size(self, request: bytes, context: Context) -> bytes:
        return str(len(request)).encode()

    async def _sizes(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return " ".join([str(len(request)) async for request in requests]).encode()


class Services:
    """All of them, served by a node."""

    def __init__(self, rpc: Rpc) -> None:
        self.echo, self.streams = Echo(), Streams()
        rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, self.echo)
        rpc.add_servicer(content_pb2_grpc.add_ContentServicer_to_server, self.streams)
        rpc.add_servicer(lambda raw, server: server.add_generic_rpc_handlers((raw,)), Raw())


def echo_stub(channel: grpc.aio.Channel) -> EchoStub:
    return peer_pb2_grpc.PeerStub(channel)


def stream_stub(channel: grpc.aio.Channel) -> StreamStub:
    return content_pb2_grpc.ContentStub(channel)


def echo(text: str) -> peer_pb2.EchoRequest:
    return peer_pb2.EchoRequest(payload=text.encode())


def count_to(number: int) -> content_pb2.ManifestRequest:
    return content_pb2.ManifestRequest(cid=str(number).encode())


def wanted(*tags: int) -> content_pb2.ChunkRequest:
    return content_pb2.ChunkRequest(wanted=[content_pb2.WantedChunk(tag=tag) for tag in tags])


def tags(response: Any) -> list[int]:
    assert isinstance(response, content_pb2.ChunkResponse), repr(response)
    return [answer.tag for answer in response.answers]


async def lost(channel: grpc.aio.Channel) -> None:
    """Return when gRPC knows that its connection is lost, or is to end: what is sent before is lost with it."""
    await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """Alice, who calls, and Bob, who serves; `channel` and the stubs lead from her to him."""

    alice: Rooms
    bob: Rooms
    services: Services
    channel: PeerChannel
    echo: EchoStub
    streams: StreamStub


@contextlib.asynccontextmanager
async def open_two(
    *, splice: bool | None = None, reflection: bool = False, native_port: int | None = 0
) -> AsyncIterator[Two]:
    """Two nodes' rooms, for tests of pipes without native ports; afterwards no task of theirs is left."""
    before = asyncio.all_tasks()
    async with (
        open_rooms(splice=splice, native_port=native_port) as alice,
        open_rooms(splice=splice, native_port=native_port, reflection=reflection) as bob,
    ):
        channel = alice.knows(bob)
        yield Two(
            alice=alice,
            bob=bob,
            services=Services(bob.rpc),
            channel=channel,
            echo=echo_stub(channel),
            streams=stream_stub(channel),
        )
    await until(lambda: asyncio.all_tasks() <= before)
