"""The calls of a batched session at the caller's side: which are waiting, sent, in doubt. No I/O, no clock.

A call is *queued* until a stream takes it, *sent* until its answer comes, and *in doubt* when its stream is lost before
that. What becomes of those in doubt is decided when a server has said who it is: one that remembers us gets them again,
and answers what it has done already from memory; of another instance, or one that has forgotten us, nobody knows
whether it ran them, so that only those that may run twice are sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec

from lattica.errors import LatticaError, OutcomeUnknownError
from lattica.rpc.batch_wire import (
    AGAIN,
    MAX_BATCH_CALLS,
    ONCE,
    SMALL,
    UTF8_BYTES,
    Buffers,
    EncodedCall,
    Responses,
    sizes_of,
)
from lattica.rpc.codec import Encoded
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.outcomes import LOST, OK, UNREACHABLE, outcome_of_error, outcome_of_failure
from lattica.rpc.remote_errors import error_of
from lattica.rpc.service import MethodSpec

QUANTUM = 32
"""Calls that one lane may put into a message before the next lane has its turn."""
MAX_NOTES = MAX_BATCH_CALLS * 8
"""Cancellations, and acknowledgements, in one message."""
MAX_OUTSTANDING = 16_384
"""Unanswered calls to one peer; further callers wait. A lost stream has taken at most so many notes of either sort
with it that the server has not seen: what it had not read when it answered last."""


BatchedResult = msgspec.Raw | Encoded | None
"""An encoded result, with its buffers if it has any; ``None`` if it has to be fetched."""


class Lane:
    """The queued calls of one stub: lanes take turns, so that one with a thousand does not hold up one with two."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: deque[Pending] = deque()


class Pending:
    """A call that has not been answered.

    Attributes:
        id: Its number.
        future: Gets the encoded result, or the error.
        spec: The method.
        args: Encoded arguments.
        deadline: When it has to be answered, in seconds of the monotonic clock; ``None`` for no deadline.
        flags: See `lattica.rpc.batch_wire`.
        context: Tracing headers.
        stream: The stream that took it; ``None`` while it is queued, or when that stream was lost.
        server: Instance of the server that its lost stream led to; ``None`` if that never said.
        was_sent: Whether a stream has taken it, ever.
        can_move: Whether its caller can make it at another peer, and wants to know at once when this one is lost.
        is_queued_again: Whether it waits for another one since.
    """

    __slots__ = (
        "args", "can_move", "context", "deadline", "flags", "future", "id", "is_queued_again", "server", "spec",
        "stream", "was_sent",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        future: asyncio.Future[BatchedResult],
        spec: MethodSpec,
        args: bytes | Encoded,
        deadline: float | None,
        flags: int,
        context: dict[str, str] | None,
        can_move: bool = False,
    ) -> None:
        self.id = number
        self.future = future
        self.spec = spec
        self.args = args
        self.deadline = deadline
        self.flags = flags
        self.context = context
        self.can_move = can_move
        self.stream: object | None = None
        self.server: bytes | None = None
        self.was_sent = False
        self.is_queued_again = False

    @property
    def in_doubt(self) -> bool:
        """Whether it was sent and its stream was lost; also while it is queued again, for no server has it for sure."""
        return self.was_sent and self.stream is None

    @property
    def is_once(self) -> bool:
        """Whether it must not run twice."""
        return bool(self.flags & ONCE)


Outcomes = dict[str, int]
"""How many calls have ended, by a word of `lattica.rpc.outcomes`."""


