"""Makes unary calls that have a gRPC call of their own: each attempt, and what follows when one is lost.

A call is sent again under its number until it is answered. One that must not run twice names the memory of the server
in which the number is looked up, so that it can run there or nowhere:

- its first attempt has not come, or not whole: the next one runs it;
- it runs, or has ended: the next attempt waits for the answer, or gets it;
- its answer is not kept any more: the server says so, `OutcomeUnknownError`;
- the server has been started anew, or has forgotten us: it has no memory of that name, and says so. If any attempt was
  lost, that may have run: `OutcomeUnknownError`. If none was, the name was old, and the call names the new one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from msgspec.structs import replace

from lattica.errors import DeadlineExceededError, OutcomeUnknownError, RpcError
from lattica.rpc.batch_client import RESUME_PAUSE_MAX_S, RESUME_PAUSE_MIN_S, RESUME_S, BatchClient
from lattica.rpc.batch_wire import AGAIN, ONCE, OTHER_MEMORY, Failure
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.own_client import call_alone, fetch_result
from lattica.rpc.own_wire import CallHeader


@dataclass(slots=True)
class Resumption:
    """How long a call that was lost is tried again. No I/O, no clock.

    Attributes:
        lost_at: When it was lost; ``None`` while it is not.
        pause: Seconds until the next attempt.
    """

    lost_at: float | None = None
    pause: float = RESUME_PAUSE_MIN_S

    def lost(self, began: float, now: float) -> float | None:
        """Seconds to wait before the next attempt, or ``None``: it is time to give up.

        An attempt that lasted longer than all attempts may was under way, and its loss is a new one.
        """
        if self.lost_at is None or now - began > RESUME_S:
            self.lost_at, self.pause = now, RESUME_PAUSE_MIN_S
        elif now - self.lost_at > RESUME_S:
            return None
        pause, self.pause = self.pause, min(2 * self.pause, RESUME_PAUSE_MAX_S)
        return pause


class OwnUnary:
    """Calls of one caller to one peer.

    Cancelling one cancels it at the server. If nothing gets through to that for now, it runs on there, for
    `lattica.rpc.call_memory.RUN_ON_S` at most.

    Args (all methods):
        can_move: Whether the caller has other peers to call, so that a loss should be raised at once, as
            `LostCallError`, unless the call must not run twice and may have begun.

    Raises (all methods):
        OutcomeUnknownError: The connection was lost, and so is what became of a call that must not run twice.
        PeerUnreachableError: The peer cannot be reached.
        RpcError: As `lattica.rpc.own_client.OwnCall` does.
    """

    def __init__(self, channel: PeerChannel, batch: BatchClient) -> None:
        self.channel = channel
        self._batch = batch

    async def call(
        self, header: CallHeader, args: bytes | Encoded, deadline: float | None, *, can_move: bool = False
    ) -> Encoded | Failure:
        """Make a call."""
        return await self._resumed(_Call(self, header, args, deadline), header, deadline, can_move)

    async def fetch(
        self, method: str, number: int, deadline: float | None, flags: int, *, can_move: bool = False
    ) -> Encoded | Failure:
        """The large result of a batched call."""
        header = CallHeader(method, self._batch.instance, number, flags)
        return await self._resumed(_Fetch(self, header, deadline), header, deadline, can_move)

    async def memory(self, method: str, deadline: float | None) -> bytes:
        """The name of the server's memory of us."""
        try:
            async with asyncio.timeout(_left(deadline)):
                return await self._batch.wait_memory()
        except TimeoutError as error:
            raise DeadlineExceededError(method) from error

    async def _resumed(
        self, call: _Call | _Fetch, header: CallHeader, deadline: float | None, can_move: bool
    ) -> Encoded | Failure:
        """The answer of the first attempt that is not lost; the server may forget the call when this ends."""
        is_once = bool(header.flags & ONCE)
        resumption = Resumption()
        answer: Encoded | Failure | None = None
        try:
            while answer is None:
                began = time.monotonic()
                try:
                    answer = await call.attempt()
                except LostCallError as error:
                    if can_move and not (is_once and error.was_sent):
                        raise
                    now = time.monotonic()
                    pause = None if self.channel.closed else resumption.lost(began, now)
                    if pause is None:
                        raise error.outcome(header.method, once=is_once) from error.__cause__
                    if deadline is not None and now + pause >= deadline:
                        raise DeadlineExceededError(header.method) from error
                    await asyncio.sleep(pause)
        finally:
            if call.is_kept and answer is not None:
                self._batch.received(header.id)
            elif call.is_kept:
                self._batch.abandoned(header.id)
        return answer


class _Fetch:
    """A result that the server keeps for us.

    Attributes:
        is_kept: Whether the server may remember the call.
    """

    is_kept = True

    def __init__(self, own: OwnUnary, header: CallHeader, deadline: float | None) -> None:
        self._own = own
        self._header = header
        self._deadline = deadline

    async def attempt(self) -> Encoded | Failure:
        """Ask for it."""
        return await fetch_result(self._own.channel, self._header.instance, self._header.id, _left(self._deadline))


class _Call:
    """A call.

    Attributes:
        is_kept: Whether the server may remember it.
    """

    def __init__(self, own: OwnUnary, header: CallHeader, args: bytes | Encoded, deadline: float | None) -> None:
        self.is_kept = False
        self._own = own
        self._header = header
        self._args = args
        self._deadline = deadline
        self._is_once = bool(header.flags & ONCE)
        self._in_doubt = False

    async def attempt(self) -> Encoded | Failure:
        """Make it, again if it may have come already."""
        own, method = self._own, self._header.method
        if not self._in_doubt:
            await own.channel.session(_left(self._deadline))
            if self._is_once:
                self._header = replace(self._header, memory=await own.memory(method, self._deadline))
        try:
            answer = await self._sent()
        except LostCallError as error:
            if error.was_sent and not self._in_doubt:
                self._in_doubt = self.is_kept = True
                self._header = replace(self._header, flags=self._header.flags | AGAIN)
            raise LostCallError(error.cause, was_sent=self._in_doubt) from error.__cause__
        if not isinstance(answer, Failure) or answer.code != OTHER_MEMORY:
            return answer
        if self._in_doubt:
            raise OutcomeUnknownError(method, "the peer's node has been restarted meanwhile, or has forgotten us")
        raise LostCallError(RpcError(f"{own.channel.peer_id} has been restarted"), was_sent=False)

    async def _sent(self) -> Encoded | Failure:
        channel, header = self._own.channel, self._header
        self.is_kept = self.is_kept or self._is_once
        return await call_alone(channel, header, self._args, _left(self._deadline))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())
