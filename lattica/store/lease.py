"""Leases: records in a document that count until a stated time, unless their authors renew them.

Whoever vanishes without a word is taken for present, by those who have its last heartbeat, for at most the lease's
duration and `MAX_SKEW_S` after that came in: no entry is taken in whose time is further ahead of the reader's clock,
and a lease ends its duration after its entry's time. An author that claims more than `MAX_TTL_S` is not believed, so
that even a liar is gone `MAX_TTL_S` and twice the skew after its last entry came in.

An author whose clock is behind by more than its lease's duration is not seen by those whose clocks are right, unless it
hears of them: then its times are as late as theirs, but at most `MAX_LEAD_S` later than its clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from lattica.errors import AddressError, StoreUsageError
from lattica.identity import PeerId
from lattica.store.clock import MAX_SKEW_S
from lattica.store.values import Storable, Value

MIN_TTL_S: Final = 1.0
"""The shortest lease: each third of it is an entry, which all keep until the history is folded."""
MAX_TTL_S: Final = 86_400.0
"""The longest lease: a day."""
MAX_LEASE_BYTES: Final = 4096
"""Of one record, which is written anew with each heartbeat."""

_UNTIL: Final = "until"
_VALUE: Final = "value"


class Held(NamedTuple):
    """A lease, as its author wrote it.

    Attributes:
        until: When it ends, in milliseconds since 1970.
        value: What it tells.
    """

    until: int
    value: Value

    def counts(self, now: float, last_written: float) -> bool:
        """Whether it counts at ``now``, if its author's latest entry is of ``last_written``; in seconds since 1970."""
        return now * 1000 < self.until <= (last_written + MAX_TTL_S + MAX_SKEW_S) * 1000


def check_ttl(ttl: float, shortest: float = MIN_TTL_S, longest: float = MAX_TTL_S) -> None:
    """Raise `StoreUsageError` unless something may last ``ttl`` seconds."""
    if not shortest <= ttl <= longest:
        raise StoreUsageError(f"a ttl of {ttl} s is out of range; give one from {shortest:g} to {longest:g} seconds")


def lease_record(value: Storable, until: float) -> dict[str, Storable]:
    """What is written for a lease that ends at ``until``, in seconds since 1970."""
    return {_UNTIL: round(until * 1000), _VALUE: value}


def read_lease(record: Value) -> Held | None:
    """The lease that a value of the map is; ``None`` if it is none."""
    if not isinstance(record, dict) or _VALUE not in record:
        return None
    until = record.get(_UNTIL)
    if not isinstance(until, int) or isinstance(until, bool):
        return None
    return Held(until, record[_VALUE])


def leases_at(
    records: Iterable[tuple[str, Value]], now: float, last_written: Callable[[PeerId], float | None]
) -> dict[PeerId, Held]:
    """The leases among a map's values that count at ``now``; all else is ignored.

    Args:
        records: Authors and what they have written.
        now: Seconds since 1970.
        last_written: When an author wrote its latest entry; ``None`` if it may not write any more.
    """
    found = {}
    for author, record in records:
        held = read_lease(record)
        peer = _peer(author)
        if held is None or peer is None:
            continue
        written = last_written(peer)
        if written is not None and held.counts(now, written):
            found[peer] = held
    return found


def _peer(author: str) -> PeerId | None:
    try:
        return PeerId.parse(author)
    except AddressError:
        return None
