"""A `grpc.aio.Channel` to a peer ID."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import grpc
from grpc.aio import AioRpcError

from lattica.background import Background
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
from lattica.rpc.options import DRAIN_S, channel_options
from lattica.rpc.ports import Route, RouteOpener

logger = logging.getLogger(__name__)

RENEW_BEFORE_S = 1800.0
"""Seconds before its certificate's end at which a session takes no new calls."""

Kind = Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"]

_CALLS: dict[Kind, Callable[..., PeerCall[Any, Any]]] = {
    "unary_unary": UnaryUnaryPeerCall,
    "unary_stream": UnaryStreamPeerCall,
    "stream_unary": StreamUnaryPeerCall,
    "stream_stream": StreamStreamPeerCall,
}


class Session:
    """One gRPC channel over one route, for as long as both are good."""

    def __init__(self, route: Route, peer: PeerId) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=route.tls.authority,
            private_key=route.tls.private_key,
            certificate_chain=route.tls.certificate,
        )
        self.route = route
        self.channel = grpc.aio.secure_channel(route.target, credentials, options=channel_options(peer.dns_label))
        self._methods: dict[object, Any] = {}

    @property
    def is_good(self) -> bool:
        """Whether new calls may use it."""
        return self.route.failure is None and time.monotonic() < self.route.expires_at - RENEW_BEFORE_S

    def method(self, definition: MethodDefinition) -> Any:
        """The multicallable for a method, made once."""
        method = self._methods.get(definition)
        if method is None:
            make = getattr(self.channel, definition.kind)
            method = make(definition.path, definition.serialize, definition.deserialize)
            self._methods[definition] = method
        return method

    async def close(self, grace: float | None) -> None:
        """Close the channel, after ``grace`` seconds for running calls, and the route."""
        await self.channel.close(grace)
        self.route.close()


@dataclass(frozen=True, slots=True, eq=False)
class MethodDefinition:
    """A method as generated code describes it."""

    kind: Kind
    path: str
    serialize: Callable[[Any], bytes] | None
    deserialize: Callable[[bytes], Any] | None


class PeerChannel(grpc.aio.Channel):
    """Calls to one peer, whatever path leads to it at the time.

    Made without waiting; the first call finds the peer. A call to a peer that cannot be reached raises
    `PeerUnreachableError` (also an `AioRpcError` with ``UNAVAILABLE``) within its deadline, and the next call tries
    anew. Closing it is for the node: it is shared.
    """

    def __init__(self, peer: PeerId, opener: RouteOpener, tasks: Background) -> None:
        self.peer_id = peer
        self._opener = opener
        self._tasks = tasks
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    # What calls need

    def session_nowait(self) -> Session | None:
        """The current session, if it is good."""
        session = self._session
        return session if session is not None and session.is_good else None

    async def session(self, timeout: float | None) -> Session:
        """A good session, opened if need be; raises `PeerUnreachableError` within ``timeout`` seconds."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self._opening.acquire()
        except TimeoutError as error:
            raise PeerUnreachableError(self.peer_id, {"connect": "an earlier call still tries to connect"}) from error
        try:
            session = self.session_nowait()
            if session is None:
                left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
                session = await self._open(left)
            return session
        finally:
            self._opening.release()

    async def _open(self, timeout: float | None) -> Session:
        if self._closed:
            raise PeerUnreachableError(self.peer_id, {"node": "it is closing"})
        if self._session is not None:
            self.retire(self._session)
        session = Session(await self._opener.open_route(self.peer_id, timeout=timeout), self.peer_id)
        self._session = session
        return session

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a call's start in the background; it contains its failure."""
        return self._tasks.start(coroutine)

    def retire(self, session: Session) -> None:
        """Give a session no more calls and close it when its running ones have ended."""
        if self._session is session:
            self._session = None
            self._tasks.start(session.close(DRAIN_S))

    # grpc.aio.Channel

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, MethodDefinition("unary_unary", method, request_serializer, response_deserializer))

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, MethodDefinition("unary_stream", method, request_serializer, response_deserializer))

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, MethodDefinition("stream_unary", method, request_serializer, response_deserializer))

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, MethodDefinition("stream_stream", method, request_serializer, response_deserializer))

    async def close(self, grace: float | None = None) -> None:
        """Close it for good: new calls fail, running ones have ``grace`` seconds."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the current session's channel; idle without one."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        session = self.session_nowait()
        if session is None:
            return grpc.ChannelConnectivity.IDLE
        return session.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the current session's channel leaves a state; opens a session if there is none."""
        await (await self.session(None)).channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the peer is connected; raises `PeerUnreachableError`."""
        await (await self.session(None)).channel.channel_ready()

    async def __aenter__(self) -> NoReturn:
        raise TypeError("a peer's channel belongs to its node and is shared; use it without `async with`")

    async def __aexit__(self, *_: object) -> None:
        raise TypeError("a peer's channel belongs to its node and is shared; use it without `async with`")


class Method:
    """One method of a channel; calling it starts a call."""

    def __init__(self, channel: PeerChannel, definition: MethodDefinition) -> None:
        self._channel = channel
        self._definition = definition

    def __call__(self, *request: Any, timeout: float | None = None, **options: Any) -> PeerCall[Any, Any]:
        """Start a call; the arguments are those of `grpc.aio`'s multicallables."""
        starter = _MethodStarter(self._channel, self._definition, request, timeout, options)
        return _CALLS[self._definition.kind](starter, self._channel.spawn)


class _MethodStarter:
    def __init__(
        self,
        channel: PeerChannel,
        definition: MethodDefinition,
        request: tuple[Any, ...],
        timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        self._channel = channel
        self._definition = definition
        self._request = request
        self._timeout = timeout
        self._options = options
        self._session: Session | None = None

    def start_nowait(self) -> Any | None:
        session = self._channel.session_nowait()
        return None if session is None else self._invoke(session, self._timeout)

    async def start(self) -> Any:
        started = time.monotonic()
        session = await self._channel.session(self._timeout)
        left = None if self._timeout is None else max(0.0, self._timeout - (time.monotonic() - started))
        return self._invoke(session, left)

    def _invoke(self, session: Session, timeout: float | None) -> Any:
        self._session = session
        return session.method(self._definition)(*self._request, timeout=timeout, **self._options)

    def explain(self, error: AioRpcError) -> AioRpcError:
        session = self._session
        if session is None or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return error
        failure = session.route.failure
        if failure is not None or not session.route.has_pipe:
            self._channel.retire(session)
        return error if failure is None else RpcUnreachableError(failure)
