"""Carries who is present from replica to replica: each record once over each stream, and no faster than it should."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from lattica.errors import EntryRefusedError
from lattica.store import metrics
from lattica.store.presence import Presence
from lattica.store.sync_wire import MAX_PRESENCES

MAX_WAITING: Final = 1024
"""Records that wait to be told to one peer; the oldest are lost then, which newer ones of their authors make good."""
MAX_RATE: Final = 200.0
"""Records a second that are taken from one peer; each author tells up to 20 by itself. The others are dropped."""
BURST: Final = 1100.0
"""How many may come at once, as from a peer that knows many who are present."""


class PresenceOutlet:
    """What one peer has to be told, and how much it may tell.

    Args:
        wake: Called when there is something to be told.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._allowed = BURST
        self._counted_at = 0.0

    def put(self, raw: bytes) -> None:
        """Have a record told."""
        self._waiting.append(raw)
        self._wake()

    def take(self) -> list[bytes]:
        """The next ones for a frame."""
        taken = [self._waiting.popleft() for _ in range(min(MAX_PRESENCES, len(self._waiting)))]
        if self._waiting:
            self._wake()
        return taken

    def may_tell(self, now: float) -> bool:
        """Whether another record of the peer's is taken now."""
        self._allowed = min(BURST, self._allowed + (now - self._counted_at) * MAX_RATE)
        self._counted_at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


class PresenceSpread:
    """Brings the records of one document's presence to all peers that are in touch."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._outlets: set[PresenceOutlet] = set()

    def connect(self) -> Callable[[], None]:
        """Spread our own records until what is returned is called."""
        return self._presence.connect(self._spread)

    def join(self, outlet: PresenceOutlet) -> None:
        """A peer is in touch: it is told who is present."""
        self._outlets.add(outlet)
        for raw in self._presence.snapshot():
            outlet.put(raw)

    def leave(self, outlet: PresenceOutlet) -> None:
        """The peer is not in touch any more."""
        self._outlets.discard(outlet)

    def heard(self, outlet: PresenceOutlet, raw: bytes, now: float) -> None:
        """Take in what a peer tells, and tell the others if it is news.

        What cannot be taken is dropped, and nobody is blamed: rights and clocks may look different over there.
        """
        if not outlet.may_tell(now):
            metrics.PRESENCES_DROPPED.inc()
            return
        try:
            is_news = self._presence.receive(raw)
        except EntryRefusedError:
            metrics.PRESENCES_DROPPED.inc()
            return
        if is_news:
            self._spread(raw, outlet)

    def _spread(self, raw: bytes, heard_from: PresenceOutlet | None = None) -> None:
        for outlet in self._outlets:
            if outlet is not heard_from:
                outlet.put(raw)
