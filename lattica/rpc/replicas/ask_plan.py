"""When to search for those who offer a name, and which peers to ask when. Pure: `now` in, no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lattica.identity import PeerId
from lattica.rpc.replicas.limits import (
    ASK_RETRY_MAX_S,
    ASK_RETRY_MIN_S,
    MAX_ATTEMPTS_SHOWN,
    MAX_CANDIDATES,
    MIN_ASK_INTERVAL_S,
    RENEW_EARLY,
    SEARCH_INTERVAL_S,
    SEARCH_RETRY_MAX_S,
    SEARCH_RETRY_MIN_S,
)

_MAX_DOUBLINGS = 16


@dataclass(slots=True)
class _Candidate:
    ask_at: float
    is_asked: bool = False
    answers: int = 0  # whether it ever answered that it offers the name
    failures: int = 0  # in a row
    reason: str = ""


class SearchPlan:
    """When to search the DHT for replicas: soon and with growing pauses while there are none, else now and then.

    Attributes:
        next_at: When the next search is due.
        has_ended: Whether a search ever ended.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fruitless = 0  # in a row
        self.next_at = float("-inf")
        self.has_ended = False

    def ended(self, now: float, *, replicas: int) -> None:
        """A search has ended, and so many replicas are known."""
        self.has_ended = True
        self._fruitless = 0 if replicas else min(self._fruitless + 1, _MAX_DOUBLINGS)
        if replicas:
            self.next_at = now + SEARCH_INTERVAL_S * self._rng.uniform(0.75, 1.0)
        else:
            self.next_at = now + min(SEARCH_RETRY_MIN_S * 2.0 ** (self._fruitless - 1), SEARCH_RETRY_MAX_S)

    def lost_all(self, now: float) -> None:
        """The last replica is gone."""
        self.next_at = min(self.next_at, now + SEARCH_RETRY_MIN_S)


class AskPlan:
    """Peers that may offer a name: named by the DHT or by others, or heard from.

    One that offers it is asked again when a part of its lease is over; if others pass on a newer record of it before,
    that is put off. One that does not, or does not answer, is asked after pauses that grow.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._candidates: dict[PeerId, _Candidate] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    @property
    def is_settled(self) -> bool:
        """Whether everybody who was found has been asked, and has answered or failed."""
        return all(one.answers or one.failures for one in self._candidates.values())

    def found(self, peer: PeerId, now: float) -> None:
        """Somebody names a peer; if it is new it is due at once."""
        if peer in self._candidates or not self._has_room():
            return
        self._candidates[peer] = _Candidate(now)

    def hasten(self, peer: PeerId, now: float) -> None:
        """Ask a peer now."""
        self.found(peer, now)
        if (candidate := self._candidates.get(peer)) is not None:
            candidate.ask_at = min(candidate.ask_at, now)

    def due(self, now: float) -> list[PeerId]:
        """Peers to ask, the longest due first; not those that are being asked."""
        due = [(one.ask_at, peer) for peer, one in self._candidates.items() if not one.is_asked and one.ask_at <= now]
        return [peer for _, peer in sorted(due)]

    def next_at(self) -> float | None:
        """When `due` next has somebody, or had."""
        return min((one.ask_at for one in self._candidates.values() if not one.is_asked), default=None)

    def asking(self, peer: PeerId) -> None:
        """A peer is being asked."""
        if (candidate := self._candidates.get(peer)) is not None:
            candidate.is_asked = True

    def offers(self, peer: PeerId, now: float, *, expires_at: float, lease: float) -> None:
        """A peer has a record that holds until ``expires_at``, of a lease of so many seconds."""
        if (candidate := self._candidates.get(peer)) is not None:
            candidate.ask_at = max(expires_at - lease * self._rng.uniform(*RENEW_EARLY), now + MIN_ASK_INTERVAL_S)

    def answered(self, peer: PeerId) -> None:
        """A peer that was asked has answered that it offers the name."""
        if (candidate := self._candidates.get(peer)) is not None:
            candidate.is_asked, candidate.failures, candidate.reason = False, 0, ""
            candidate.answers += 1

    def withdrew(self, peer: PeerId, now: float) -> None:
        """A peer has said goodbye; it may be back, so it is asked like one that failed."""
        if (candidate := self._candidates.get(peer)) is not None and not candidate.is_asked:
            self.failed(peer, now, "it has withdrawn the service")

    def failed(self, peer: PeerId, now: float, reason: str) -> None:
        """A peer that was asked does not offer the name, or did not answer."""
        if (candidate := self._candidates.get(peer)) is not None:
            pause = min(ASK_RETRY_MIN_S * 2.0 ** min(candidate.failures, _MAX_DOUBLINGS), ASK_RETRY_MAX_S)
            candidate.is_asked, candidate.reason = False, reason
            candidate.failures += 1
            candidate.ask_at = now + pause * self._rng.uniform(0.75, 1.0)

    def attempts(self) -> dict[str, str]:
        """Peers that failed, or are being asked, as text, and why; for an error."""
        told = {
            str(peer): one.reason or "no answer yet"
            for peer, one in self._candidates.items()
            if one.reason or (one.is_asked and not one.answers)
        }
        return dict(list(told.items())[:MAX_ATTEMPTS_SHOWN])

    def _has_room(self) -> bool:
        if len(self._candidates) < MAX_CANDIDATES:
            return True
        worst = max(self._candidates, key=lambda peer: self._badness(self._candidates[peer]))
        if not self._badness(self._candidates[worst]):
            return False
        del self._candidates[worst]
        return True

    @staticmethod
    def _badness(candidate: _Candidate) -> int:
        return 0 if candidate.is_asked else candidate.failures
