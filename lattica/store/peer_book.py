"""Whom to call, and when: peers that may have a replica. No I/O, no clock."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from lattica.identity import PeerId

MAX_PEERS = 256
"""Peers that are remembered."""
FIRST_PAUSE_S = 0.5
"""Seconds until a peer that could not be reached is called again; doubles each time."""
LATELY_PAUSE_S = 2.0
"""Longest such pause for a peer that was in touch lately: it, or our network, may be back any moment."""
LATELY_S = 900.0
"""Seconds for which that holds."""
LONGEST_PAUSE_S = 120.0
"""Longest pause for others."""
GIVE_UP = 8
"""Failures in a row after which a peer that was not in touch lately is forgotten, until it is found again."""
BAN_S = 60.0
"""Seconds for which a peer that broke the rules is shunned; doubles each time."""
LONGEST_BAN_S = 3600.0
MAX_BANS = 1024
"""Peers that are remembered for breaking the rules: names cost nothing, so there may be any number."""
SEARCH_PAUSE_S = 5.0
"""Seconds between two searches while few replicas are known; doubles when one finds nobody, up to the longest."""
LONGEST_SEARCH_PAUSE_S = 60.0


@dataclass(slots=True)
class _Peer:
    due: float = 0.0
    failures: int = 0
    lately: float | None = None


@dataclass(slots=True)
class _Ban:
    faults: int = 0
    until: float = 0.0


class PeerBook:
    """Peers that may have a replica; ``now`` is in seconds of one monotonic clock.

    Attributes:
        search_pause: Seconds between two searches for more.
    """

    def __init__(self, rng: random.Random) -> None:
        self.search_pause = SEARCH_PAUSE_S
        self._rng = rng
        self._peers: dict[PeerId, _Peer] = {}
        self._bans: dict[PeerId, _Ban] = {}
        self._search_at = 0.0

    def __len__(self) -> int:
        return len(self._peers)

    def found(self, peer: PeerId) -> None:
        """Somebody says that it has a replica, or there is a stream with it, whoever opened it."""
        if peer in self._peers:
            return
        if len(self._peers) >= MAX_PEERS:
            worst = max(self._peers, key=lambda one: self._peers[one].failures)
            if not self._peers[worst].failures:
                return
            del self._peers[worst]
        self._peers[peer] = _Peer()

    def due(self, now: float, count: int, without: Collection[PeerId]) -> list[PeerId]:
        """Up to ``count`` peers to be called now, at random."""
        ready = [
            peer
            for peer, known in self._peers.items()
            if peer not in without and known.due <= now and self.is_welcome(peer, now)
        ]
        return self._rng.sample(ready, min(count, len(ready)))

    def is_welcome(self, peer: PeerId, now: float) -> bool:
        """Whether its calls are taken."""
        ban = self._bans.get(peer)
        return ban is None or ban.until <= now

    def ended(self, peer: PeerId, now: float, *, lasted: float) -> None:
        """The stream with it has ended."""
        known = self._peers.get(peer)
        if known is not None:
            known.lately = now
            known.failures = 0 if lasted > FIRST_PAUSE_S else known.failures + 1
            known.due = now + self._pause(known, now)

    def failed(self, peer: PeerId, now: float) -> None:
        """It could not be reached, or would not."""
        known = self._peers.get(peer)
        if known is None:
            return
        known.failures += 1
        known.due = now + self._pause(known, now)
        if known.failures >= GIVE_UP and not self._was_in_touch(known, now):
            del self._peers[peer]

    def misbehaved(self, peer: PeerId, now: float) -> None:
        """It broke the rules."""
        ban = self._bans.setdefault(peer, _Ban())
        ban.faults += 1
        ban.until = now + min(LONGEST_BAN_S, BAN_S * 2.0 ** min(ban.faults - 1, 10))
        if len(self._bans) > MAX_BANS:
            del self._bans[min(self._bans, key=lambda one: self._bans[one].until)]

    def may_search(self, now: float) -> bool:
        """Whether more are to be looked for now."""
        return now >= self._search_at

    def searched(self, now: float, found: int) -> None:
        """A search has ended."""
        self.search_pause = SEARCH_PAUSE_S if found else min(LONGEST_SEARCH_PAUSE_S, self.search_pause * 2)
        self._search_at = now + self.search_pause * self._rng.uniform(0.75, 1.25)

    def _pause(self, known: _Peer, now: float) -> float:
        longest = LATELY_PAUSE_S if self._was_in_touch(known, now) else LONGEST_PAUSE_S
        return min(longest, FIRST_PAUSE_S * 2.0 ** min(known.failures, 10)) * self._rng.uniform(0.75, 1.25)

    @staticmethod
    def _was_in_touch(known: _Peer, now: float) -> bool:
        return known.lately is not None and now - known.lately < LATELY_S
