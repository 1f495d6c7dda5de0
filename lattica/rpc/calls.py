"""Calls on a channel that may have to find its peer first.

Each wraps the gRPC call that it becomes once a session with the peer is there, and turns gRPC's "socket closed" into
the mesh's account of what was tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

import grpc
from grpc.aio import AioRpcError, Metadata

from lattica.errors import PeerUnreachableError

Req = TypeVar("Req")
Res = TypeVar("Res")
T = TypeVar("T")


class RpcUnreachableError(PeerUnreachableError, AioRpcError):
    """The call's peer cannot be reached; for gRPC code, status ``UNAVAILABLE``."""

    def __init__(self, cause: PeerUnreachableError) -> None:
        AioRpcError.__init__(self, grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=str(cause))
        PeerUnreachableError.__init__(self, cause.peer_id, cause.attempts)

    def __str__(self) -> str:
        return PeerUnreachableError.__str__(self)

    def __reduce__(self) -> tuple[type[RpcUnreachableError], tuple[PeerUnreachableError]]:
        return type(self), (PeerUnreachableError(self.peer_id, self.attempts),)


class Starter(Protocol):
    """Makes the gRPC call."""

    def start_nowait(self) -> Any | None:
        """The call, if a session is there already."""

    async def start(self) -> Any:
        """The call; raises `PeerUnreachableError`."""

    def explain(self, error: AioRpcError) -> AioRpcError:
        """The error that the caller of a failed call should see."""


class PeerCall(Generic[Req, Res]):
    """What the four kinds of call have in common; `grpc.aio.Call` in all but name."""

    def __init__(self, starter: Starter, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]) -> None:
        self._starter = starter
        self._callbacks: list[Callable[[Any], None]] = []
        self._failure: Exception | None = None
        self._inner: Any | None = starter.start_nowait()
        self._starting: asyncio.Task[Any] | None = None if self._inner else spawn(self._start())

    async def _start(self) -> None:
        """Become the real call; a failure is kept for whoever uses the call."""
        try:
            self._inner = await self._starter.start()
        except Exception as error:  # noqa: BLE001 - raised by `_call`
            self._failure = RpcUnreachableError(error) if isinstance(error, PeerUnreachableError) else error
            return
        for callback in self._callbacks:
            self._inner.add_done_callback(callback)

    async def _call(self) -> Any:
        if self._inner is None and self._starting is not None:
            await asyncio.wait([self._starting])
            if self._failure is not None:
                raise self._failure
            if self._inner is None:
                raise asyncio.CancelledError
        return self._inner

    async def _explained(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        inner = await self._call()
        try:
            return await operation(inner)
        except AioRpcError as error:
            explained = self._starter.explain(error)
            if explained is error:
                raise
            raise explained from error

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        if self._inner is not None:
            return bool(self._inner.cancelled())
        return self._starting is not None and self._starting.cancelled()

    def done(self) -> bool:
        """Whether the call has ended."""
        if self._inner is not None:
            return bool(self._inner.done())
        return self._starting is not None and self._starting.done()

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; ``None`` without one, or before the peer is found."""
        return self._inner.time_remaining() if self._inner is not None else None

    def cancel(self) -> bool:
        """Cancel the call; whether that had an effect."""
        if self._inner is not None:
            return bool(self._inner.cancel())
        return self._starting is not None and self._starting.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have ``callback`` called when the call ends."""
        if self._inner is not None:
            self._inner.add_done_callback(callback)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> Metadata:
        """The server's first metadata."""
        return await self._explained(lambda call: call.initial_metadata())

    async def trailing_metadata(self) -> Metadata:
        """The server's last metadata."""
        return await self._explained(lambda call: call.trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        """The status code."""
        try:
            return await self._explained(lambda call: call.code())
        except RpcUnreachableError as error:
            return error.code()

    async def details(self) -> str:
        """The status's text."""
        try:
            return await self._explained(lambda call: call.details())
        except RpcUnreachableError as error:
            return str(error)

    async def wait_for_connection(self) -> None:
        """Wait until the call is on its way."""
        await self._explained(lambda call: call.wait_for_connection())


class UnaryResponse(PeerCall[Req, Res]):
    """Adds: one response."""

    def __await__(self) -> Generator[Any, None, Res]:
        return self._explained(_identity).__await__()


class StreamResponse(PeerCall[Req, Res]):
    """Adds: many responses."""

    async def __aiter__(self) -> AsyncIterator[Res]:
        inner = await self._call()
        try:
            async for response in inner:
                yield response
        except AioRpcError as error:
            explained = self._starter.explain(error)
            if explained is error:
                raise
            raise explained from error

    async def read(self) -> Res:
        """The next response, or `grpc.aio.EOF`."""
        return await self._explained(lambda call: call.read())


class StreamRequest(PeerCall[Req, Res]):
    """Adds: many requests."""

    async def write(self, request: Req) -> None:
        """Send a request; waits while the peer takes none."""
        await self._explained(lambda call: call.write(request))

    async def done_writing(self) -> None:
        """Say that no more requests come."""
        await self._explained(lambda call: call.done_writing())


class UnaryUnaryPeerCall(UnaryResponse[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """One request, one response."""


class UnaryStreamPeerCall(StreamResponse[Req, Res], grpc.aio.UnaryStreamCall[Req, Res]):
    """One request, many responses."""


class StreamUnaryPeerCall(StreamRequest[Req, Res], UnaryResponse[Req, Res], grpc.aio.StreamUnaryCall[Req, Res]):
    """Many requests, one response."""


class StreamStreamPeerCall(StreamRequest[Req, Res], StreamResponse[Req, Res], grpc.aio.StreamStreamCall[Req, Res]):
    """Many requests, many responses."""


async def _identity(call: Any) -> Any:
    return await call
