"""Streams of frames over gRPC: the caller's side, and the one that is called."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lattica._proto import store_pb2
from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import PeerId
from lattica.store.sync_wire import MAX_FRAME

SERVICE = "lattica.v1.Store"
ASK_TIMEOUT_S = 10.0
"""Seconds for a peer to send a genesis."""
LAST_FRAME_S = 2.0
"""Seconds for a peer to take the last frame of a stream that we end."""
Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class CallerLink:
    """A stream that we have opened.

    Attributes:
        peer: To whom.
    """

    def __init__(self, peer: PeerId, call: Any) -> None:
        self.peer = peer
        self._call = call

    async def send(self, frame: bytes) -> None:
        """Send a frame."""
        with _errors(self.peer):
            await self._call.write(frame)

    async def receive(self) -> bytes | None:
        """The peer's next frame; ``None`` at the end."""
        with _errors(self.peer):
            frame = await self._call.read()
        return _checked(frame, self.peer)


class ServedLink:
    """A stream that a peer has opened.

    Attributes:
        peer: Who.
    """

    def __init__(self, peer: PeerId, context: Context, first: bytes) -> None:
        self.peer = peer
        self._context = context
        self._first: bytes | None = first

    async def send(self, frame: bytes) -> None:
        """Send a frame. Cancelled, it waits a little: gRPC cannot end a stream while a frame is being sent."""
        sending: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._write(frame))
        sending.add_done_callback(_seen)  # if we are cancelled when it fails, nobody asks why
        try:
            await asyncio.shield(sending)
        finally:
            if not sending.done():
                await asyncio.wait([sending], timeout=LAST_FRAME_S)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _write(self, frame: bytes) -> None:
        with _errors(self.peer):
            await self._context.write(frame)

    async def receive(self) -> bytes | None:
        """The peer's next frame; ``None`` at the end."""
        first, self._first = self._first, None
        if first is not None:
            return first
        with _errors(self.peer):
            frame: object = await self._context.read()
        return _checked(frame, self.peer)


class GrpcPeers:
    """Calls replicas over gRPC; implements `lattica.store.ports.StorePeers`.

    Args:
        channel_to: The shared channel to a peer, made without waiting.
    """

    def __init__(self, channel_to: Callable[[PeerId], grpc.aio.Channel]) -> None:
        self._channel_to = channel_to

    @contextlib.asynccontextmanager
    async def call(self, peer: PeerId) -> AsyncIterator[CallerLink]:
        """A stream to a peer while the block lasts."""
        call: Any = self._channel_to(peer).stream_stream(f"/{SERVICE}/Sync")()
        try:
            yield CallerLink(peer, call)
        finally:
            call.cancel()

    async def genesis(self, peer: PeerId, namespace: bytes) -> bytes:
        """What the peer says is the genesis of a namespace; empty if it does not know."""
        request = store_pb2.GenesisRequest(namespace=namespace).SerializeToString()
        call: Any = self._channel_to(peer).unary_unary(f"/{SERVICE}/GetGenesis")
        with _errors(peer):
            raw = await call(request, timeout=ASK_TIMEOUT_S)
        try:
            return store_pb2.GenesisResponse.FromString(raw).genesis
        except DecodeError as error:
            raise RemoteProtocolError("a malformed genesis", peer) from error


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def _errors(peer: PeerId) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if isinstance(error, NetworkError):
            raise
        raise StreamError(f"{peer} ended the stream: {error.details() or error.code().name}") from error
    except (grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise StreamError(f"the stream with {peer} has ended") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise StreamError(f"the stream with {peer} was cancelled") from error


def _checked(frame: object, peer: PeerId) -> bytes | None:
    if not isinstance(frame, bytes):
        return None
    if len(frame) > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes, {MAX_FRAME} allowed", peer)
    return frame
