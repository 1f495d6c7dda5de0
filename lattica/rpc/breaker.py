"""A circuit breaker: whether to call a peer that has failed. Pure: `now` in, no clock, no randomness of its own."""

from __future__ import annotations

import random
from enum import Enum
from typing import Final

TRIP_AFTER: Final = 2
"""Failures in a row that open a breaker: one may be a path that broke."""
PAUSE_MIN_S: Final = 0.5
"""First pause of an open breaker."""
PAUSE_MAX_S: Final = 30.0
"""Longest pause of an open breaker: a peer that returns is noticed within that time."""
PAUSE_FACTOR: Final = 2.0
"""How much longer each pause is than the one before."""
JITTER: Final = 0.5
"""Share of a pause that is random, so that the callers of a peer that returns do not come back all at once."""
PROBE_TIMEOUT_S: Final = 30.0
"""Seconds after which a probe of which nobody heard again no longer keeps others away."""

_MAX_DOUBLINGS: Final = 16


class BreakerState(Enum):
    """What a breaker says of its peer."""

    CLOSED = "closed"
    """Call it."""
    OPEN = "open"
    """Leave it alone."""
    HALF_OPEN = "half-open"
    """One call may try."""


class Breaker:
    """Consecutive failures of one peer, and the pause that follows from them.

    Closed until `TRIP_AFTER` failures in a row; then open for a pause, after which one probe may go. If that fails the
    next pause is longer; any success closes it. Failures during a pause belong to calls that began before it: they are
    the same piece of evidence, and do not count.

    Args:
        rng: Source of the jitter.
        trip_after: Failures in a row that open it.
        pause_max: Longest pause, in seconds.
    """

    __slots__ = ("_opened", "_pause_max", "_probe_until", "_rng", "_trip_after", "failures", "retry_at")

    def __init__(self, rng: random.Random, *, trip_after: int = TRIP_AFTER, pause_max: float = PAUSE_MAX_S) -> None:
        self._rng = rng
        self._trip_after = trip_after
        self._pause_max = pause_max
        self._opened = 0  # in a row, without a success between
        self._probe_until: float | None = None
        self.failures = 0
        """In a row."""
        self.retry_at: float | None = None
        """When a probe may go, or might have gone; ``None`` while closed."""

    @property
    def is_closed(self) -> bool:
        """Whether calls may go, as many as like."""
        return self.retry_at is None

    def state(self, now: float) -> BreakerState:
        """Closed, open or half-open."""
        if self.retry_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now >= self.retry_at else BreakerState.OPEN

    def can_try(self, now: float) -> bool:
        """Whether `try_call` would let a call go."""
        if self.retry_at is None:
            return True
        probing = self._probe_until is not None and now < self._probe_until
        return now >= self.retry_at and not probing

    def try_call(self, now: float) -> bool:
        """Whether a call may go now. When half-open, the first who asks has the probe, and has to say how it went."""
        if not self.can_try(now):
            return False
        if self.retry_at is not None:
            self._probe_until = now + PROBE_TIMEOUT_S
        return True

    def succeeded(self) -> None:
        """The peer answered: whatever was before, it is well."""
        if self.failures or self.retry_at is not None:
            self.failures = self._opened = 0
            self.retry_at = self._probe_until = None

    def failed(self, now: float) -> None:
        """The peer could not be reached."""
        if self.retry_at is not None and now < self.retry_at:
            return
        self.failures += 1
        if self.failures >= self._trip_after:
            self._open(now)

    def abandoned(self) -> None:
        """A call ended without evidence (its caller gave up): if it was the probe, another may go."""
        self._probe_until = None

    def _open(self, now: float) -> None:
        pause = min(PAUSE_MIN_S * PAUSE_FACTOR ** min(self._opened, _MAX_DOUBLINGS), self._pause_max)
        self._opened += 1
        self._probe_until = None
        self.retry_at = now + pause * (1 - JITTER * self._rng.random())
