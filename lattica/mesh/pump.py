"""Moves bytes between pairs of sockets, kernel to kernel where the system can.

One thread serves all pairs of a node: it waits for readiness, moves what there is, and decides nothing. On Linux the
bytes go through `os.splice` and never enter Python; elsewhere through one buffer for each direction.
"""

from __future__ import annotations

import errno
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from lattica.mesh.movers import (
    HAS_SPLICE,
    LIMITED_MOVE,
    LIMITED_RETRY_S,
    CopyMover,
    LimitedMover,
    Mover,
    PipePool,
    SpliceMover,
)
from lattica.mesh.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

TURN_MOVES = 16
"""Moves for one direction before other pairs get their turn."""
HALF_CLOSED_S = 30.0
"""Seconds that a pair may go on in one direction alone without moving a byte. gRPC closes both directions; a peer that
does not follow would hold our descriptors for ever."""
_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH}


class Pair:
    """Two sockets that are joined. The pump owns them."""

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        mover: Callable[[], Mover],
        on_closed: Callable[[], None],
        budgets: Sequence[TokenBucket] = (),
    ) -> None:
        self.near, self.far = near, far
        self.on_closed = on_closed
        self.budgets = budgets
        there, back = ((LimitedMover(mover(), budgets) if budgets else mover()) for _ in range(2))
        self._there = _Direction(near, far, there)
        self._back = _Direction(far, near, back)
        self._turns = self._there, self._back

    @property
    def sent(self) -> int:
        """Bytes moved from ``near`` to ``far`` so far."""
        return self._there.moved

    @property
    def received(self) -> int:
        """Bytes moved from ``far`` to ``near`` so far."""
        return self._back.moved

    @property
    def finished(self) -> bool:
        """Whether both directions have ended."""
        return self._there.ended and self._back.ended

    @property
    def half_closed(self) -> bool:
        """Whether one direction has ended and the other has not."""
        return self._there.ended is not self._back.ended

    def move(self) -> bool:
        """Move what can be moved; true if there may be more right now."""
        first, second = self._turns
        if self.budgets:  # each is first in turn: the first may use up the budget of both
            self._turns = second, first
        more = first.move()
        return second.move() or more

    def ready_at(self, now: float) -> float:
        """When there is budget for a move."""
        return max(budget.ready_at(LIMITED_MOVE, now) for budget in self.budgets)

    @property
    def paused_until(self) -> float | None:
        """When a direction without budget wants another try; ``None`` if there is none."""
        pauses = [one.mover.paused_until for one in self._turns if not one.ended]
        return min((until for until in pauses if until is not None), default=None)

    def interest(self, sock: socket.socket) -> int:
        """What to wait for on one of the sockets."""
        outgoing, incoming = (self._there, self._back) if sock is self.near else (self._back, self._there)
        events = selectors.EVENT_READ if outgoing.wants_read else 0
        return events | (selectors.EVENT_WRITE if incoming.wants_write else 0)

    def close(self) -> None:
        """Close both sockets and free the buffers."""
        for direction in (self._there, self._back):
            direction.mover.close()
        self.near.close()
        self.far.close()


class _Direction:
    def __init__(self, source: socket.socket, target: socket.socket, mover: Mover) -> None:
        self.mover = mover
        self.moved = 0
        self.ended = False
        self.wants_read, self.wants_write = True, False
        self._source_ended = False
        self._source, self._target = source.fileno(), target.fileno()
        self._shutdown = target.shutdown

    def move(self) -> bool:
        if self.ended:
            return False
        for _ in range(TURN_MOVES):
            if not self._step():
                break
        else:
            return True
        self._settle()
        return False

    def _step(self) -> bool:
        taken = None if self._source_ended else self.mover.take(self._source)
        if taken == 0:
            self._source_ended = True
        elif taken:
            self.moved += taken
        given = bool(self.mover.held) and self.mover.give(self._target)
        return bool(taken) or given

    def _settle(self) -> None:
        """Nothing moves: decide what to wait for, or pass on the end of the stream."""
        held = bool(self.mover.held)
        self.wants_write = held
        self.wants_read = not held and not self._source_ended and self.mover.paused_until is None
        if self._source_ended and not held:
            self.ended = True
            self._shutdown(socket.SHUT_WR)


