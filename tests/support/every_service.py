"""Services of every kind: one method of each sort of call, and servicers of plain functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from lattica._proto import content_pb2, content_pb2_grpc, peer_pb2, peer_pb2_grpc
from lattica.rpc import PeerChannel, caller_id

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Every:
    """One method of each kind, which answers with what it got, and what the metadata key ``do`` asks for.

    Attributes:
        begun: Calls that have begun to wait.
        cancelled: Those that were cancelled meanwhile.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata())
        context.set_trailing_metadata((("last", "metadata"),))
        if sent.get("do") == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "as asked")
        if sent.get("do") == "wait":
            await self._wait()
        await context.send_initial_metadata((("first", "metadata"),))
        return request

    async def _wait(self) -> None:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def unary_stream(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + str(number).encode()

    async def stream_unary(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


def add_every(every: object, server: grpc.aio.Server) -> None:
    """As generated code does."""
    methods = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(every, kind)) for kind in KINDS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Every", methods),))
    server.add_registered_method_handlers("tests.Every", methods)


async def call_every(channel: PeerChannel) -> list[Any]:
    """What the four kinds of call answer."""
    return [
        await channel.unary_unary("/tests.Every/unary_unary")(b"a"),
        [part async for part in channel.unary_stream("/tests.Every/unary_stream")(b"b")],
        await channel.stream_unary("/tests.Every/stream_unary")(iter([b"c", b"d"])),
        [part async for part in channel.stream_stream("/tests.Every/stream_stream")(iter([b"e", b"f"]))],
    ]


ANSWERS = [b"a", [b"b0", b"b1", b"b2"], b"cd", [b"e", b"f"]]


class PlainEcho(peer_pb2_grpc.PeerServicer):
    """A servicer that was written for a synchronous server."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.go = threading.Event()
        self.here = threading.Barrier(3)

    def Echo(self, request: peer_pb2.EchoRequest, context: Any) -> peer_pb2.EchoResponse:
        self.threads.append(threading.current_thread().name)
        if request.payload == b"together":
            self.here.wait(20)
        if request.payload == b"wait":
            self.go.wait(20)
        if request.payload == b"abort":
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "as asked")
        return peer_pb2.EchoResponse(payload=request.payload, caller=caller_id(context).raw)


class PlainStreams(content_pb2_grpc.ContentServicer):
    def GetManifest(self, request: content_pb2.ManifestRequest, _: Any) -> Iterator[content_pb2.ManifestPart]:
        for number in range(int(request.cid)):
            yield content_pb2.ManifestPart(total=number)

    def GetChunks(
        self, request_iterator: Iterator[content_pb2.ChunkRequest], _: Any
    ) -> Iterator[content_pb2.ChunkResponse]:
        for request in request_iterator:
            answers = [content_pb2.ChunkAnswer(tag=asked.tag) for asked in request.wanted]
            yield content_pb2.ChunkResponse(answers=answers)
