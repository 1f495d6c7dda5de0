"""Calls on a channel that may have to find its peer first.

Each wraps the gRPC call that it becomes once a session with the peer is there, and turns gRPC's "socket closed" into
the mesh's account of what was tried.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
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
        # In this order: PeerUnreachableError's passes its arguments on to AioRpcError's.
        PeerUnreachableError.__init__(self, cause.peer_id, cause.attempts)
        AioRpcError.__init__(self, grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=str(cause))

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

    def abandoned(self) -> AioRpcError:
        """The error of a call that was cancelled, but not by its caller: the node closes."""

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; ``None`` without one."""


class PeerCall(Generic[Req, Res]):
    """What the four kinds of call have in common; `grpc.aio.Call` in all but name."""

    _channel: Any = None
    """grpcio before 1.85 wants to know of every call with a task, when any channel closes, whether it is its own."""

    def __init__(
        self, starter: Starter, spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], asyncio.Task[None]]
    ) -> None:
        self._starter = starter
        self._callbacks: list[Callable[[Any], None]] = []
        self._failure: Exception | None = None
        self._cancelled = False
        self._inner: Any | None = starter.start_nowait()
        self._starting: asyncio.Task[None] | None = None
        if self._inner is None:
            try:
                self._starting = spawn(self._start)
            except PeerUnreachableError as error:
                self._failure = RpcUnreachableError(error)
            else:
                self._starting.add_done_callback(self._started)

    async def _start(self) -> None:
        """Become the real call; a failure is kept for whoever uses the call."""
        try:
            self._inner = await self._starter.start()
        except Exception as error:  # noqa: BLE001 - raised by `_call`
            self._failure = RpcUnreachableError(error) if isinstance(error, PeerUnreachableError) else error

    def _started(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled() and not self._cancelled:
            self._failure = self._starter.abandoned()
        if self._inner is not None:
            self._inner.add_done_callback(self._ended)
        else:
            self._ended(None)

    def _ended(self, _: object) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def _wait_started(self) -> Any | None:
        """The real call; ``None`` if it never came to be."""
        if self._inner is None and self._starting is not None:
            await asyncio.wait([self._starting])
        return self._inner

    async def _call(self) -> Any:
        inner = await self._wait_started()
        if inner is None:
            raise self._failure or asyncio.CancelledError
        return inner

    async def _call_or_cancel(self) -> Any:
        """The real call, for what gRPC cancels the call of when its caller stops waiting."""
        try:
            return await self._call()
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _moved(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        """A message sent or received."""
        if self._inner is None:
            await self._call_or_cancel()
        return await self._explained(operation)

    async def _explained(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        inner = self._inner or await self._call()
        with self._explaining(inner):
            return await operation(inner)

    @contextlib.contextmanager
    def _explaining(self, inner: Any) -> Iterator[None]:
        try:
            yield
        except AioRpcError as error:
            explained = self._starter.explain(error)
            if explained is error:
                raise
            raise explained from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._cancelled or not inner.cancelled() or (task is not None and task.cancelling()):
                raise
            # Nobody asked for that. As a cancellation it would end the caller's task without a word.
            raise self._starter.abandoned() from error

    @property
    def has_started(self) -> bool:
        """Whether there is a session for it, so that its peer may know of it."""
        return self._inner is not None

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return bool(self._inner.cancelled()) if self._inner is not None else self._cancelled

    def done(self) -> bool:
        """Whether the call has ended."""
        if self._inner is not None:
            return bool(self._inner.done())
        return self._cancelled or self._starting is None or self._starting.done()

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; ``None`` without one."""
        try:
            return self._inner.time_remaining() if self._inner is not None else self._starter.time_remaining()
        except NotImplementedError:  # by a call of gRPC's that goes through interceptors
            return self._starter.time_remaining()

    def cancel(self) -> bool:
        """Cancel the call; whether that had an effect."""
        target = self._inner or self._starting
        if self._cancelled or target is None or not target.cancel():
            return False
        self._cancelled = True
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have ``callback`` called, with this call, when the call ends."""
        if self.done():
            callback(self)
            return
        self._callbacks.append(callback)
        if self._inner is not None and len(self._callbacks) == 1:
            self._inner.add_done_callback(self._ended)

    async def initial_metadata(self) -> Metadata:
        """The server's first metadata."""
        return await self._explained(lambda call: call.initial_metadata())

    async def trailing_metadata(self) -> Metadata:
        """The server's last metadata."""
        return await self._explained(lambda call: call.trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        """The status code."""
        inner = await self._wait_started()
        if inner is not None:
            code: grpc.StatusCode = await inner.code()
            return code
        if isinstance(self._failure, AioRpcError):
            return self._failure.code()
        if self._failure is not None:
            raise self._failure
        return grpc.StatusCode.CANCELLED

    async def details(self) -> str:
        """The status's text."""
        inner = await self._wait_started()
        if inner is not None:
            details: str = await inner.details()
            return details
        return str(self._failure or "cancelled before the peer was found")

    async def wait_for_connection(self) -> None:
        """Wait until the call is on its way."""
        await self._explained(lambda call: call.wait_for_connection())


class UnaryResponse(PeerCall[Req, Res]):
    """Adds: one response."""

    def __await__(self) -> Generator[Any, None, Res]:
        return self._moved(_identity).__await__()


class StreamResponse(PeerCall[Req, Res]):
    """Adds: many responses."""

    async def __aiter__(self) -> AsyncIterator[Res]:
        inner = await self._call_or_cancel()
        responses = aiter(inner)
        while True:
            with self._explaining(inner):
                try:
                    response = await anext(responses)
                except StopAsyncIteration:
                    return
            yield response

    async def read(self) -> Res:
        """The next response, or `grpc.aio.EOF`."""
        return await self._moved(lambda call: call.read())


class StreamRequest(PeerCall[Req, Res]):
    """Adds: many requests."""

    async def write(self, request: Req) -> None:
        """Send a request; waits while the peer takes none."""
        await self._moved(lambda call: call.write(request))

    async def done_writing(self) -> None:
        """Say that no more requests come."""
        await self._moved(lambda call: call.done_writing())


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
