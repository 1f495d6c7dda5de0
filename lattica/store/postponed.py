"""Resumptions and proofs of fraud that wait for a replay, so that any number of them costs only a few.

Whether they count does not hang on when they come. So to wait is as if the network had been slow: replicas agree later,
but they agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final

from lattica.background import Background, cancelled
from lattica.errors import LatticaError
from lattica.store import metrics
from lattica.store.entry import ChainId, Entry
from lattica.store.ledger import Fraud
from lattica.store.replay_budget import ReplayBudget

MAX_POSTPONED_BYTES: Final = 4 << 20
"""Bytes of resumptions that wait. Peers are asked again for what finds no room."""


class PostponedPool:
    """What waits: of each chain the longest way on, and the first fraud.

    Attributes:
        size: Bytes of the ways.
    """

    def __init__(self, max_bytes: int = MAX_POSTPONED_BYTES) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._ways: dict[ChainId, list[Entry]] = {}
        self._frauds: dict[ChainId, Fraud] = {}

    def __bool__(self) -> bool:
        return bool(self._frauds or self._ways)

    def hold(self, resuming: Iterable[Entry], frauds: Mapping[ChainId, Fraud]) -> None:
        """Keep these until they are taken. If there is no room, the chains that take most of it give way.

        Args:
            resuming: Of each chain one way on, in order.
            frauds: First ones of authors with rights: no more than could be kept for good.
        """
        self._frauds.update(frauds)
        for chain, entries in groupby(resuming, lambda entry: entry.chain):
            way, known = list(entries), self._ways.get(chain)
            if known is None or way[-1].body.seq >= known[-1].body.seq:
                self.size += _size(way) - _size(known or ())
                self._ways[chain] = way
        if self.size > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        for chain in sorted(self._ways, key=lambda chain: _size(self._ways[chain]), reverse=True):
            self.size -= _size(self._ways.pop(chain))
            if self.size <= self._max_bytes:
                return

    def take_frauds(self) -> dict[ChainId, Fraud]:
        """The frauds, which do not wait any more."""
        taken, self._frauds = self._frauds, {}
        return taken

    def take_entries(self) -> list[Entry]:
        """The resumptions, which do not wait any more."""
        taken, self._ways, self.size = self._ways, {}, 0
        return [entry for way in taken.values() for entry in way]


def _size(way: Iterable[Entry]) -> int:
    return sum(len(entry.raw) for entry in way)


class Postponed:
    """Says of one journal's replays when each may be, and has them made then.

    Args:
        budget: What they may take.
        tasks: Where to wait.
        take_up: Looks again at what had to wait.
    """

    def __init__(self, budget: ReplayBudget, tasks: Background, take_up: Callable[[], Awaitable[None]]) -> None:
        self.pool = PostponedPool()
        self._budget = budget
        self._tasks = tasks
        self._take_up = take_up
        self._waiting: asyncio.Task[None] | None = None

    def keeps(self, resuming: Iterable[Entry], frauds: Mapping[ChainId, Fraud]) -> bool:
        """Whether these have to wait for their replay; they are kept here then."""
        if not self._budget.wait_s(time.monotonic()):
            return False
        self.pool.hold(resuming, frauds)
        if self._waiting is None:
            metrics.REPLAYS_POSTPONED.inc()
            self._waiting = self._tasks.start_unless_ending(self._wait())
        return True

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Note how long a replay takes, which this block is."""
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._budget.spend(now - began, now)

    async def close(self) -> None:
        """Wait no more. Peers will tell again what does; nobody was told that it is here."""
        if self._waiting is not None:
            await cancelled(self._waiting)

    async def _wait(self) -> None:
        try:
            while self.pool:
                await asyncio.sleep(self._budget.wait_s(time.monotonic()))
                await self._take_up()
        except LatticaError:
            return  # the document cannot be used any more; whoever writes is told
        finally:
            self._waiting = None
