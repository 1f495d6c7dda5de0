"""Small calls to one peer over one stream: the caller's side.

Calls that are made in one turn of the event loop, or while the stream is busy, leave in one message. If the stream
breaks, another is opened, and `CallTable` decides what becomes of the calls that it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial

import grpc
from grpc.aio import AioRpcError

from lattica.errors import DeadlineExceededError, LatticaError, PeerUnreachableError, RemoteProtocolError, RpcError
from lattica.rpc.admission import Admission
from lattica.rpc.batch_calls import MAX_OUTSTANDING, BatchedResult, CallTable, Lane, Pending
from lattica.rpc.batch_wire import (
    INSTANCE_KEY,
    SMALL,
    SessionKind,
    decode_responses,
)
from lattica.rpc.caller_stream import CallerStream
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import BATCHED
from lattica.rpc.deadlines import Deadlines
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.outcomes import CANCELLED, EXPIRED, outcome_of_error
from lattica.rpc.service import MethodSpec

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 64 << 20
"""Bytes of small arguments of unanswered calls to one peer; further callers wait."""
MAX_QUEUED_BULK_BYTES = 1 << 30
"""Those of larger ones: they are the callers' own memory, but for a message."""
ACK_DELAY_S = 0.05
"""Seconds that an acknowledgement may wait for a message to travel with."""
CLOSE_LOOK_S = 0.02
"""Seconds between looks at whether calls are under way, when the node closes."""
RESUME_S = 10.0
"""Seconds for which a lost stream is opened anew before the calls that it had fail."""
RESUME_PAUSE_MIN_S = 0.05
RESUME_PAUSE_MAX_S = 1.0
"""Bounds of the pause between two attempts at that; it doubles."""
MAX_FRUITLESS = 3
"""Streams lost soon after each other, without an answer by any, after which none is opened only for notes."""

_LOST = frozenset({
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
})  # fmt: skip
"""Ends of a stream after which another one may work."""


