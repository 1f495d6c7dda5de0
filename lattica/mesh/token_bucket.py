"""A budget per second, shared by all who hold it. Pure: the time is passed in."""

from __future__ import annotations


class TokenBucket:
    """Fills at a steady rate up to a bound; whoever spends must find enough in it.

    Not for several threads at once.

    Attributes:
        rate: Tokens (bytes, requests) per second.
        burst: Tokens that it holds at most, and at first.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if not (rate > 0 and burst >= 1):  # not for NaN either
            raise ValueError("a bucket needs a positive rate and a burst of at least 1")
        self.rate, self.burst = rate, burst
        self._tokens = burst
        self._filled_at = now

    def available(self, now: float) -> int:
        """Whole tokens in it; never negative."""
        self._fill(now)
        return max(0, int(self._tokens))

    def spend(self, count: int) -> None:
        """Take tokens out; who takes more than `available` leaves a debt that is paid off first."""
        self._tokens -= count

    def ready_at(self, wanted: int, now: float) -> float:
        """When there will be ``wanted`` tokens if nobody spends any; more than `burst` means a full bucket."""
        self._fill(now)
        missing = min(wanted, self.burst) - self._tokens
        return now + missing / self.rate if missing > 0 else now

    def _fill(self, now: float) -> None:
        if now > self._filled_at:
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
