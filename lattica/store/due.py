"""When to do something again, on computers that sleep and whose clocks are set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Due:
    """A moment some seconds ahead: by the time of day or by the event loop's clock, whichever gets there first.

    The loop's stands still while the computer sleeps, and the time of day may be set back. At first it is past.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Read the time of day, in seconds, by ``now``."""
        self._now = now
        self._day_time = float("-inf")
        self._loop_time = float("-inf")

    def set(self, seconds: float) -> None:
        """Let it be ``seconds`` from now."""
        self._day_time = self._now() + seconds
        self._loop_time = asyncio.get_running_loop().time() + seconds

    def left(self) -> float:
        """Seconds until then; 0 or less if it is past."""
        return min(self._day_time - self._now(), self._loop_time - asyncio.get_running_loop().time())
