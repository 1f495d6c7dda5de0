"""The caller's side of services that are found by name: each call goes to the replica that is best for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Self

from lattica.errors import (
    CodecError,
    DeadlineExceededError,
    DecodeError,
    LatticaError,
    NoSuchMethodError,
    PeerUnreachableError,
    RemoteError,
    RpcError,
    ServerBusyError,
    UnsendableResultError,
)
from lattica.identity import PeerId
from lattica.rpc.batch_calls import Lane
from lattica.rpc.codec import Encoded
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.peer_caller import PeerCaller
from lattica.rpc.replicas import Outcome, ReplicaSet
from lattica.rpc.retry import backoff, final
from lattica.rpc.service import MethodSpec
from lattica.rpc.stub import CallOptions
from lattica.rpc.stub_methods import StreamingMethod, StubMethod, first_answer, is_repeatable

FIND_TIMEOUT_S = 30.0
"""Seconds that a call waits at most for a replica that it may go to."""
CONNECT_TIMEOUT_S = 5.0
"""Seconds that one replica has to be connected to before another is called."""
MAX_TARGETS = 256
"""Replicas that a stub remembers how to call; when there are more it forgets those that have gone."""


def outcome_of(error: BaseException) -> Outcome:
    """What the error of a call tells of the replica."""
    match error:
        case ServerBusyError():
            return Outcome.REFUSED
        case RemoteError() | DecodeError() | UnsendableResultError():
            return Outcome.ERROR
        case DeadlineExceededError() | CodecError():
            return Outcome.ABANDONED
        case LatticaError() | LostCallError():
            return Outcome.FAILED
        case _:
            return Outcome.ABANDONED  # cancelled, or what the caller's own stream of requests has raised


def may_go_elsewhere(error: Exception, *, idempotent: bool) -> bool:
    """Whether another replica may succeed, and calling it can do no harm."""
    match error:
        case ServerBusyError():
            return idempotent or not error.has_begun
        case NoSuchMethodError() | PeerUnreachableError():
            return True  # it has not begun
        case LostCallError():
            return idempotent or not error.was_sent
        case RpcError():
            return idempotent and outcome_of(error) is Outcome.FAILED
        case _:
            return False


class ReplicaCaller:
    """Calls the replicas of one name.

    Args:
        replicas: Who they are, and how well.
        caller_of: Makes calls to one of them.
    """

    def __init__(self, replicas: ReplicaSet, caller_of: Callable[[PeerId], PeerCaller]) -> None:
        self.replicas = replicas
        self.caller_of = caller_of

    def __str__(self) -> str:
        return "its replicas"

    def method(self, spec: MethodSpec, opts: CallOptions, _: Lane) -> Callable[..., Any]:
        """What a stub has for a method."""
        if spec.is_unary:
            return _Unary(self, spec, opts)
        return _ResultStream(self, spec, opts) if spec.streams_results else _RequestStream(self, spec, opts)


class _Visit:
    """One attempt at one replica; all who call the name learn how it went.

    Attributes:
        caller: Calls the replica; it is connected to.
        is_timed: Whether the seconds to the end of this block, or to `answered`, say how fast the replica is.
    """

    def __init__(self, target: ReplicaCaller, peer: PeerId, deadline: float | None, *, is_timed: bool = True) -> None:
        self.caller = target.caller_of(peer)
        self._replicas = target.replicas
        self._peer = peer
        self._deadline = deadline
        self._is_timed = is_timed
        self._started = time.monotonic()
        self._answered: float | None = None

    def answered(self) -> None:
        """The first result is there."""
        if self._answered is None:
            self._answered = time.monotonic()

    async def __aenter__(self) -> Self:
        self._replicas.started(self._peer)
        channel = self.caller.channel
        if channel.session_nowait() is None:
            try:
                await channel.session(_at_most(CONNECT_TIMEOUT_S, self._deadline))
            except BaseException as error:
                self._ended(error)
                raise
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        seconds = (self._answered or time.monotonic()) - self._started if self._is_timed else None
        self._replicas.finished(self._peer, seconds, Outcome.OK if error is None else outcome_of(error))


class _Journey:
    """The replicas that one call goes to, one after the other.

    Attributes:
        failures: Attempts so far that failed.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        spec: MethodSpec,
        opts: CallOptions,
        deadline: float | None,
        *,
        avoided: PeerId | None = None,
    ) -> None:
        self._replicas = replicas
        self._spec = spec
        self._key = opts.key
        self._attempts = opts.attempts
        self._deadline = deadline
        self._avoided = set[PeerId]() if avoided is None else {avoided}
        self._last: Exception | None = None
        self.failures = 0

    async def next(self) -> PeerId:
        """The replica for the next attempt, another one each time while there are any; else after a pause.

        Raises:
            NoReplicaError: There is none in time.
        """
        replicas, avoided = self._replicas, self._avoided
        peer = replicas.choose(exclude=avoided) if self._key is None else await self._keyed()
        if peer is None and avoided and self._last is not None:
            await self._pause(self._last)
            avoided.clear()
        if peer is None:
            left = _at_most(FIND_TIMEOUT_S, self._deadline)
            peer = await replicas.pick(key=self._key, exclude=avoided, timeout=left)
        avoided.add(peer)
        return peer

    async def _keyed(self) -> PeerId | None:
        """As soon as all replicas are known: a key's replica depends on who there is."""
        await self._replicas.wait_settled(_at_most(FIND_TIMEOUT_S, self._deadline))
        return self._replicas.choose(key=self._key, exclude=self._avoided)

    async def failed(self, peer: PeerId, error: Exception) -> None:
        """An attempt has failed: return if another one may be made, raise the caller's error if not."""
        self.failures += 1
        is_over = self._deadline is not None and time.monotonic() >= self._deadline
        idempotent = self._spec.options.idempotent
        if is_over or self.failures >= self._attempts or not may_go_elsewhere(error, idempotent=idempotent):
            raise self._final(error) from error.__cause__
        self._last = error
        if self._key is not None and isinstance(error, ServerBusyError):
            self._avoided.discard(peer)  # what is kept for the key is there and nowhere else
            await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        pause = backoff(self.failures, random.random())  # noqa: S311 - spreads callers, hides nothing
        if self._deadline is not None and time.monotonic() + pause >= self._deadline:
            raise self._final(error) from error.__cause__
        await asyncio.sleep(pause)

    def _final(self, error: Exception) -> Exception:
        return final(error, self._spec.path, once=not self._spec.options.idempotent)


