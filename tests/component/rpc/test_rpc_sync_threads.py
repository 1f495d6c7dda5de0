"""Servicers with plain methods: how many calls may wait for a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from call_services import count_to, echo, echo_stub, stream_stub
from grpc.aio import AioRpcError
from mesh_rooms import open_rooms
from waiting import until

from lattica._proto import content_pb2, content_pb2_grpc, peer_pb2, peer_pb2_grpc
from lattica.rpc import sync_threads
from lattica.rpc.sync_threads import SYNC_THREADS

WAITING = 8


class Slow(peer_pb2_grpc.PeerServicer):
    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0

    def Echo(self, request: peer_pb2.EchoRequest, context: Any) -> peer_pb2.EchoResponse:
        self.begun += 1
        self.go.wait()
        return peer_pb2.EchoResponse(payload=request.payload)


class Counter(content_pb2_grpc.ContentServicer):
    def GetManifest(self, request: content_pb2.ManifestRequest, context: Any) -> Iterator[content_pb2.ManifestPart]:
        for number in range(int(request.cid)):
            yield content_pb2.ManifestPart(total=number)

    def GetChunks(self, requests: Iterator[content_pb2.ChunkRequest], context: Any) -> Iterator[Any]:
        yield from ()


async def test_calls_for_which_no_thread_will_be_free_soon_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_threads, "MAX_WAITING", WAITING)
    slow = Slow()
    async with asyncio.timeout(60), open_rooms() as alice, open_rooms() as bob:
        channel = alice.knows(bob)
        bob.rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, slow)
        bob.rpc.add_servicer(content_pb2_grpc.add_ContentServicer_to_server, Counter())
        threads = bob.rpc._server._threads
        stub = echo_stub(channel)
        taken = SYNC_THREADS + WAITING
        calls = []
        for number in range(taken):  # one by one, or a crowd is let in before the first of it waits for a thread
            calls.append(stub.Echo(echo(str(number))))
            await until(lambda: len(threads.running) == len(calls))
        for refused in (stub.Echo(echo("late")), stream_stub(channel).GetManifest(count_to(3)).read()):
            with pytest.raises(AioRpcError) as caught:
                await refused
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "wait for a thread" in str(caught.value.details())
        slow.go.set()
        assert [int((await call).payload) for call in calls] == list(range(taken))
        assert slow.begun == taken
        await until(lambda: not threads.running)
        assert (await stub.Echo(echo("later"))).payload == b"later"
