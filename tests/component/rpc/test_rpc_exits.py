"""Handlers that raise what ends programs: their callers are told at once, and the node serves on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica._proto import peer_pb2, peer_pb2_grpc
from lattica.errors import RemoteError

LARGE = bytes(200_000)


class ShutdownError(BaseException):
    """A program's own."""


EXITS = {
    "SystemExit": SystemExit("bye"),
    "KeyboardInterrupt": KeyboardInterrupt("bye"),
    "ShutdownError": ShutdownError("bye"),
    "GeneratorExit": GeneratorExit("bye"),
}


@rpc.service("exiting")
class Exiting:
    @rpc.method
    async def fine(self) -> str:
        return "fine"

    @rpc.method
    async def unary(self, kind: str, data: bytes) -> None:
        raise EXITS[kind]

    @rpc.method(idempotent=True)
    async def unary_again(self, kind: str, data: bytes) -> None:
        raise EXITS[kind]

    @rpc.method
    async def results(self, kind: str) -> AsyncIterator[int]:
        yield 1
        raise EXITS[kind]

    @rpc.method
    async def requests(self, kind: str, items: AsyncIterator[int]) -> None:
        async for _ in items:
            raise EXITS[kind]

    @rpc.method
    async def both(self, kind: str, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            raise EXITS[kind]

    @rpc.method
    def plain(self, kind: str, data: bytes) -> None:
        raise EXITS[kind]

    @rpc.method
    def plain_results(self, kind: str) -> Iterator[int]:
        yield 1
        raise EXITS[kind]

    @rpc.method
    def plain_first(self, kind: str) -> Iterator[int]:
        raise EXITS[kind]

    @rpc.method
    def plain_requests(self, kind: str, items: Iterator[int]) -> None:
        for _ in items:
            raise EXITS[kind]

    @rpc.method
    def plain_both(self, kind: str, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item
            raise EXITS[kind]


class OwnServicer(peer_pb2_grpc.PeerServicer):
    """Generated code, with a method that raises ``error``."""

    error: BaseException = SystemExit()

    async def Echo(self, request: peer_pb2.EchoRequest, context: Any) -> peer_pb2.EchoResponse:
        raise self.error


class PlainServicer(OwnServicer):
    """The same in a thread."""

    def Echo(self, request: peer_pb2.EchoRequest, context: Any) -> peer_pb2.EchoResponse:  # type: ignore[override]
        raise self.error


@dataclass
class Two:
    alice: Rooms
    bob: Rooms
    stub: Exiting


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        bob.rpc.serve(Exiting())
        yield Two(alice, bob, alice.rpc.stub(Exiting, bob.peer_id))


async def all_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


Call = Callable[[Any, str], Coroutine[Any, Any, Any]]
CALLS = {
    "small": lambda stub, kind: stub.unary(kind, b""),
    "large-once": lambda stub, kind: stub.unary(kind, LARGE),
    "large-again": lambda stub, kind: stub.unary_again(kind, LARGE),
    "pieces": lambda stub, kind: stub.unary(kind, 20 * LARGE),
    "results": lambda stub, kind: all_of(stub.results(kind)),
    "requests": lambda stub, kind: stub.requests(kind, [1, 2]),
    "both": lambda stub, kind: all_of(stub.both(kind, [1, 2])),
    "plain-small": lambda stub, kind: stub.plain(kind, b""),
    "plain-large": lambda stub, kind: stub.plain(kind, LARGE),
    "plain-results": lambda stub, kind: all_of(stub.plain_results(kind)),
    "plain-first": lambda stub, kind: all_of(stub.plain_first(kind)),
    "plain-requests": lambda stub, kind: stub.plain_requests(kind, [1, 2]),
    "plain-both": lambda stub, kind: all_of(stub.plain_both(kind, [1, 2])),
}


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])
async def test_whoever_called_is_told_what_was_raised_and_the_node_serves_on(two: Two, call: Call) -> None:
    """Without a deadline: nothing but the answer ends the call."""
    for kind in EXITS:
        with pytest.raises(RemoteError) as caught:
            await call(two.stub, kind)
        assert (caught.value.kind, caught.value.message) == (kind, "bye")
    assert await two.stub.fine() == "fine"
    await until(lambda: not two.bob.rpc._calls.dispatcher.running)


async def test_the_traceback_is_that_of_what_was_raised(two: Two) -> None:
    with pytest.raises(RemoteError) as caught:
        await rpc.options(two.stub, traceback=True).plain("SystemExit", b"")
    assert caught.value.traceback.endswith("SystemExit: bye\n")
    assert "in plain\n" in caught.value.traceback


@pytest.mark.parametrize("servicer", [OwnServicer(), PlainServicer()], ids=["async", "plain"])
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "ShutdownError"])
async def test_generated_services_fail_with_a_status(two: Two, servicer: OwnServicer, kind: str) -> None:
    servicer.error = EXITS[kind]
    two.bob.rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, servicer)
    stub: Any = peer_pb2_grpc.PeerStub(two.alice.rpc.channel(two.bob.peer_id))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Echo(peer_pb2.EchoRequest())
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert f"{kind}: bye" in (caught.value.details() or "")


@pytest.mark.parametrize(("which", "code"), [("SIGTERM", 42), ("SIGINT", 130)])
async def test_a_signal_that_comes_while_a_handler_runs_ends_the_process(which: str, code: int) -> None:
    """What its handler raises is raised in the method, but is not the method's."""
    program = Path(__file__).parents[2] / "support" / "signalled_node.py"
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), which, stderr=asyncio.subprocess.PIPE)
    _, stderr = await process.communicate()
    assert process.returncode == code, stderr.decode()
