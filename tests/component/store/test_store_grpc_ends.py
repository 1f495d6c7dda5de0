"""However a stream over gRPC ends, whoever uses it still is told so as a network error: nothing else ends with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from lattica.errors import StreamError
from lattica.identity import IdentityKey
from lattica.store.grpc_link import SERVICE, CallerLink, GrpcPeers, ServedLink

PEER = IdentityKey.from_seed(bytes(32)).peer_id
Serve = Callable[[grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]


@asynccontextmanager
async def call(folder: Path, serve: Serve) -> AsyncIterator[CallerLink]:
    async def sync(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await serve(context)

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Sync": grpc.stream_stream_rpc_method_handler(sync)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{folder}/socket")
    await server.start()
    try:
        async with (
            grpc.aio.insecure_channel(f"unix:{folder}/socket") as channel,
            GrpcPeers(lambda _: channel).call(PEER) as link,
        ):
            yield link
    finally:
        await server.stop(None)


async def end(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    pass


async def refuse(context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such replica here")


async def test_sending_when_the_peer_has_ended_the_stream_is_a_stream_error(tmp_path: Path) -> None:
    async with call(tmp_path, end) as link:
        assert await link.receive() is None
        with pytest.raises(StreamError):
            await link.send(b"frame")


async def test_sending_when_the_peer_has_refused_the_stream_is_a_stream_error(tmp_path: Path) -> None:
    async with call(tmp_path, refuse) as link:
        with pytest.raises(StreamError, match="no such replica here"):
            await link.receive()
        with pytest.raises(StreamError):
            await link.send(b"frame")


async def test_a_call_that_somebody_else_cancels_is_a_stream_error(tmp_path: Path) -> None:
    async def wait(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await asyncio.Event().wait()

    async with call(tmp_path, wait) as link:
        await link.send(b"frame")
        receiving = asyncio.ensure_future(link.receive())
        await asyncio.sleep(0)
        link._call.cancel()
        with pytest.raises(StreamError):
            await receiving
        with pytest.raises(StreamError):
            await link.send(b"frame")


async def test_whoever_is_cancelled_itself_is_told_so(tmp_path: Path) -> None:
    async def wait(_: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await asyncio.Event().wait()

    async with call(tmp_path, wait) as link:
        receiving = asyncio.ensure_future(link.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving


async def test_the_one_that_is_called_is_told_when_the_caller_is_gone(tmp_path: Path) -> None:
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def serve(context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        link = ServedLink(PEER, context, b"")
        begun.set()
        try:
            while await link.receive() is not None:
                pass
            while True:
                await link.send(b"frame")
        except BaseException as error:
            failed.set_result(error)
            raise

    async with call(tmp_path, serve) as link:
        await link.send(b"frame")
        await begun.wait()
    assert isinstance(await failed, (StreamError, asyncio.CancelledError))


class Breaking:
    """A context on which a frame is being sent until the stream breaks."""

    def __init__(self) -> None:
        self.breaks = asyncio.Event()
        self.is_over = False

    async def write(self, _: bytes) -> None:
        await self.breaks.wait()
        self.is_over = True
        raise grpc.aio.InternalError("the stream is gone")


async def test_a_frame_that_fails_when_its_sender_has_gone_leaves_no_complaint() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    context = Breaking()
    sending = asyncio.create_task(ServedLink(PEER, cast(Any, context), b"").send(b"frame"))
    await asyncio.sleep(0)  # it has begun
    for _ in range(2):  # cancelled, it waits for the frame; cancelled again, it does not
        sending.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    context.breaks.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    while not context.is_over:
        await asyncio.sleep(0)
    del sending
    gc.collect()
    assert not complaints