class CallTable:
    """All unanswered calls of one caller to one peer.

    Args:
        first_queued: Told of the call that begins each message: it stands for the others where one is enough.
        max_batch: Bytes of arguments after which a message takes no more.
    """

    def __init__(
        self, first_queued: Callable[[Pending], None] = lambda _: None, max_batch: int = SMALL.max_batch
    ) -> None:
        self._first_queued = first_queued
        self._max_batch = max_batch
        self._next = 0
        self._calls: dict[int, Pending] = {}
        self._turns: deque[Lane] = deque()
        self._cancelled: list[int] = []
        self._received: list[int] = []
        self._withdrawn = 0
        self._sent_cancelled = deque[int](maxlen=MAX_OUTSTANDING)
        self._sent_received = deque[int](maxlen=MAX_OUTSTANDING)
        self._again = Lane()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._calls.values())

    def new_id(self) -> int:
        """A number for a call, also for one that does not travel in a batch."""
        number = self._next
        self._next = number + 1
        return number

    def add(self, pending: Pending, lane: Lane) -> None:
        """Queue a call."""
        self._calls[pending.id] = pending
        if not lane.calls:
            if not self._turns:
                self._first_queued(pending)
            self._turns.append(lane)
        lane.calls.append(pending)

    def is_waiting(self, pending: Pending) -> bool:
        """Whether a call has not been answered."""
        return pending.id in self._calls

    @property
    def has_news(self) -> bool:
        """Whether there is something to send."""
        return bool(self._turns or self._cancelled or self._received)

    @property
    def has_urgent(self) -> bool:
        """Whether there is something to send at once: all but a few acknowledgements."""
        return bool(self._turns or self._cancelled or len(self._received) > MAX_NOTES // 2)

    @property
    def sent(self) -> int:
        """Calls that are not queued: their answers may come at any moment."""
        return len(self._calls) - sum(len(lane.calls) for lane in self._turns)

    @property
    def has_notes(self) -> bool:
        """Whether there are cancellations or acknowledgements to send."""
        return bool(self._cancelled or self._received)

    @property
    def has_queued(self) -> bool:
        """Whether calls wait for a stream."""
        return bool(self._turns)

    @property
    def has_doubts(self) -> bool:
        """Whether there are calls whose stream was lost."""
        return any(pending.in_doubt for pending in self._calls.values())

    def is_answered(self, stream: object) -> bool:
        """Whether no call of this stream waits any more."""
        return all(pending.stream is not stream for pending in self._calls.values())

    def take(self, stream: object, now: float) -> tuple[list[EncodedCall], list[int], list[int], list[Buffer]]:
        """The next message's calls, cancellations, acknowledgements and buffers; the calls are this stream's now."""
        calls: list[EncodedCall] = []
        buffers: list[Buffer] = []
        room, turns = self._max_batch, self._turns
        while turns and room > 0 and len(calls) < MAX_BATCH_CALLS:
            lane = turns.popleft()
            room = _take_from(lane.calls, calls, buffers, room, stream, now)
            if lane.calls:
                turns.append(lane)
        cancelled, self._cancelled = self._cancelled[:MAX_NOTES], self._cancelled[MAX_NOTES:]
        received, self._received = self._received[:MAX_NOTES], self._received[MAX_NOTES:]
        self._sent_cancelled.extend(cancelled)
        self._sent_received.extend(received)
        return calls, cancelled, received, buffers

    def settle(self, responses: Responses, buffers: Buffers) -> Outcomes:
        """Give the answers to who waits for them; an answer that nobody waits for is ignored.

        Returns:
            How calls have ended; of those with large results that is to be seen when these have been fetched.

        Raises:
            RemoteProtocolError: ``buffers``, which came with the answers, are not all of them.
        """
        calls, received = self._calls, self._received
        waiting = len(calls)
        for result in responses.results:
            value: BatchedResult = result.value
            if result.sizes:
                value = Encoded(bytes(memoryview(result.value)), buffers.take(result.sizes))
            pending = calls.pop(result.id, None)
            if pending is None:
                continue
            if pending.flags & ONCE:
                received.append(result.id)
            if not pending.future.done():
                pending.future.set_result(value)
        buffers.check_end()
        ended = {OK: waiting - len(calls)}
        for failure in responses.failures:
            pending = calls.pop(failure.id, None)
            if pending is None:
                continue
            _count(ended, outcome_of_failure(failure.code))
            if pending.flags & ONCE:
                received.append(failure.id)
            _fail(pending, error_of(pending.spec.path, failure, pending.spec.options.raises))
        self._have_fetched(responses.large)
        return ended

    def _have_fetched(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            pending = self._calls.pop(number, None)
            if pending is not None and not pending.future.done():
                pending.future.set_result(None)

    def withdraw(self, pending: Pending) -> bool:
        """Give up a call, and tell the server if it was sent; ``False`` if it was answered before."""
        if self._calls.pop(pending.id, None) is None:
            return False
        pending.args = b""
        self._withdrawn += 1
        if self._withdrawn > MAX_OUTSTANDING:
            self._drop_withdrawn()
        if pending.was_sent:
            self._cancelled.append(pending.id)
        return True

    def _drop_withdrawn(self) -> None:
        """Take calls that have been given up out of the lanes, where they pile up while nothing is sent."""
        self._withdrawn = 0
        for lane in self._turns:
            lane.calls = deque(pending for pending in lane.calls if pending.id in self._calls)
        self._turns = deque(lane for lane in self._turns if lane.calls)

    def received(self, number: int) -> None:
        """Note that a result has come by another way."""
        self._received.append(number)

    def abandoned(self, number: int) -> None:
        """Note that the caller of a call that went another way has gone."""
        self._cancelled.append(number)

    def lost(self, stream: object, server: bytes | None) -> None:
        """A stream to an instance of a server (``None``: it never said which) has ended: its calls are in doubt."""
        for pending in self._calls.values():
            if pending.stream is stream:
                pending.stream = None
                pending.server = server

    def notes_lost(self) -> None:
        """A stream has broken: send the last notes again, for the server may not have seen them."""
        self._cancelled.extend(self._sent_cancelled)
        self._received.extend(self._sent_received)
        self._sent_cancelled.clear()
        self._sent_received.clear()

    def welcomed(self, server: bytes, *, known: bool) -> Outcomes:
        """The server of the current stream has said who it is, and whether it remembers us: settle the doubts.

        To be called again when an older stream is lost later.

        Returns:
            How calls have ended.
        """
        ended: Outcomes = {}
        for pending in [pending for pending in self._calls.values() if pending.in_doubt]:
            if not pending.is_once or (known and pending.server == server):
                self._queue_again(pending)
            else:
                del self._calls[pending.id]
                self._cancelled.append(pending.id)
                _count(ended, LOST)
                _fail(pending, OutcomeUnknownError(pending.spec.path, "the peer's node has been restarted meanwhile"))
        return ended

    def _queue_again(self, pending: Pending) -> None:
        if pending.is_queued_again:
            return
        pending.is_queued_again = True
        pending.flags |= AGAIN
        if not self._again.calls:
            self._turns.appendleft(self._again)
        self._again.calls.append(pending)

    def move_away(self, why: Callable[[bool], Exception]) -> Outcomes:
        """No stream is there: end the calls that can go to another peer and may; ``why`` is told whether one was sent.

        What must not run twice and was sent stays, until it is known what became of it.

        Returns:
            How calls have ended.
        """
        ended: Outcomes = {}
        for pending in [pending for pending in self._calls.values() if pending.can_move and pending.stream is None]:
            if not (pending.was_sent and pending.is_once):
                del self._calls[pending.id]
                _count(ended, LOST if pending.was_sent else UNREACHABLE)
                _fail(pending, why(pending.was_sent))
        return ended

    def fail_all(self, error: LatticaError) -> Outcomes:
        """The peer cannot be reached: end all calls that no stream has; what was never sent fails with ``error``.

        The server hears of it when it is reached again, with the acknowledgements that are left: it keeps until then
        what it has of those calls.

        Returns:
            How calls have ended.
        """
        ended: Outcomes = {}
        for pending in [pending for pending in self._calls.values() if pending.stream is None]:
            del self._calls[pending.id]
            doubtful = pending.in_doubt and pending.is_once
            if doubtful:
                self._cancelled.append(pending.id)
            _count(ended, LOST if doubtful else outcome_of_error(error))
            _fail(pending, OutcomeUnknownError(pending.spec.path, str(error)) if doubtful else error)
        for lane in self._turns:
            lane.calls.clear()
        self._turns.clear()
        return ended


def _take_from(
    queued: deque[Pending],
    calls: list[EncodedCall],
    buffers: list[Buffer],
    room: int,
    stream: object,
    now: float,
) -> int:
    """Move up to `QUANTUM` calls of a lane into a message while there is room; how much is left."""
    for _ in range(min(len(queued), QUANTUM, MAX_BATCH_CALLS - len(calls))):
        if room <= 0:
            break
        pending = queued.popleft()
        if pending.future.done():  # its caller has gone
            continue
        pending.stream = stream
        pending.was_sent = True
        pending.is_queued_again = False
        deadline = pending.deadline
        left = 0 if deadline is None else max(1, int((deadline - now) * 1000))
        args, path = pending.args, pending.spec.path
        if isinstance(args, Encoded):
            sizes = sizes_of(args.buffers)
            buffers += args.buffers
            calls.append((pending.id, path, left, pending.flags, msgspec.Raw(args.body), pending.context, sizes))
            room -= len(args.body) + sum(sizes)
        else:
            calls.append((pending.id, path, left, pending.flags, msgspec.Raw(args), pending.context))
            room -= len(args)
        if pending.context is not None:
            room -= sum(UTF8_BYTES * (len(key) + len(value)) for key, value in pending.context.items())
    return room


def _count(ended: Outcomes, outcome: str) -> None:
    ended[outcome] = ended.get(outcome, 0) + 1


def _fail(pending: Pending, error: Exception) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)