class BatchClient:
    """Calls of this node to one peer that travel in batches of one kind.

    Attributes:
        instance: Our name for the server, drawn at the start; calls have their numbers within it.
        load: Calls that ran at the peer when it answered last.
        channel, table, metrics: For `CallerStream`.
    """

    def __init__(self, channel: PeerChannel, metrics: RpcMetrics, kind: SessionKind = SMALL) -> None:
        self.metrics = metrics
        self._kind = kind
        self.instance = os.urandom(16)
        self.channel = channel
        self._method = channel.stream_stream(kind.method)
        self.table = CallTable(self._first_queued, kind.max_batch)
        self._admission = Admission(MAX_OUTSTANDING, MAX_QUEUED_BYTES if kind is SMALL else MAX_QUEUED_BULK_BYTES)
        self._stream: CallerStream | None = None
        self._streams: set[CallerStream] = set()
        self._server: bytes | None = None
        self._waiters: list[asyncio.Future[bytes]] = []
        self._closed = False
        self._connecting: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._fruitless = 0
        self._deadlines = Deadlines[Pending](self._expired)
        self._loop = asyncio.get_running_loop()
        self.load = 0

    @property
    def outstanding(self) -> int:
        """Calls that have not been answered."""
        return len(self.table)

    def new_id(self) -> int:
        """A number for a call that does not travel in a batch."""
        return self.table.new_id()

    def received(self, number: int) -> None:
        """Tell the server, some time, that a result has come by another way."""
        self.table.received(number)
        if self._stream is None:
            self._connect_soon()
        else:
            self.acknowledge_soon()

    def abandoned(self, number: int) -> None:
        """Tell the server that the caller of a call that went another way has gone."""
        self.table.abandoned(number)
        if self._stream is None:
            self._connect_soon()
        else:
            self._wake()

    async def wait_memory(self) -> bytes:
        """The name of the server's memory of our calls, which a session tells; one is opened if need be.

        Raises:
            RpcError: The peer serves no plain Python services, or refuses the session.
            PeerUnreachableError: The peer cannot be reached.
        """
        stream = self._stream
        if stream is not None and stream.instance is not None:
            return stream.instance
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            if stream is None:
                self._connect_soon()
            return await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    @property
    def _is_wanted(self) -> bool:
        """Whether there is anything for a session to do."""
        return bool(self._waiters or len(self.table) or self.table.has_news)

    async def call(
        self,
        spec: MethodSpec,
        args: bytes | Encoded,
        *,
        lane: Lane,
        deadline: float | None,
        flags: int,
        context: dict[str, str] | None = None,
        can_move: bool = False,
    ) -> tuple[int, BatchedResult]:
        """Make a call; its number, and its encoded result, ``None`` if that is too large and has to be fetched.

        Cancelling it cancels the call at the server.

        Args:
            can_move: Whether the caller has other peers to call, so that a lost stream should end the call at once if
                it may be made again, instead of being resumed.

        Raises:
            RpcError: It failed.
            LostCallError: The stream was lost, and ``can_move`` is set.
            PeerUnreachableError: The peer cannot be reached; the call was not executed.
        """
        table = self.table
        size = len(args) if isinstance(args, bytes) else args.size
        if not self._admission.enter_nowait(size):
            await self._wait_entered(spec, size, lane, deadline)
        future: asyncio.Future[BatchedResult] = self._loop.create_future()
        pending = Pending(table.new_id(), future, spec, args, deadline, flags, context, can_move)
        table.add(pending, lane)
        if deadline is not None:
            self._deadlines.add(deadline, pending)
        stream = self._stream
        if stream is not None:
            stream.wake.set()
        elif self._connecting is None:
            self._connect_soon()
        try:
            return pending.id, await future
        except asyncio.CancelledError:
            if table.withdraw(pending):
                self._count_one(CANCELLED, pending)
                self._wake()
            raise
        finally:
            self._admission.leave(size)
            if deadline is not None:
                self._deadlines.discard(deadline, pending)

    async def _wait_entered(self, spec: MethodSpec, size: int, lane: Lane, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self._admission.wait_entered(lane, size)
        except TimeoutError:
            self._count({EXPIRED: 1}, "")
            raise DeadlineExceededError(spec.path) from None
        except asyncio.CancelledError:
            self._count({CANCELLED: 1}, "")
            raise

    # Metrics: nothing is done for each call that ends well

    def _first_queued(self, pending: Pending) -> None:
        pending.future.add_done_callback(partial(self._timed, time.monotonic()))

    def _timed(self, started: float, _: object) -> None:
        self.metrics.seconds("client", BATCHED, time.monotonic() - started)

    def _count(self, outcomes: Mapping[str, int], path: str) -> None:
        for outcome, n in outcomes.items():
            if n:
                self.metrics.calls("client", BATCHED, outcome, path, n)

    def _count_one(self, outcome: str, pending: Pending) -> None:
        self._count({outcome: 1}, pending.stream.path if isinstance(pending.stream, CallerStream) else "")

    def _wake(self) -> None:
        if self._stream is not None:
            self._stream.wake.set()

    def acknowledge_soon(self) -> None:
        """Send what there is of acknowledgements, with the next message or some time later."""
        stream = self._stream
        if stream is not None and self.table.has_notes and not stream.acknowledging:
            stream.acknowledging = True
            self._loop.call_later(ACK_DELAY_S, stream.acknowledge)

    def _expired(self, pendings: Iterable[Pending]) -> None:
        late = [pending for pending in pendings if self.table.is_waiting(pending)]
        for pending in late:
            self.table.withdraw(pending)
            attempts = self.channel.attempts
            error: LatticaError = DeadlineExceededError(pending.spec.path)
            if not pending.was_sent and attempts:
                error = PeerUnreachableError(self.channel.peer_id, attempts)
            self._count_one(outcome_of_error(error), pending)
            if not pending.future.done():
                pending.future.set_exception(error)
        if late:
            self._wake()

    # Streams

    def _connect_soon(self) -> None:
        if self._closed:
            self._give_up(self.channel.closing_error())
        elif self._connecting is None:
            try:
                self._connecting = self.channel.spawn(self._connect)
            except PeerUnreachableError as error:
                self._give_up(error)
            else:
                self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if task.cancelled():
            self._give_up(self.channel.closing_error())
        elif self._stream is None and (self._waiters or len(self.table)):
            self._connect_soon()

    async def _connect(self) -> None:
        """Open a stream, for as long as there are calls for it, or say why there is none."""
        pause = RESUME_PAUSE_MIN_S
        if self._fruitless > 1:  # the first lost stream is replaced at once
            await asyncio.sleep(min(pause * 2**self._fruitless, RESUME_PAUSE_MAX_S))
        while self._is_wanted:
            try:
                session = await self.channel.session(None)
                call = self._method(metadata=((INSTANCE_KEY, self.instance),))
                stream = CallerStream(self, call, session.route.path_kind, self._server)
                if self.table.has_doubts:
                    await stream.welcome()
                stream.start()
            except (PeerUnreachableError, AioRpcError) as error:
                if self._lost_at is None or time.monotonic() > self._lost_at + RESUME_S:
                    self._give_up(self._explain(error))
                    return
                self._move_away(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RESUME_PAUSE_MAX_S)
                continue
            except RemoteProtocolError as error:
                self._give_up(error)
                return
            except Exception as error:  # who calls must hear of it, and the node must not end of it
                logger.exception("session failed peer=%s", self.channel.peer_id)
                self._give_up(RpcError(f"cannot open a session with {self.channel.peer_id}: {error!r}"))
                return
            self._stream = stream
            self._streams.add(stream)
            return

    def _give_up(self, error: LatticaError) -> None:
        self._lost_at = None
        self._count(self.table.fail_all(error), "")
        for waiter in self._taken_waiters():
            waiter.set_exception(error)

    def _move_away(self, error: Exception | None) -> None:
        peer = self.channel.peer_id
        cause = error if isinstance(error, PeerUnreachableError) else PeerUnreachableError(peer, {"session": "lost"})
        self._count(self.table.move_away(lambda was_sent: LostCallError(cause, was_sent=was_sent)), "")

    def _explain(self, error: PeerUnreachableError | AioRpcError) -> LatticaError:
        if isinstance(error, PeerUnreachableError):
            return error
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return RpcError(f"{self.channel.peer_id} serves no plain Python services: it runs an older Lattica")
        return RpcError(f"{self.channel.peer_id} ended the session: {error.code().name}: {error.details()}")

    def welcomed(self, instance: bytes, *, known: bool) -> None:
        """A stream's server has said who it is."""
        self._lost_at = None
        self._server = instance
        self._count(self.table.welcomed(instance, known=known), "")
        self._wake()  # calls of a stream that was lost before that are to be sent again
        for waiter in self._taken_waiters():
            waiter.set_result(instance)

    def _taken_waiters(self) -> list[asyncio.Future[bytes]]:
        waiters, self._waiters = self._waiters, []
        return [waiter for waiter in waiters if not waiter.done()]

    def answered(self, message: bytes, path: str) -> None:
        """A stream's message has come."""
        responses, buffers = decode_responses(message, self._kind.max_message)
        self.metrics.bytes("client", "received", len(message))
        self.load = responses.load
        self._fruitless = 0
        self._count(self.table.settle(responses, buffers), path)
        self.acknowledge_soon()

    def superseded(self, stream: CallerStream) -> None:
        """A better path is there: new calls go by a new stream, this one ends when its calls have."""
        if self._stream is stream:
            self._stream = None
            stream.retire()
            if self._is_wanted:
                self._connect_soon()

    def ended(self, stream: CallerStream, error: Exception | None) -> None:
        """A stream has come to its end."""
        self._streams.discard(stream)
        # One that was lost before its server said who it is: what a server said before and says after it was there
        # between too, for no two processes say the same, and one process at a time has a peer's key.
        self.table.lost(stream, stream.instance or stream.instance_before)
        if error is not None:
            is_new = time.monotonic() - stream.began > RESUME_S
            self._fruitless = 1 if is_new else self._fruitless + 1
            self.table.notes_lost()
        if self._stream is stream:
            self._stream = None
        elif self._stream is not None and self._stream.instance is not None:
            self.welcomed(self._stream.instance, known=self._stream.is_known)
        fatal = isinstance(error, RemoteProtocolError) or (isinstance(error, AioRpcError) and error.code() not in _LOST)
        if fatal and isinstance(error, LatticaError | AioRpcError):
            logger.warning("session refused peer=%s reason=%s", self.channel.peer_id, error)
            self._give_up(error if isinstance(error, LatticaError) else self._explain(error))
        if self._stream is None:
            self._move_away(error)
        has_calls = bool(self._waiters or len(self.table))
        has_notes = self.table.has_notes and not fatal and self._fruitless <= MAX_FRUITLESS
        if (has_calls or has_notes) and self._stream is None:
            if self._lost_at is None:
                self._lost_at = time.monotonic()
            self._connect_soon()

    async def close(self, grace: float) -> None:
        """End the streams, when all calls are answered or after ``grace`` seconds; further calls fail."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while len(self.table):
                    await asyncio.sleep(CLOSE_LOOK_S)
        self._deadlines.close()
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        self._give_up(self.channel.closing_error())