class Pump:
    """The thread that serves all pairs; `start` it once, `close` it at the end."""

    def __init__(self, *, splice: bool = HAS_SPLICE) -> None:
        self._pool = PipePool()
        self._mover: Callable[[], Mover] = partial(SpliceMover, self._pool) if splice else CopyMover
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._pairs: set[Pair] = set()
        self._half_closed: dict[Pair, tuple[int, float]] = {}  # bytes moved, and until when it may stand still
        self._paused: dict[Pair, float] = {}  # out of budget until then; who has waited longest is first
        self._resume_at = math.inf  # no sooner is one of them due
        self._commands: deque[Callable[[], None]] = deque()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="lattica-pump")

    def start(self) -> None:
        """Start the thread."""
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread.start()

    def join(
        self,
        near: socket.socket,
        far: socket.socket,
        on_closed: Callable[[], None],
        budgets: Sequence[TokenBucket] = (),
    ) -> Pair:
        """Move bytes between two connected sockets, from now on the pump's, until both directions have ended.

        Args:
            near: One socket.
            far: The other.
            on_closed: Called in the pump's thread after both sockets are closed.
            budgets: Bytes that may be moved, both directions together; from now on the pump's. Pairs may share them.
        """
        near.setblocking(False)
        far.setblocking(False)
        pair = Pair(near, far, self._mover, on_closed, budgets)
        self._command(lambda: self._add(pair))
        return pair

    def drop(self, pair: Pair) -> None:
        """Close a pair at once; nothing happens if it is closed already."""
        self._command(lambda: self._remove(pair))

    def close(self) -> None:
        """Close all pairs and end the thread."""
        if self._thread.is_alive():
            self._command(self._stop)
            self._thread.join()
        self._pool.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        try:
            self._wake_in.send(b"\0")
        except BlockingIOError:
            return  # a wake-up is on its way already

    def _stop(self) -> None:
        self._running = False

    def _run(self) -> None:
        ready: set[Pair] = set()
        while self._running:
            for key, _ in self._selector.select(0 if ready else self._patience()):
                if key.data is None:
                    self._wake_out.recv(4096)
                else:
                    ready.add(key.data)
            while self._commands:
                self._commands.popleft()()
            if self._paused:
                self._resume(ready)
            ready = {pair for pair in ready if pair in self._pairs and self._serve(pair)}
            self._drop_stalled()
        for pair in list(self._pairs):
            self._remove(pair)

    def _add(self, pair: Pair) -> None:
        self._pairs.add(pair)
        self._serve(pair)

    def _serve(self, pair: Pair) -> bool:
        """Move a pair's bytes; true if it wants another turn at once."""
        try:
            more = pair.move()
            self._wait_for(pair)
        except OSError as error:
            if error.errno not in _GONE:
                logger.warning("pipe broken reason=%s", error)
            self._remove(pair)
            return False
        if pair.finished:
            self._remove(pair)
            return False
        if pair.half_closed:
            self._watch(pair)
        if pair.budgets:
            self._pause(pair)
        return more

    def _pause(self, pair: Pair) -> None:
        """Come back when there is budget again, if that is what the pair waits for."""
        until = pair.paused_until
        if until is None:
            self._paused.pop(pair, None)
        else:
            self._put_off(pair, until)
            self._resume_at = min(self._resume_at, until)

    def _put_off(self, pair: Pair, until: float) -> None:
        self._paused[pair] = until  # in its place in the queue, if it has one
        if pair in self._half_closed:  # it stands still because we want it to
            self._half_closed[pair] = (self._half_closed[pair][0], until + HALF_CLOSED_S)

    def _resume(self, ready: set[Pair]) -> None:
        """Serve the pairs that have budget again; who has waited longest is first to use it."""
        now = time.monotonic()
        if now < self._resume_at:
            return
        for pair in [pair for pair, until in self._paused.items() if until <= now]:
            again = pair.ready_at(now)
            if again > now:  # others have used it up
                self._put_off(pair, max(again, now + LIMITED_RETRY_S))
                continue
            del self._paused[pair]
            if self._serve(pair):
                ready.add(pair)
        self._resume_at = min(self._paused.values(), default=math.inf)

    def _watch(self, pair: Pair) -> None:
        moved = pair.sent + pair.received
        if self._half_closed.get(pair, (-1, 0.0))[0] != moved:
            self._half_closed[pair] = (moved, time.monotonic() + HALF_CLOSED_S)

    def _patience(self) -> float | None:
        """Seconds until a pair has budget again, or a half-closed one has stood still for too long."""
        if not self._half_closed and not self._paused:
            return None
        soonest = self._resume_at if self._paused else math.inf
        if self._half_closed:
            soonest = min(soonest, *(until for _, until in self._half_closed.values()))
        return max(0.0, soonest - time.monotonic())

    def _drop_stalled(self) -> None:
        if self._half_closed:
            now = time.monotonic()
            for pair in [pair for pair, (_, until) in self._half_closed.items() if until <= now]:
                self._remove(pair)

    def _wait_for(self, pair: Pair) -> None:
        for sock in (pair.near, pair.far):
            events = pair.interest(sock)
            registered = self._selector.get_map().get(sock)
            if registered is None and events:
                self._selector.register(sock, events, pair)
            elif registered is not None and not events:
                self._selector.unregister(sock)
            elif registered is not None and registered.events != events:
                self._selector.modify(sock, events, pair)

    def _remove(self, pair: Pair) -> None:
        if pair not in self._pairs:
            return
        self._pairs.remove(pair)
        self._half_closed.pop(pair, None)
        self._paused.pop(pair, None)
        for sock in (pair.near, pair.far):
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
        pair.close()
        pair.on_closed()
