"""How many calls may be under way at once, and for whom places are kept when there are not enough. No I/O, no clock.

Whoever comes first gets a place, and one peer may have all of them while nobody else wants one. From when a peer is
refused that has less than its share, the next places that fall free are kept for it, for as long as its caller may take
to try again: peers that have their share or more are refused meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lattica.rpc.retry import MAX_PAUSE_S

KEPT_S = MAX_PAUSE_S + 0.5
"""Seconds for which a place is kept for a peer that was refused: a caller's longest pause, and its way."""
MAX_WANTING = 256
"""Peers for which places are kept."""


class PeerLoad:
    """What one peer has under way.

    Attributes:
        held: Its calls, by the gate that they have passed; none where it has none.
    """

    __slots__ = ("__weakref__", "held")

    def __init__(self) -> None:
        self.held: dict[Gate, int] = {}


class Gate:
    """One limit, perhaps within another.

    Args:
        limit: Calls that may be under way.
        outer: Whose calls these are, too.

    Attributes:
        limit: Calls that may be under way.
        outer: The limit around it.
        running: Calls that are under way.
        wanted: Places that are kept.
    """

    __slots__ = ("_holders", "_last", "_wants", "limit", "outer", "running", "wanted")

    def __init__(self, limit: int, outer: Gate | None = None) -> None:
        self.limit = limit
        self.outer = outer
        self.running = 0
        self.wanted = 0
        self._holders = 0
        self._wants: dict[PeerLoad, tuple[int, float]] = {}
        self._last: PeerLoad | None = None  # gave up a place that others wanted, and nobody has come since

    def enter(self, load: PeerLoad) -> None:
        """A call of a peer begins."""
        held = load.held
        gate: Gate | None = self
        while gate is not None:
            gate.running += 1
            if gate in held:
                held[gate] += 1
            else:
                held[gate] = 1
                gate._holders += 1
            if gate.wanted:
                gate._got(load)
                gate._last = None
            gate = gate.outer

    def leave(self, load: PeerLoad) -> None:
        """It has ended."""
        held = load.held
        gate: Gate | None = self
        while gate is not None:
            gate.running -= 1
            left = held[gate] - 1
            if left:
                held[gate] = left
            else:
                del held[gate]
                gate._holders -= 1
            if gate.wanted:
                gate._last = load
            gate = gate.outer

    @contextlib.contextmanager
    def entered(self, load: PeerLoad) -> Iterator[None]:
        """A call of a peer lasts as long as the block."""
        self.enter(load)
        try:
            yield
        finally:
            self.leave(load)

    def refuses(self, load: PeerLoad, now: float) -> bool:
        """Whether a call of a peer has to be refused; if it should not be, by its share, the next place is kept for it.

        Never while there are places (``running`` below ``limit``) of which none is kept (``wanted`` is 0).
        """
        self._expire(now)
        lacking = self._share(load) - load.held.get(self, 0)
        free = self.limit - self.running
        if free <= 0:
            if lacking > 0 and (load in self._wants or len(self._wants) < MAX_WANTING):
                self._want(load, lacking, now)
            return True
        wanted, _ = self._wants.get(load, (0, 0.0))
        return lacking <= 0 and free <= self.wanted - wanted

    def _share(self, load: PeerLoad) -> int:
        """An equal part for each peer that has places or wants one.

        Of fewer places than peers one is enough, but not for who has just given one up: others go first.
        """
        peers = self._holders + sum(self not in other.held for other in self._wants)
        if self not in load.held and load not in self._wants:
            peers += 1
        return self.limit // peers or int(load is not self._last)

    def _want(self, load: PeerLoad, lacking: int, now: float) -> None:
        before, _ = self._wants.get(load, (0, 0.0))
        wanted = min(before + 1, lacking)
        self._wants[load] = (wanted, now + KEPT_S)
        self.wanted += wanted - before

    def _got(self, load: PeerLoad) -> None:
        wanted, until = self._wants.get(load, (0, 0.0))
        if wanted > 1:
            self._wants[load] = (wanted - 1, until)
        elif wanted:
            del self._wants[load]
        self.wanted -= bool(wanted)

    def _expire(self, now: float) -> None:
        for load in [load for load, (_, until) in self._wants.items() if until <= now]:
            self.wanted -= self._wants.pop(load)[0]
        if not self._wants:
            self._last = None
