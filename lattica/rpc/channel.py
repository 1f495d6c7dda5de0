"""A `grpc.aio.Channel` to a peer ID."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc

from lattica.background import Background
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId
from lattica.rpc.breaker import Breaker
from lattica.rpc.method import Method, defined, left
from lattica.rpc.metrics import METRICS, RpcMetrics
from lattica.rpc.native_session import NativeSession, wait_connected
from lattica.rpc.options import DRAIN_S
from lattica.rpc.ports import RouteOpener
from lattica.rpc.session import Session

logger = logging.getLogger(__name__)

RENEW_PAUSE_S = 60.0
"""Seconds between attempts to replace a session that ages."""
WARM_UP_TIMEOUT_S = 10.0
"""Seconds that a session over a better path has for its handshake, while the old one serves on."""
RETRY_S = 0.5
"""Seconds between two attempts to find another way for calls that wait because the one that they had is stalled."""
BREAKER_PAUSE_MAX_S = 1.0
"""Longest pause before a peer that cannot be reached is looked for again; short, since it may be back any time."""
OPEN_TIMEOUT_S = 30.0
"""Seconds to find a peer and open a session, whatever the deadlines of the calls that wait for it."""

T = TypeVar("T")


class PeerChannel(grpc.aio.Channel):
    """Calls to one peer, whatever path leads to it at the time.

    Made without waiting; the first call finds the peer. A call to a peer that cannot be reached raises
    `PeerUnreachableError` (also an `AioRpcError` with ``UNAVAILABLE``) within its deadline, and the next call tries
    anew; after two failures in a row calls fail at once for a moment, `BREAKER_PAUSE_MAX_S` at most, or until the peer
    is heard of. Calls that wait for the peer share one attempt, which goes on when they give up: a peer that takes
    longer to find than a call may wait is there for a later one. Closing it is for the node: it is shared.
    """

    def __init__(
        self,
        peer: PeerId,
        opener: RouteOpener,
        tasks: Background,
        *,
        closed: bool = False,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metrics: RpcMetrics = METRICS,
    ) -> None:
        self.peer_id = peer
        self.metrics = metrics
        self._interceptors = interceptors
        self._opener = opener
        self._tasks = tasks
        self._session: Session | None = None
        self._draining: set[Session] = set()
        self._opening: _Opening | None = None
        self._renew_at = 0.0
        self._replaced = asyncio.Event()
        self._closed = closed
        self._breaker = Breaker(random.SystemRandom(), pause_max=BREAKER_PAUSE_MAX_S)
        self._failure: dict[str, str] = {}

    @property
    def closed(self) -> bool:
        """Whether it has been closed for good."""
        return self._closed

    @property
    def path_kind(self) -> str:
        """The kind of the path that calls take; empty without one."""
        return "" if self._session is None else self._session.route.path_kind

    @property
    def attempts(self) -> dict[str, str]:
        """What is being tried to reach the peer; empty if nothing is."""
        return self._opening.attempts if self._opening else {}

    # What calls need

    def session_nowait(self) -> Session | None:
        """The current session, if it is good; one that ages is being replaced meanwhile."""
        session, now = self._session, time.monotonic()
        if session is None or not session.is_ready(now):
            return None
        if session.is_ageing(now) and now >= self._renew_at:
            self._renew_at = now + RENEW_PAUSE_S
            self._open_soon()
        return session

    async def session(self, timeout: float | None) -> Session:
        """A good session, opened if need be; raises `PeerUnreachableError` within ``timeout`` seconds.

        While nothing gets through on the one that there is, another way is looked for, again and again, and whichever
        is ready first is used.
        """
        session = self.session_nowait()
        if session is not None:
            return session
        stalled = self._session
        if stalled is None or not stalled.is_good(time.monotonic()):
            return await self._opened(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        moving = self.spawn(stalled.route.wait_moving)
        try:
            return await self._first_ready(moving, deadline)
        finally:
            moving.cancel()

    async def _first_ready(self, moving: asyncio.Task[None], deadline: float | None) -> Session:
        """The stalled session when it is `moving` again, or another one."""
        while not moving.done():
            opening = self._open_soon()
            either = {moving, opening.task}
            done, _ = await asyncio.wait(either, timeout=left(deadline), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise PeerUnreachableError(self.peer_id, opening.attempts)
            session = self.session_nowait()
            if session is not None:
                return session
            await asyncio.wait({moving}, timeout=min(RETRY_S, left(deadline) or RETRY_S))
        return self.session_nowait() or await self._opened(left(deadline))

    def heard_of(self) -> None:
        """The peer runs: the next call looks for it, however often that has failed."""
        self._breaker.succeeded()

    def _check_breaker(self) -> None:
        now = time.monotonic()
        retry_at = self._breaker.retry_at
        if retry_at is not None and self._opening is None and not self._breaker.can_try(now):
            failed = f"{self._breaker.failures} attempts in a row failed, the next is due in {retry_at - now:.1f} s"
            raise PeerUnreachableError(self.peer_id, {**self._failure, "circuit breaker": failed})

    async def _opened(self, timeout: float | None) -> Session:
        self._check_breaker()
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
            session = Session(route, self.peer_id, self._interceptors)
            if self._session is not None and self._session.is_ready(time.monotonic()):
                await self._warm_up(session)
        except Exception as error:  # noqa: BLE001 - belongs to the calls that wait
            if isinstance(error, PeerUnreachableError) and self.session_nowait() is None:
                self._breaker.failed(time.monotonic())
                self._failure = dict(error.attempts)
            return error
        finally:
            self._opening = None
        self._breaker.succeeded()
        self._replace(session)
        session.watches.append(self.spawn(partial(self._leave_gateway, session)))
        return session

    def _replace(self, session: Session) -> None:
        """Give new calls to a session; those under way end where they are."""
        if self._session is not None:
            self._drain(self._session, None)
            self._replaced.set()
            self._replaced = asyncio.Event()
        self._session = session
        session.watches.append(self.spawn(partial(self._watch, session)))

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

    async def _leave_gateway(self, gateway: Session) -> None:
        """Move new calls to the peer's native port, if it can be reached, for as long as its connection lasts."""
        await wait_connected(gateway)
        while self._session is gateway:
            route = await gateway.route.wait_native()
            if route is None:
                return
            session = NativeSession(route, self.peer_id, self._interceptors)
            try:
                await session.connect()
            except PeerUnreachableError:
                continue
            except Exception:  # a fault of ours must not cost the calls that go by the gateway
                logger.exception("native port failed peer=%s", self.peer_id)
                return
            if self._session is not gateway or self._closed:
                await session.close(0.0)
                return
            self._replace(session)
            session.watches.append(self.spawn(partial(self._retire_lost, session)))
            return

    async def _retire_lost(self, session: NativeSession) -> None:
        """Have new calls go by the gateway when a native connection is lost."""
        await session.wait_lost()
        self.retire(session)

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
        session.retired()
        self._draining.add(session)
        self._tasks.start(session.close(grace)).add_done_callback(lambda _: self._draining.discard(session))

    # grpc.aio.Channel

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, defined(self.metrics, "unary_unary", method, request_serializer, response_deserializer))

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, defined(self.metrics, "unary_stream", method, request_serializer, response_deserializer))

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, defined(self.metrics, "stream_unary", method, request_serializer, response_deserializer))

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> Any:
        """See `grpc.aio.Channel`."""
        return Method(self, defined(self.metrics, "stream_stream", method, request_serializer, response_deserializer))

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


@dataclass(frozen=True, slots=True)
class _Opening:
    """An attempt to open a session.

    Attributes:
        task: Ends with the session, or with the reason why there is none.
        attempts: What is being tried.
    """

    task: asyncio.Task[Session | Exception]
    attempts: dict[str, str]
