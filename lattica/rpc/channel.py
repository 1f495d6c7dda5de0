"""A `grpc.aio.Channel` to a peer ID."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar

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
"""Seconds before its certificate's end at which a session is replaced; meanwhile it serves on."""
RENEW_PAUSE_S = 60.0
"""Seconds between attempts to replace a session that ages."""
WARM_UP_TIMEOUT_S = 10.0
"""Seconds that a session over a better path has for its handshake, while the old one serves on."""
OPEN_TIMEOUT_S = 30.0
"""Seconds to find a peer and open a session, whatever the deadlines of the calls that wait for it."""

T = TypeVar("T")
Kind = Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"]

_CALLS: dict[Kind, Callable[..., PeerCall[Any, Any]]] = {
    "unary_unary": UnaryUnaryPeerCall,
    "unary_stream": UnaryStreamPeerCall,
    "stream_unary": StreamUnaryPeerCall,
    "stream_stream": StreamStreamPeerCall,
}


class Session:
    """One gRPC channel over one route, for as long as both are good.

    Attributes:
        route: The route.
        channel: The channel.
        watch: Waits for a better route; ends with the session.
    """

    def __init__(self, route: Route, peer: PeerId) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=route.tls.authority,
            private_key=route.tls.private_key,
            certificate_chain=route.tls.certificate,
        )
        self.route = route
        self.channel = grpc.aio.secure_channel(route.target, credentials, options=channel_options(peer.dns_label))
        self._methods: dict[object, Any] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.watch: asyncio.Task[None] | None = None

    def is_good(self, now: float) -> bool:
        """Whether new calls may use it."""
        return self.route.failure is None and now < self.route.expires_at

    def is_ageing(self, now: float) -> bool:
        """Whether it is time to replace it."""
        return now >= self.route.expires_at - RENEW_BEFORE_S

    def call(self, definition: MethodDefinition, *request: Any, **options: Any) -> Any:
        """Start a call."""
        method = self._methods.get(definition)
        if method is None:
            make = getattr(self.channel, definition.kind)
            method = make(definition.path, definition.serialize, definition.deserialize)
            self._methods[definition] = method
        call = method(*request, **options)
        self._running += 1
        self._idle.clear()
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _: object) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def close(self, grace: float | None) -> None:
        """Close channel and route when no call runs, at the latest after ``grace`` seconds; at once if cancelled."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            logger.info("session closed with calls running target=%s calls=%d", self.route.target, self._running)
        finally:
            if self.watch is not None:
                self.watch.cancel()
            await self.channel.close()
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
    anew. Calls that wait for the peer share one attempt, which goes on when they give up: a peer that takes longer to
    find than a call may wait is there for a later one. Closing it is for the node: it is shared.
    """

    def __init__(self, peer: PeerId, opener: RouteOpener, tasks: Background, *, closed: bool = False) -> None:
        self.peer_id = peer
        self._opener = opener
        self._tasks = tasks
        self._session: Session | None = None
        self._draining: set[Session] = set()
        self._opening: _Opening | None = None
        self._renew_at = 0.0
        self._replaced = asyncio.Event()
        self._closed = closed

    @property
    def closed(self) -> bool:
        """Whether it has been closed for good."""
        return self._closed

    # What calls need

    def session_nowait(self) -> Session | None:
        """The current session, if it is good; one that ages is being replaced meanwhile."""
        session, now = self._session, time.monotonic()
        if session is None or not session.is_good(now):
            return None
        if session.is_ageing(now) and now >= self._renew_at:
            self._renew_at = now + RENEW_PAUSE_S
            self._open_soon()
        return session

    async def session(self, timeout: float | None) -> Session:
        """A good session, opened if need be; raises `PeerUnreachableError` within ``timeout`` seconds."""
        session = self.session_nowait()
        if session is not None:
            return session
        opening = self._open_soon()
        done, _ = await asyncio.wait([opening.task], timeout=timeout)
        if not done:
            raise PeerUnreachableError(self.peer_id, opening.attempts)
        if opening.task.cancelled():
            raise self.closing_error()
        result = opening.task.result()
        if isinstance(result, Exception):
            raise result
        return result

    def _open_soon(self) -> _Opening:
        if self._closed:
            raise self.closing_error()
        if self._opening is None:
            attempts: dict[str, str] = {}
            self._opening = _Opening(self.spawn(partial(self._open, attempts)), attempts)
        return self._opening

    async def _open(self, attempts: dict[str, str]) -> Session | Exception:
        try:
            route = await self._opener.open_route(self.peer_id, timeout=OPEN_TIMEOUT_S, attempts=attempts)
            if self._closed:
                route.close()
                return self.closing_error()
            session = Session(route, self.peer_id)
            if self._session is not None and self._session.is_good(time.monotonic()):
                await self._warm_up(session)
        except Exception as error:  # noqa: BLE001 - belongs to the calls that wait
            return error
        finally:
            self._opening = None
        if self._session is not None:
            self._drain(self._session, None)
            self._replaced.set()
            self._replaced = asyncio.Event()
        self._session = session
        session.watch = self.spawn(partial(self._watch, session))
        return session

    async def _warm_up(self, session: Session) -> None:
        """Shake hands before a session takes the place of one that works; raises `PeerUnreachableError`."""
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                await session.channel.channel_ready()
        except BaseException as error:
            await session.close(0.0)
            if isinstance(error, TimeoutError):
                raise PeerUnreachableError(self.peer_id, {"session": "no handshake in time"}) from error
            raise

    async def _watch(self, session: Session) -> None:
        """Move new calls to a better path when there is one; those under way end where they are."""
        while True:
            await session.route.wait_superseded()
            if self._session is not session or self._closed:
                return
            await asyncio.wait([self._open_soon().task])  # if that fails, this session goes on

    async def wait_replaced(self) -> None:
        """Return when new calls take another way than they do now: there is a better path, or the session has aged.

        Calls under way are not cut, but a long stream does well to begin anew.
        """
        await self._replaced.wait()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run something that contains its failure in the background; `PeerUnreachableError` if the node closes."""
        try:
            return self._tasks.start(function())
        except RuntimeError as error:
            raise self.closing_error() from error

    def closing_error(self) -> PeerUnreachableError:
        """Why calls fail when the node closes."""
        return PeerUnreachableError(self.peer_id, {"node": "it is closing"})

    def retire(self, session: Session) -> None:
        """Give a session that has lost its peer no more calls, and close it."""
        if self._session is session:
            self._session = None
            self._drain(session, DRAIN_S)

    def _drain(self, session: Session, grace: float | None) -> None:
        self._draining.add(session)
        self._tasks.start(session.close(grace)).add_done_callback(lambda _: self._draining.discard(session))

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
        sessions = {*self._draining, *([self._session] if self._session else ())}
        self._session = None
        await asyncio.gather(*(session.close(grace or 0.0) for session in sessions))

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


@dataclass(frozen=True, slots=True)
class _Opening:
    """An attempt to open a session.

    Attributes:
        task: Ends with the session, or with the reason why there is none.
        attempts: What is being tried.
    """

    task: asyncio.Task[Session | Exception]
    attempts: dict[str, str]


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
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._options = options
        self._session: Session | None = None

    def start_nowait(self) -> Any | None:
        session = self._channel.session_nowait()
        return None if session is None else self._invoke(session)

    async def start(self) -> Any:
        return self._invoke(await self._channel.session(self.time_remaining()))

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _invoke(self, session: Session) -> Any:
        self._session = session
        return session.call(self._definition, *self._request, timeout=self.time_remaining(), **self._options)

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
