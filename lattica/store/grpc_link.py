"""Streams of frames over gRPC: the caller's side, and the one that is called."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import PeerId
from lattica.store.sync_wire import MAX_FRAME

SERVICE = "lattica.v1.Store"
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
        """Send a frame."""
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


@contextlib.asynccontextmanager
async def call_peer(channel: grpc.aio.Channel, peer: PeerId) -> AsyncIterator[CallerLink]:
    """A stream to the peer on its channel; ended with the block. Raises `NetworkError`, in its methods."""
    call: Any = channel.stream_stream(f"/{SERVICE}/Sync")()
    try:
        yield CallerLink(peer, call)
    finally:
        call.cancel()


@contextlib.contextmanager
def _errors(peer: PeerId) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if isinstance(error, NetworkError):
            raise
        raise StreamError(f"{peer} ended the stream: {error.details() or error.code().name}") from error
    except (grpc.aio.InternalError, grpc.aio.UsageError) as error:
        raise StreamError(f"the stream with {peer} has ended") from error


def _checked(frame: object, peer: PeerId) -> bytes | None:
    if not isinstance(frame, bytes):
        return None
    if len(frame) > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes, {MAX_FRAME} allowed", peer)
    return frame
