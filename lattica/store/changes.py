"""What has changed in a document, for those who watch it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum

from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.store.item_runs import Place

MAX_PENDING = 1000
"""Changes that wait for a slow observer; beyond, it is told to look at everything."""


class Problem(StrEnum):
    """What may keep a replica from holding what others hold, though nothing is broken here.

    Attributes:
        FULL: It holds as many strangers as the genesis allows, and has left others out. Grant to those who matter, or
            revoke those who do not.
        PEER_FULL: A replica in touch has done so: what strangers write may not get there.
        CHECKPOINT_DIFFERS: The owner's checkpoint is not what its entries say. It was not taken; who joined late has
            had no choice. Nothing that the owner folds can be relied on.
    """

    FULL = "full"
    PEER_FULL = "peer-full"
    CHECKPOINT_DIFFERS = "checkpoint-differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a document, durable here.

    Attributes:
        author: Who wrote it; ``None`` if ``everything`` may have changed.
        places: Roots (such as ``"map:settings"``) and, of maps, the keys that were written.
        time: When, in seconds since 1970, by its author's clock.
        local: Whether we wrote it.
        everything: Something does not count any more, a checkpoint has decided between values that were written at the
            same time, or the observer was too slow: all has to be looked at anew.
        lost: How many entries of ours do not count any more.
        problem: What has come up, the first time since the document was opened; nothing has changed by that.
    """

    author: PeerId | None
    places: frozenset[Place] = frozenset()
    time: float = 0.0
    local: bool = False
    everything: bool = False
    lost: int = 0
    problem: Problem | None = None


class ChangeFeed:
    """Hands changes to any number of observers, each at its own pace.

    Attributes:
        closed: Whether nothing more will come.
        problems: What was reported.
    """

    def __init__(self) -> None:
        self._observers: weakref.WeakSet[Observer] = weakref.WeakSet()  # who is not iterated over is not kept
        self._failure: LatticaError | None = None
        self.closed = False
        self.problems: frozenset[Problem] = frozenset()

    @property
    def observed(self) -> bool:
        """Whether anybody watches."""
        return len(self._observers) > 0

    def publish(self, change: Change) -> None:
        """Tell everybody."""
        for observer in self._observers:
            observer.put(change)

    def report(self, problem: Problem) -> None:
        """Tell everybody of a problem, unless that was done before."""
        if problem not in self.problems:
            self.problems |= {problem}
            self.publish(Change(author=None, problem=problem))

    def close(self, failure: LatticaError | None = None) -> None:
        """End all iterations, after what they have not seen yet; with ``failure`` if there is one."""
        self.closed = True
        self._failure = failure
        for observer in self._observers:
            observer.wake()

    @contextlib.contextmanager
    def observe(self) -> Iterator[Observer]:
        """Gather what changes during the block, for one who also waits for other things."""
        observer = self._observer()
        try:
            yield observer
        finally:
            self._observers.discard(observer)

    def _observer(self) -> Observer:
        observer = Observer()
        self._observers.add(observer)
        return observer

    def changes(self) -> AsyncIterator[Change]:
        """Yield changes from now on, not only from when it is first waited for, until the document is closed."""
        return self._changes(self._observer())

    async def _changes(self, observer: Observer) -> AsyncIterator[Change]:
        try:
            while True:
                while observer.pending:
                    yield observer.pending.popleft()
                if self.closed:
                    break
                await observer.wait()
            self.check()
        finally:
            self._observers.discard(observer)

    def check(self) -> None:
        """Raise the failure that it was closed with, if there is one."""
        if self._failure is not None:
            raise self._failure


class Observer:
    """What one who watches has not seen yet.

    Attributes:
        pending: The changes, the oldest first.
    """

    def __init__(self) -> None:
        self.pending: deque[Change] = deque()
        self._wake = asyncio.Event()

    def put(self, change: Change) -> None:
        """Add a change; if there are too many, one that says so replaces them."""
        if len(self.pending) >= MAX_PENDING:
            missed = [*self.pending, change]
            self.pending = deque(each for each in missed if each.problem is not None)
            change = Change(author=None, everything=True, lost=sum(each.lost for each in missed))
        self.pending.append(change)
        self.wake()

    def take(self) -> list[Change]:
        """The changes, which are no longer pending then."""
        taken = list(self.pending)
        self.pending.clear()
        return taken

    def wake(self) -> None:
        """Let `wait` return."""
        self._wake.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Return when there is a change, the feed was closed, or somebody called `wake`; or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()
