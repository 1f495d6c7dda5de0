"""How much of a processor replays may take: pure, no clock."""

from __future__ import annotations

from typing import Final

BURST_S: Final = 1.0
"""Seconds of replays that may follow each other at once: hundreds of a small document, one of a large one."""
SHARE: Final = 0.2
"""Of one processor, in the long run: as much as a peer has whose frames make work."""


class ReplayBudget:
    """Seconds of work, which come back with time; ``now`` is in seconds of one monotonic clock.

    Over any time ``t`` it lets through replays of at most ``burst + share * t`` seconds, and one more.
    """

    def __init__(self, *, burst: float = BURST_S, share: float = SHARE) -> None:
        self._burst = burst
        self._share = share
        self._left = burst
        self._at = float("-inf")

    def spend(self, seconds: float, now: float) -> None:
        """Note a replay that took ``seconds`` and has just ended."""
        self._left = self._left_at(now) - seconds
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until the next replay may begin; 0 if it may now."""
        return max(0.0, -self._left_at(now) / self._share)

    def _left_at(self, now: float) -> float:
        return min(self._burst, self._left + self._share * (now - self._at))
