"""How many punches a peer may ask for. Pure: the clock is the caller's."""

from __future__ import annotations

from collections import Counter, deque

from lattica.identity import PeerId

MAX_PUNCHES = 64
"""Punches that we answer at one time; each takes up to a dozen sockets."""
MAX_PUNCHES_PER_PEER = 2
"""Of one peer: one for the link in each direction would be enough."""
MAX_PER_PEER_AND_MINUTE = 12
"""Punches that one peer may begin in a minute."""
MAX_PER_MINUTE = 600
"""Punches that all peers may begin in a minute; identities cost nothing. Bounds what is remembered, too."""
MINUTE_S = 60.0


class PunchGate:
    """Admits punches or says why not."""

    def __init__(self) -> None:
        self._running: Counter[PeerId] = Counter()
        self._begun: deque[tuple[float, PeerId]] = deque()

    def enter(self, peer: PeerId, now: float) -> str | None:
        """``None`` if ``peer`` may punch: then `leave` has to follow. Else the reason, for the peer to read."""
        while self._begun and self._begun[0][0] <= now - MINUTE_S:
            self._begun.popleft()
        if self._running[peer] >= MAX_PUNCHES_PER_PEER:
            return f"{MAX_PUNCHES_PER_PEER} punches with you are running"
        if sum(one == peer for _, one in self._begun) >= MAX_PER_PEER_AND_MINUTE:
            return f"you may begin {MAX_PER_PEER_AND_MINUTE} punches a minute"
        if self._running.total() >= MAX_PUNCHES or len(self._begun) >= MAX_PER_MINUTE:
            return "too many punches now"
        self._running[peer] += 1
        self._begun.append((now, peer))
        return None

    def leave(self, peer: PeerId) -> None:
        """The punch is over."""
        self._running[peer] -= 1
        if not self._running[peer]:
            del self._running[peer]
