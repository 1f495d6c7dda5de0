"""Many deadlines, few timers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

TICK_S = 1 / 64
"""Seconds by which a deadline may be noticed late."""

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Tells which of many things have reached their deadline.

    A timer for each of 50,000 calls a second would cost more than the calls; most end long before. Here a thing is put
    into the set of its tick, and taken out of it when it has ended, so that nothing is kept for as long as it might
    have taken. A tick that comes hands what is left to ``expired``, which knows what is still of interest.
    """

    def __init__(self, expired: Callable[[list[T]], None]) -> None:
        self._expired = expired
        self._ticks: dict[int, set[T]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def __len__(self) -> int:
        return sum(map(len, self._ticks.values()))

    def add(self, deadline: float, thing: T) -> None:
        """Have ``thing`` handed over at ``deadline`` (of `time.monotonic`) or up to two ticks later."""
        tick = int(deadline / TICK_S) + 1
        things = self._ticks.get(tick)
        if things is not None:
            things.add(thing)
            return
        self._ticks[tick] = {thing}
        if self._timer is None or tick < self._next:
            self._arm(tick)

    def discard(self, deadline: float, thing: T) -> None:
        """Forget a thing that was added with that deadline, if it has not been handed over."""
        tick = int(deadline / TICK_S) + 1
        things = self._ticks.get(tick)
        if things is not None:
            things.discard(thing)
            if not things:
                del self._ticks[tick]

    def close(self) -> None:
        """Forget everything."""
        self._ticks.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        delay = max(0.0, tick * TICK_S - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = int(time.monotonic() / TICK_S)
        due = sorted(tick for tick in self._ticks if tick <= now)
        things = [thing for tick in due for thing in self._ticks.pop(tick)]
        if self._ticks:
            self._arm(min(self._ticks))
        if things:
            self._expired(things)
