"""The replicas that one call by name goes to, one after the other, and what each of them learns from it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Self

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
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.outcomes import outcome_of_error
from lattica.rpc.replicas import Outcome, ReplicaSet
from lattica.rpc.retry import backoff, final
from lattica.rpc.service import MethodSpec
from lattica.rpc.stub import CallOptions

if TYPE_CHECKING:
    from lattica.rpc.replica_stub import ReplicaCaller

FIND_TIMEOUT_S = 30.0
"""Seconds that a call waits at most for a replica that it may go to."""
CONNECT_TIMEOUT_S = 5.0
"""Seconds that one replica has to be connected to before another is called."""


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


class Visit:
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


class Journey:
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
        self._last_peer: PeerId | None = None
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
        if self._last is not None and peer != self._last_peer:
            replicas.counts.moved(outcome_of_error(self._last))
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
        self._last, self._last_peer = error, peer
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


def _at_most(seconds: float, deadline: float | None) -> float:
    return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))
