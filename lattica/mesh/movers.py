"""Two ways to move bytes from one socket to another: through a kernel pipe, or through a buffer of ours."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from typing import Protocol

from lattica.mesh.token_bucket import TokenBucket

PIPE_BYTES = 512 * 1024
"""Bytes on their way in one direction of one pair. Linux lets any user have pipes of up to 1 MiB."""
SPARE_PIPES = 16
"""Kernel pipes kept for the next direction that has something to move."""
HAS_SPLICE = hasattr(os, "splice")
LIMITED_MOVE = 16 * 1024
"""Bytes that must be in the budget before a limited direction moves: not one system call for every few bytes."""
LIMITED_PAUSE_S = 0.01
"""Shortest rest of a direction without budget: the pump wakes a hundred times a second for them, not more often."""
LIMITED_RETRY_S = LIMITED_PAUSE_S / 2
"""The same for one that has waited, and found that others had just used up a budget which it shares. With as long a
rest as theirs it could come too late each time, and get nothing for ever."""
BURST_S = 0.1
"""Seconds' worth of bytes that a budget may save up: ten rests, so that a thread that wakes late loses nothing."""
_SPLICE_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)


class Mover(Protocol):
    """Takes bytes from one socket and gives them to another; both are non-blocking."""

    @property
    def held(self) -> int:
        """Bytes taken and not given yet."""

    @property
    def paused_until(self) -> float | None:
        """When to take again, in seconds of `time.monotonic`; ``None`` if it is not out of budget."""

    def take(self, source: int, most: int = PIPE_BYTES) -> int | None:
        """Take ``most`` bytes or fewer; how many, 0 at the end of the stream, ``None`` if it would block or is full."""

    def give(self, target: int) -> bool:
        """Give some; false if it would block."""

    def close(self) -> None:
        """Free what the mover holds."""


class KernelPipe:
    """A pipe of the system, as large as we may have one."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.capacity = fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # the user's pipes take too many pages already, or memory is short
            self.capacity = fcntl.fcntl(self.into, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.into)
        os.close(self.out)


class PipePool:
    """The pump's kernel pipes; a direction has one only while it holds bytes.

    So an idle pair costs two descriptors and no more, and the pages that the system grants a user's pipes (64 MiB in
    all, /proc/sys/fs/pipe-user-pages-soft) go to the pairs that need them.
    """

    def __init__(self) -> None:
        self._spare: list[KernelPipe] = []

    def take(self) -> KernelPipe:
        """An empty pipe; raises `OSError` if the system has none to give."""
        return self._spare.pop() if self._spare else KernelPipe()

    def give_back(self, pipe: KernelPipe) -> None:
        """Take back a pipe that is empty again."""
        if len(self._spare) < SPARE_PIPES:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close all that were given back."""
        while self._spare:
            self._spare.pop().close()


class SpliceMover:
    """Through a kernel pipe: no copy into the process."""

    paused_until: float | None = None

    def __init__(self, pool: PipePool) -> None:
        self.held = 0
        self._pool = pool
        self._pipe: KernelPipe | None = None

    def take(self, source: int, most: int = PIPE_BYTES) -> int | None:
        """See `Mover`."""
        pipe = self._pipe
        if pipe is None:
            pipe = self._pipe = self._pool.take()
        elif self.held >= pipe.capacity:
            return None
        try:
            count = os.splice(source, pipe.into, min(most, pipe.capacity - self.held), flags=_SPLICE_FLAGS)
        except BlockingIOError:
            count = None
        self.held += count or 0
        self._settle(pipe)
        return count

    def give(self, target: int) -> bool:
        """See `Mover`."""
        pipe = self._pipe
        if pipe is None:
            return False
        try:
            self.held -= os.splice(pipe.out, target, self.held, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return False
        self._settle(pipe)
        return True

    def _settle(self, pipe: KernelPipe) -> None:
        if not self.held:
            self._pipe = None
            self._pool.give_back(pipe)

    def close(self) -> None:
        """See `Mover`."""
        if self._pipe is not None:  # not for others: it may hold bytes
            self._pipe.close()
            self._pipe = None


class CopyMover:
    """Through a buffer in the process: works everywhere."""

    paused_until: float | None = None

    def __init__(self) -> None:
        self.held = 0
        self._start = 0
        self._buffer = memoryview(bytearray(PIPE_BYTES))

    def take(self, source: int, most: int = PIPE_BYTES) -> int | None:
        """See `Mover`."""
        if self.held:
            return None
        try:
            count = os.readv(source, [self._buffer[:most]])
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


def byte_budget(bytes_per_s: float) -> TokenBucket:
    """A budget for limited pairs, full."""
    return TokenBucket(bytes_per_s, max(bytes_per_s * BURST_S, LIMITED_MOVE), time.monotonic())


class LimitedMover:
    """Another mover that takes only what all of its budgets have; other movers may share them."""

    def __init__(self, mover: Mover, budgets: Sequence[TokenBucket]) -> None:
        self.paused_until: float | None = None
        self._mover = mover
        self._budgets = budgets

    @property
    def held(self) -> int:
        """See `Mover`."""
        return self._mover.held

    def take(self, source: int, most: int = PIPE_BYTES) -> int | None:
        """See `Mover`."""
        now = time.monotonic()
        allowed = min(most, *(budget.available(now) for budget in self._budgets))
        if allowed < LIMITED_MOVE:
            ready_at = max(budget.ready_at(LIMITED_MOVE, now) for budget in self._budgets)
            self.paused_until = max(ready_at, now + LIMITED_PAUSE_S)
            return None
        self.paused_until = None
        count = self._mover.take(source, allowed)
        if count:
            for budget in self._budgets:
                budget.spend(count)
        return count

    def give(self, target: int) -> bool:
        """See `Mover`."""
        return self._mover.give(target)

    def close(self) -> None:
        """See `Mover`."""
        self._mover.close()
