"""Whether there is processor time to spare: for work that makes answers earlier at the price of more work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

WINDOW_S = 0.25
"""Seconds between two looks."""
MIN_IDLE = 1 / 4
"""Share of a window for which both this thread and the processors have to have been idle."""
_STAT = Path("/proc/stat")
_COUNTED = 8
"""Fields of its first line that add up to all time; what follows is part of these."""


def processor_times() -> tuple[int, int] | None:
    """For how long all processors have been idle, and in all, since the start; ``None`` but on Linux.

    Source: https://man7.org/linux/man-pages/man5/proc_stat.5.html
    """
    with contextlib.suppress(OSError, ValueError), _STAT.open("rb") as file:
        times = [int(field) for field in file.readline().split()[1 : 1 + _COUNTED]]
        if len(times) == _COUNTED:
            return times[3] + times[4], sum(times)
    return None


class SpareTime:
    """Looks at how idle the running thread and this machine's processors have been of late.

    Args:
        thread: Seconds for which this thread has run.
        machine: Idle time and all time of the processors in one unit; ``None`` if that cannot be known.
    """

    def __init__(
        self,
        thread: Callable[[], float] = time.thread_time,
        machine: Callable[[], tuple[int, int] | None] = processor_times,
    ) -> None:
        self._thread = thread
        self._machine = machine
        self._at = float("-inf")
        self._ran = 0.0
        self._times: tuple[int, int] | None = None
        self._is_there = False

    def is_there(self, now: float) -> bool:
        """Whether both were idle for `MIN_IDLE` of the last window; ``now`` is of the monotonic clock."""
        passed = now - self._at
        if passed >= WINDOW_S:
            ran, times = self._thread(), self._machine()
            is_idle = ran - self._ran < (1 - MIN_IDLE) * passed
            self._is_there = is_idle and _were_idle(self._times, times)
            self._at, self._ran, self._times = now, ran, times
        return self._is_there


def _were_idle(before: tuple[int, int] | None, after: tuple[int, int] | None) -> bool:
    if before is None or after is None:
        return False
    return after[0] - before[0] >= MIN_IDLE * (after[1] - before[1])
