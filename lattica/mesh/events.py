"""What happens to paths, as a stream of events for whoever wants to know."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum

from lattica.identity import PeerId
from lattica.mesh.paths import PathInfo

MAX_EVENTS = 1024
"""Events that wait for one reader; a slower one loses the oldest, and is told how many."""


class PathEventKind(Enum):
    """What happened."""

    OPENED = "opened"
    """Calls go by this path from now on."""
    BETTER = "better"
    """A better path is ready: new calls will go by it, running ones end where they are."""
    STALLED = "stalled"
    """What we send by this path is not acknowledged; another one is being looked for."""
    RECOVERED = "recovered"
    """It is acknowledged again."""
    CLOSED = "closed"
    """The path is gone."""
    FAILED = "failed"
    """No better path could be opened this time; the reason says what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathEvent:
    """One thing that happened to a path.

    Attributes:
        peer_id: The peer at its other end.
        kind: What happened.
        path: Which path; ``None`` if the peer opened it, or if there is none.
        reason: Why, where there is something to say.
        at: When, in seconds of `time.monotonic`.
        missed: Events before this one that the reader was too slow for.
    """

    peer_id: PeerId
    kind: PathEventKind
    path: PathInfo | None = None
    reason: str = ""
    at: float = field(default_factory=time.monotonic)
    missed: int = 0


class PathEvents:
    """Gives every event to every reader."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def emit(self, event: PathEvent) -> None:
        """Tell all readers."""
        for reader in self._readers:
            reader.put(event)

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[PathEvent]]:
        """The events from now on, while the block runs."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)


class _Reader(AsyncIterator[PathEvent]):
    def __init__(self) -> None:
        self._events: deque[PathEvent] = deque()
        self._missed = 0
        self._some = asyncio.Event()

    def put(self, event: PathEvent) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._some.set()

    async def __anext__(self) -> PathEvent:
        while not self._events:
            self._some.clear()
            await self._some.wait()
        event, missed = self._events.popleft(), self._missed
        self._missed = 0
        if missed:
            return PathEvent(
                peer_id=event.peer_id, kind=event.kind, path=event.path, reason=event.reason, at=event.at, missed=missed
            )
        return event
