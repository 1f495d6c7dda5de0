"""Many deadlines, few timers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

TICK_S = 1 / 64
"""Seconds by which a deadline may be noticed late."""
PRUNE_S = 5.0
"""Seconds after which things that are over are looked for: with long deadlines they would pile up."""

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Tells which of many things have reached their deadline.

    A timer for each of 50,000 calls a second would cost more than the calls; most end long before. Here a thing is put
    into the list of its tick and forgotten, and a tick that comes hands its list to ``expired``, which knows what is
    still of interest.
    """

    def __init__(self, expired: Callable[[list[T]], None], matters: Callable[[T], bool] | None = None) -> None:
        self._expired = expired
        self._matters = matters
        self._prune_at = 0.0
        self._ticks: dict[int, list[T]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def add(self, deadline: float, thing: T) -> None:
        """Have ``thing`` handed over at ``deadline`` (of `time.monotonic`) or up to two ticks later."""
        tick = int(deadline / TICK_S) + 1
        things = self._ticks.get(tick)
        if things is not None:
            things.append(thing)
            return
        if self._matters is not None:
            self._prune(self._matters, time.monotonic())
        self._ticks[tick] = [thing]
        if self._timer is None or tick < self._next:
            self._arm(tick)

    def __len__(self) -> int:
        """Things that are kept."""
        return sum(map(len, self._ticks.values()))

    def _prune(self, matters: Callable[[T], bool], now: float) -> None:
        if now < self._prune_at:
            return
        self._prune_at = now + PRUNE_S
        pruned = {tick: [thing for thing in things if matters(thing)] for tick, things in self._ticks.items()}
        self._ticks = {tick: things for tick, things in pruned.items() if things}

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
        due = [tick for tick in self._ticks if tick <= now]
        for tick in sorted(due):
            self._expired(self._ticks.pop(tick))
        if self._ticks and self._timer is None:
            self._arm(min(self._ticks))
