"""One method of a channel to a peer, and how its calls start once the peer is found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
from grpc.aio import AioRpcError

from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId
from lattica.rpc.calls import (
    PeerCall,
    RpcUnreachableError,
    StreamStreamPeerCall,
    StreamUnaryPeerCall,
    UnaryStreamPeerCall,
    UnaryUnaryPeerCall,
)
from lattica.rpc.metrics import UNCOUNTED, RpcMetrics
from lattica.rpc.session import Kind, MethodDefinition, Session
from lattica.rpc.settled import outcome_of, settled_code

T = TypeVar("T")

_CALLS: dict[Kind, Callable[..., PeerCall[Any, Any]]] = {
    "unary_unary": UnaryUnaryPeerCall,
    "unary_stream": UnaryStreamPeerCall,
    "stream_unary": StreamUnaryPeerCall,
    "stream_stream": StreamStreamPeerCall,
}


class SessionSource(Protocol):
    """A `PeerChannel`, as far as a method needs it."""

    peer_id: PeerId
    metrics: RpcMetrics

    @property
    def closed(self) -> bool:
        """Whether it has been closed for good."""

    def session_nowait(self) -> Session | None:
        """The current session, if it is good."""

    async def session(self, timeout: float | None) -> Session:
        """A good session, opened if need be; raises `PeerUnreachableError` within ``timeout`` seconds."""

    def spawn(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run something that contains its failure in the background; `PeerUnreachableError` if the node closes."""

    def closing_error(self) -> PeerUnreachableError:
        """Why calls fail when the node closes."""

    def retire(self, session: Session) -> None:
        """Give a session that has lost its peer no more calls, and close it."""


class Method:
    """One method of a channel; calling it starts a call."""

    def __init__(self, channel: SessionSource, definition: MethodDefinition) -> None:
        self._channel = channel
        self._definition = definition

    def __call__(self, *request: Any, timeout: float | None = None, **options: Any) -> PeerCall[Any, Any]:
        """Start a call; the arguments are those of `grpc.aio`'s multicallables."""
        starter = _MethodStarter(self._channel, self._definition, request, timeout, options)
        return _CALLS[self._definition.kind](starter, self._channel.spawn)


class _MethodStarter:
    def __init__(
        self,
        channel: SessionSource,
        definition: MethodDefinition,
        request: tuple[Any, ...],
        timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        self._channel = channel
        self._definition = definition
        self._request = request
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._options = options
        self._session: Session | None = None
        self._started = time.monotonic()

    def start_nowait(self) -> Any | None:
        session = self._channel.session_nowait()
        return None if session is None else self._invoke(session)

    async def start(self) -> Any:
        try:
            session = await self._channel.session(self.time_remaining())
        except PeerUnreachableError:
            self._count("unreachable", "")
            raise
        except asyncio.CancelledError:
            self._count("cancelled", "")
            raise
        return self._invoke(session)

    def time_remaining(self) -> float | None:
        return left(self._deadline)

    def _invoke(self, session: Session) -> Any:
        self._session = session
        call = session.call(self._definition, *self._request, timeout=self.time_remaining(), **self._options)
        call.add_done_callback(partial(self._ended, session.route.path_kind))
        return call

    def _ended(self, path: str, call: Any) -> None:
        self._count(outcome_of(settled_code(call)), path)

    def _count(self, outcome: str, path: str) -> None:
        if not self._definition.path.startswith(UNCOUNTED):
            self._channel.metrics.ended("client", self._definition.kind, outcome, path, self._started)

    def abandoned(self) -> RpcUnreachableError:
        if self._channel.closed:
            return RpcUnreachableError(self._channel.closing_error())
        return RpcUnreachableError(PeerUnreachableError(self._channel.peer_id, {"session": "it was lost"}))

    def explain(self, error: AioRpcError) -> AioRpcError:
        session, code = self._session, error.code()
        if session is None:
            return error
        route = session.route
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not route.has_pipe and route.attempts is not None:
            return RpcUnreachableError(PeerUnreachableError(self._channel.peer_id, route.attempts))
        if code is not grpc.StatusCode.UNAVAILABLE:
            return error
        if route.failure is not None or not route.has_pipe:
            self._channel.retire(session)
        return error if route.failure is None else RpcUnreachableError(route.failure)


def defined(metrics: RpcMetrics, kind: Kind, path: str, serialize: Any, deserialize: Any) -> MethodDefinition:
    """A method; its messages outside streams are counted."""
    if not path.startswith(UNCOUNTED):
        if kind.startswith("unary_"):
            serialize = metrics.counting_serializer("client", serialize)
        if kind.endswith("_unary"):
            deserialize = metrics.counting_deserializer("client", deserialize)
    return MethodDefinition(kind, path, serialize, deserialize)


def left(deadline: float | None) -> float | None:
    """Seconds to a deadline of `time.monotonic`, at least 0; ``None`` without one."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
