"""The caller's side of services that are found by name: each call goes to the replica that is best for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from lattica.identity import PeerId
from lattica.rpc.batch_calls import Lane
from lattica.rpc.codec import Encoded
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.outcomes import OK, outcome_of_error
from lattica.rpc.peer_caller import PeerCaller
from lattica.rpc.replica_journey import Journey, Visit, outcome_of
from lattica.rpc.replicas import Outcome, ReplicaSet
from lattica.rpc.service import MethodSpec
from lattica.rpc.stub import CallOptions
from lattica.rpc.stub_methods import StreamingMethod, StubMethod, first_answer, is_repeatable

MAX_TARGETS = 256
"""Replicas that a stub remembers how to call; when there are more it forgets those that have gone."""


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
        try:
            if self._hedged is not None:
                result = await self._hedge(self._hedged, encoded, deadline)
            else:
                peer = self._replicas.choose_nowait(self._options.key)
                caller = None if peer is None else self._target.caller_of(peer)
                if peer is None or caller is None or caller.channel.session_nowait() is None:
                    journey = Journey(self._replicas, spec, self._options, deadline)
                    result = await self._travel(journey, encoded, deadline)
                else:
                    result = await self._direct(peer, caller, encoded, deadline)
        except BaseException as error:
            self._replicas.counts.ended(outcome_of_error(error))
            raise
        self._replicas.counts.ended(OK)
        return result

    async def _hedge(self, after: float, encoded: bytes | Encoded, deadline: float | None) -> Any:
        """Two attempts of one journey, the second at another replica, ``after`` seconds later; see `first_answer`."""
        journey = Journey(self._replicas, self._spec, self._options, deadline)
        begun: list[str] = []
        answered: list[str] = []

        async def attempt() -> Any:
            name = "second" if begun else "first"
            begun.append(name)
            result = await self._travel(journey, encoded, deadline)
            answered.append(name)
            return result

        try:
            return await first_answer(attempt, after)
        finally:
            if len(begun) > 1:
                self._replicas.counts.hedged(answered[0] if answered else "nobody")

    async def _direct(self, peer: PeerId, caller: PeerCaller, encoded: bytes | Encoded, deadline: float | None) -> Any:
        """What most calls are: one attempt at a replica that is connected. The same as a `Visit`, for less."""
        replicas, started = self._replicas, time.monotonic()
        lane = self._lanes.get(peer) or self._lane(peer)
        replicas.started(peer)
        try:
            result = await caller.unary(self._spec, encoded, lane, deadline, self._flags, can_move=True)
        except BaseException as error:
            replicas.finished(peer, time.monotonic() - started, outcome_of(error))
            if not isinstance(error, Exception):
                raise
            journey = Journey(replicas, self._spec, self._options, deadline, avoided=peer)
            await journey.failed(peer, error)
        else:
            replicas.finished(peer, time.monotonic() - started, Outcome.OK)
            return result
        return await self._travel(journey, encoded, deadline)

    async def _travel(self, journey: Journey, encoded: bytes | Encoded, deadline: float | None) -> Any:
        while True:
            peer = await journey.next()
            try:
                async with Visit(self._target, peer, deadline) as visit:
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

    def _journey(self, deadline: float | None) -> Journey:
        return Journey(self._target.replicas, self._spec, self._options, deadline)

    def _ended(self, error: Exception) -> Exception:
        return self._lost(error) if isinstance(error, LostCallError) else error

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what the block does as one call."""
        counts = self._target.replicas.counts
        try:
            yield
        except BaseException as error:
            counts.ended(outcome_of_error(error))
            raise
        counts.ended(OK)


class _RequestStream(_Streaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encoded, stream = self._arguments(args, kwargs)
        deadline = self._deadline()
        journey = self._journey(deadline)
        with self._counted():
            while True:
                peer, begun = await journey.next(), False
                try:
                    async with Visit(self._target, peer, deadline, is_timed=False) as visit:
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
        with self._counted():
            while True:
                peer, begun, answered = await journey.next(), False, False
                try:
                    async with Visit(self._target, peer, deadline, is_timed=stream is None) as visit:
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
