"""A hybrid logical clock: close to the time of day, and later than what was heard of, as far as that is close, too.

Source: Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases" (2014).
"""

from __future__ import annotations

from lattica.errors import EarlyEntryError, EntryRefusedError

COUNTER_BITS = 16
MAX_SKEW_S = 60.0
"""Seconds that an entry's time may be ahead of our clock. Homes' computers set theirs by NTP, which is far better."""
MAX_LEAD_S = MAX_SKEW_S / 2
"""Seconds by which what was heard of may lead our times ahead of our clock. The rest of the skew is for honest clocks
that differ: with a lead of all of it, one author whose times are 60 s ahead would make everybody's entries so, and
whoever is a second behind would refuse them."""
MAX_TIME = 2**63 - 1


def to_hybrid(seconds: float) -> int:
    """The first hybrid time of a time of day (Unix, in seconds)."""
    return int(seconds * 1000) << COUNTER_BITS


def to_seconds(time: int) -> float:
    """The time of day of a hybrid time, in seconds, to the millisecond."""
    return (time >> COUNTER_BITS) / 1000


class HybridClock:
    """Gives times: milliseconds since 1970 above a counter of 16 bits; each is later than all that it gave before.

    Attributes:
        last: The latest time that was given or heard of.
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._given = 0

    def tick(self, now: float) -> int:
        """A time for something that happens now, at ``now`` seconds since 1970."""
        self._given = max(self._after(now) + 1, to_hybrid(now))
        self.last = max(self.last, self._given)
        return self._given

    def _after(self, now: float) -> int:
        """What the next time has to be later than."""
        return max(self._given, min(self.last, to_hybrid(now + MAX_LEAD_S)))

    def observe(self, time: int) -> None:
        """Take note of somebody's time, which `check_time` has found good."""
        self.last = max(self.last, time)

    def peek(self, now: float) -> float:
        """The time of day, in seconds, that a `tick` now would give at least."""
        return max(to_seconds(self._after(now)), now)

    def day_time(self, now: float) -> float:
        """The time of day that leases end by: ``now``, or what was heard of if that shows that ``now`` is behind.

        Not the latest time that was heard of: else whoever is ahead could end everybody's leases.
        """
        return max(to_seconds(self.last) - MAX_SKEW_S, now)


def check_time(time: int, now: float) -> None:
    """Check that ``time`` is not too far ahead of ``now``, in seconds since 1970.

    Raises:
        EarlyEntryError: It is, but no further than for one who goes by another honest clock: it may come again.
        EntryRefusedError: Nobody with a clock could take it.
    """
    ahead = to_seconds(time) - now
    if MAX_SKEW_S < ahead <= 2 * MAX_SKEW_S:
        raise EarlyEntryError(f"its time is {ahead:.0f} s ahead of ours; at most {MAX_SKEW_S:.0f} s are taken")
    if ahead > MAX_SKEW_S:
        raise EntryRefusedError(f"its time is {ahead:.0f} s ahead of ours; at most {MAX_SKEW_S:.0f} s are taken")
