"""Moves bytes between pairs of sockets, kernel to kernel where the system can.

One thread serves all pairs of a node: it waits for readiness, moves what there is, and decides nothing. On Linux the
bytes go through `os.splice` and never enter Python; elsewhere through one buffer for each direction.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

PIPE_BYTES = 512 * 1024
"""Bytes on their way in one direction of one pair. Linux lets any user have pipes of up to 1 MiB."""
TURN_MOVES = 16
"""Moves for one direction before other pairs get their turn."""
_GONE = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH}


class Mover(Protocol):
    """Takes bytes from one socket and gives them to another; both are non-blocking."""

    held: int
    """Bytes taken and not given yet."""

    def take(self, source: int) -> int | None:
        """Take some; the number of bytes, 0 at the end of the stream, ``None`` if it would block or is full."""

    def give(self, target: int) -> bool:
        """Give some; false if it would block."""

    def close(self) -> None:
        """Free what the mover holds."""


class SpliceMover:
    """Through a kernel pipe: no copy into the process."""

    def __init__(self) -> None:
        self.held = 0
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._capacity = _enlarge(self._in)

    def take(self, source: int) -> int | None:
        """See `Mover`."""
        if self.held >= self._capacity:
            return None
        try:
            count = os.splice(source, self._in, self._capacity - self.held, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return None
        self.held += count
        return count

    def give(self, target: int) -> bool:
        """See `Mover`."""
        try:
            self.held -= os.splice(self._out, target, self.held, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """See `Mover`."""
        os.close(self._in)
        os.close(self._out)


class CopyMover:
    """Through a buffer in the process: works everywhere."""

    def __init__(self) -> None:
        self.held = 0
        self._start = 0
        self._buffer = memoryview(bytearray(PIPE_BYTES))

    def take(self, source: int) -> int | None:
        """See `Mover`."""
        if self.held:
            return None
        try:
            count = os.readv(source, [self._buffer])
        except BlockingIOError:
            return None
        self._start, self.held = 0, count
        return count

    def give(self, target: int) -> bool:
        """See `Mover`."""
        try:
            count = os.write(target, self._buffer[self._start : self._start + self.held])
        except BlockingIOError:
            return False
        self._start += count
        self.held -= count
        return True

    def close(self) -> None:
        """See `Mover`."""
        self._buffer.release()


_SPLICE_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)
HAS_SPLICE = hasattr(os, "splice")


class Pair:
    """Two sockets that are joined. The pump owns them."""

    def __init__(
        self, near: socket.socket, far: socket.socket, mover: Callable[[], Mover], on_closed: Callable[[], None]
    ) -> None:
        self.near, self.far = near, far
        self.on_closed = on_closed
        self._there = _Direction(near, far, mover())
        self._back = _Direction(far, near, mover())

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

    def move(self) -> bool:
        """Move what can be moved; true if there may be more right now."""
        more = self._there.move()
        return self._back.move() or more

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
        self.wants_read = not held and not self._source_ended
        if self._source_ended and not held:
            self.ended = True
            self._shutdown(socket.SHUT_WR)


class Pump:
    """The thread that serves all pairs; `start` it once, `close` it at the end."""

    def __init__(self, *, splice: bool = HAS_SPLICE) -> None:
        self._mover: Callable[[], Mover] = SpliceMover if splice else CopyMover
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._pairs: set[Pair] = set()
        self._commands: deque[Callable[[], None]] = deque()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="lattica-pump")

    def start(self) -> None:
        """Start the thread."""
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread.start()

    def join(self, near: socket.socket, far: socket.socket, on_closed: Callable[[], None]) -> Pair:
        """Move bytes between two connected sockets, from now on the pump's, until both directions have ended.

        ``on_closed`` is called in the pump's thread after both sockets are closed.

        Raises:
            OSError: No file descriptors are left; both sockets are closed.
        """
        near.setblocking(False)
        far.setblocking(False)
        try:
            pair = Pair(near, far, self._mover, on_closed)
        except OSError:
            near.close()
            far.close()
            raise
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
            for key, _ in self._selector.select(0 if ready else None):
                if key.data is None:
                    self._wake_out.recv(4096)
                else:
                    ready.add(key.data)
            while self._commands:
                self._commands.popleft()()
            ready = {pair for pair in ready if pair in self._pairs and self._serve(pair)}
        for pair in list(self._pairs):
            self._remove(pair)

    def _add(self, pair: Pair) -> None:
        self._pairs.add(pair)
        self._wait_for(pair)

    def _serve(self, pair: Pair) -> bool:
        """Move a pair's bytes; true if it wants another turn at once."""
        try:
            more = pair.move()
        except OSError as error:
            if error.errno not in _GONE:
                logger.warning("pipe broken reason=%s", error)
            self._remove(pair)
            return False
        if pair.finished:
            self._remove(pair)
            return False
        self._wait_for(pair)
        return more

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
        for sock in (pair.near, pair.far):
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
        pair.close()
        pair.on_closed()


def _enlarge(pipe: int) -> int:
    """Make a pipe as large as we may; its capacity in bytes."""
    try:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:  # the user's pipes take too many pages already
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