class _Unary(StubMethod):
    def __init__(self, target: ReplicaCaller, spec: MethodSpec, opts: CallOptions) -> None:
        super().__init__(spec, opts)
        self._target = target
        self._replicas = target.replicas
        self._hedged = self._hedge_after
        self._lanes: dict[PeerId, Lane] = {}

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        spec, deadline = self._spec, self._deadline()
        encoded = spec.args.encode_small(spec.args.bind(args, kwargs))
        if self._hedged is not None:
            journey = _Journey(self._target.replicas, spec, self._options, deadline)
            return await first_answer(partial(self._travel, journey, encoded, deadline), self._hedged)
        peer = self._replicas.choose_nowait(self._options.key)
        caller = None if peer is None else self._target.caller_of(peer)
        if peer is None or caller is None or caller.channel.session_nowait() is None:
            journey = _Journey(self._target.replicas, spec, self._options, deadline)
            return await self._travel(journey, encoded, deadline)
        return await self._direct(peer, caller, encoded, deadline)

    async def _direct(self, peer: PeerId, caller: PeerCaller, encoded: bytes | Encoded, deadline: float | None) -> Any:
        """What most calls are: one attempt at a replica that is connected. The same as a `_Visit`, for less."""
        replicas, started = self._replicas, time.monotonic()
        lane = self._lanes.get(peer) or self._lane(peer)
        replicas.started(peer)
        try:
            result = await caller.unary(self._spec, encoded, lane, deadline, self._flags, can_move=True)
        except BaseException as error:
            replicas.finished(peer, time.monotonic() - started, outcome_of(error))
            if not isinstance(error, Exception):
                raise
            journey = _Journey(replicas, self._spec, self._options, deadline, avoided=peer)
            await journey.failed(peer, error)
        else:
            replicas.finished(peer, time.monotonic() - started, Outcome.OK)
            return result
        return await self._travel(journey, encoded, deadline)

    async def _travel(self, journey: _Journey, encoded: bytes | Encoded, deadline: float | None) -> Any:
        while True:
            peer = await journey.next()
            try:
                async with _Visit(self._target, peer, deadline) as visit:
                    lane = self._lanes.get(peer) or self._lane(peer)
                    return await visit.caller.unary(self._spec, encoded, lane, deadline, self._flags, can_move=True)
            except Exception as error:  # noqa: BLE001 - the journey decides
                await journey.failed(peer, error)

    def _lane(self, peer: PeerId) -> Lane:
        if len(self._lanes) >= MAX_TARGETS:
            self._lanes = {known: lane for known, lane in self._lanes.items() if lane.calls}
        lane = self._lanes[peer] = Lane()
        return lane


class _Streaming(StreamingMethod):
    def __init__(self, target: ReplicaCaller, spec: MethodSpec, opts: CallOptions) -> None:
        super().__init__(spec, opts)
        self._target = target

    def _journey(self, deadline: float | None) -> _Journey:
        return _Journey(self._target.replicas, self._spec, self._options, deadline)

    def _ended(self, error: Exception) -> Exception:
        return self._lost(error) if isinstance(error, LostCallError) else error


class _RequestStream(_Streaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encoded, stream = self._arguments(args, kwargs)
        deadline = self._deadline()
        journey = self._journey(deadline)
        while True:
            peer, begun = await journey.next(), False
            try:
                async with _Visit(self._target, peer, deadline, is_timed=False) as visit:
                    begun = True
                    async with self._called(visit.caller, encoded, stream, deadline) as call:
                        return await self._only_result(call, visit.caller)
            except Exception as error:  # noqa: BLE001 - the journey decides
                if begun and not is_repeatable(error, stream):  # requests are gone that cannot be had again
                    raise self._ended(error) from error.__cause__
                await journey.failed(peer, error)


class _ResultStream(_Streaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        encoded, stream = self._arguments(args, kwargs)
        deadline = self._deadline()
        journey = self._journey(deadline)
        while True:
            peer, begun, answered = await journey.next(), False, False
            try:
                async with _Visit(self._target, peer, deadline, is_timed=stream is None) as visit:
                    begun = stream is not None
                    async with self._called(visit.caller, encoded, stream, deadline) as call:
                        while (answer := await call.receive()) is not None:
                            result = self._result(answer)
                            answered = True
                            visit.answered()
                            yield result
                        return
            except Exception as error:  # noqa: BLE001 - the journey decides
                if answered or (begun and not is_repeatable(error, stream)):
                    raise self._ended(error) from error.__cause__
                await journey.failed(peer, error)


def _at_most(seconds: float, deadline: float | None) -> float:
    return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))
