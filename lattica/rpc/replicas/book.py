"""Which records of a name's replicas hold. Pure: `now` in, no I/O.

Clocks of peers differ, so a lease is counted by ours, from when we heard of it:

- **First hand**, from the replica itself over mutual TLS: it says so now, whatever its clock. Its lease runs from when
  we asked.
- **Hearsay**, from another peer: an honest one says what is left of the lease by its own count, so that a lease shrinks
  on its way and ends everywhere when it should. Against a dishonest one the signed time of issue is a bound: nothing
  from further in the future than `MAX_SKEW_S`, nothing longer than that after the lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from lattica.identity import PeerId
from lattica.rpc.replicas.limits import (
    MAX_GOODBYES,
    MAX_HEARSAY,
    MAX_HEARSAY_PER_SOURCE,
    MAX_LEASE_S,
    MAX_REPLICAS,
    MAX_SKEW_S,
    WORTH_CHECKING,
)
from lattica.rpc.replicas.record import ServiceRecord

_GOODBYE_S = MAX_LEASE_S + 2 * MAX_SKEW_S
"""Seconds after which a record from before a goodbye is refused for its age alone."""


class Admission(Enum):
    """What became of a record."""

    NEW = "new"
    """A replica that was not known."""
    RENEWED = "renewed"
    """A newer record, or a longer life, of one that was."""
    GONE = "gone"
    """A goodbye, taken."""
    KNOWN = "known"
    """Nothing new."""
    OLD = "old"
    """Refused: there is a newer one."""
    EXPIRED = "expired"
    """Refused: it is too old to be passed on."""
    FUTURE = "future"
    """Refused: issued in the future."""
    FOREIGN = "foreign"
    """Refused: of another name, or of ourselves."""
    FULL = "full"
    """Refused: there is no room for it."""

    @property
    def is_news(self) -> bool:
        """Whether something has changed."""
        return self in (Admission.NEW, Admission.RENEWED, Admission.GONE)


@dataclass(slots=True)
class Entry:
    """A record that holds.

    Attributes:
        record: The newest of its replica.
        expires_at: When it ceases to hold, by our monotonic clock.
        source: Who told us of it first; ``None`` once the replica has answered us itself.
    """

    record: ServiceRecord
    expires_at: float
    source: PeerId | None

    @property
    def is_confirmed(self) -> bool:
        """Whether the replica has answered us itself."""
        return self.source is None


class RecordBook:
    """The records of one name, bounded in every direction that a peer controls.

    Args:
        name: The service's.
        local: Ourselves, of whom others need not tell us.
    """

    def __init__(self, name: str, local: PeerId, *, max_replicas: int = MAX_REPLICAS) -> None:
        self.name = name
        self._local = local
        self._max_replicas = max_replicas
        self._entries: dict[PeerId, Entry] = {}
        self._goodbyes: dict[PeerId, tuple[ServiceRecord, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, peer: PeerId) -> Entry | None:
        """The entry of a replica."""
        return self._entries.get(peer)

    def drop(self, peer: PeerId) -> None:
        """Forget a replica's record."""
        self._entries.pop(peer, None)

    def admit_own(self, record: ServiceRecord, asked_at: float) -> Admission:
        """Take a record from the replica itself, which was asked at ``asked_at``."""
        if record.name != self.name or record.peer_id == self._local:
            return Admission.FOREIGN
        known = self._entries.get(record.peer_id)
        for other in (known.record if known else None, self._goodbye(record.peer_id)):
            if other and other.instance == record.instance and other.sequence > record.sequence:
                return Admission.OLD  # an answer that a later one has overtaken
        if record.is_goodbye:
            return self._take_goodbye(record, asked_at)
        expires_at = asked_at + record.lease_ms / 1000
        if known is not None:
            known.record, known.expires_at, known.source = record, max(known.expires_at, expires_at), None
            return Admission.RENEWED
        if len(self) >= self._max_replicas and not self._evict_hearsay():
            return Admission.FULL
        self._entries[record.peer_id] = Entry(record, expires_at, None)
        return Admission.NEW

    def admit_hearsay(
        self, record: ServiceRecord, source: PeerId, *, remaining: float, now: float, wall: float
    ) -> Admission:
        """Take a record that ``source`` passes on.

        Args:
            record: Somebody else's; goodbyes are not taken from others.
            source: Who passes it on.
            remaining: What is left of the lease, it says, in seconds.
            now: Monotonic seconds.
            wall: Seconds since 1970.
        """
        if record.name != self.name or record.peer_id == self._local:
            return Admission.FOREIGN
        age = wall - record.issued_at_ms / 1000
        if age < -MAX_SKEW_S:
            return Admission.FUTURE
        lease = record.lease_ms / 1000
        left = min(remaining, lease, lease + MAX_SKEW_S - age)
        if left <= 0:
            return Admission.EXPIRED
        goodbye = self._goodbye(record.peer_id)
        if goodbye is not None and not record.supersedes(goodbye):
            return Admission.OLD
        known = self._entries.get(record.peer_id)
        if known is not None:
            return self._renew(known, record, now + left)
        if not self._has_room_for_hearsay(source):
            return Admission.FULL
        self._entries[record.peer_id] = Entry(record, now + left, source)
        return Admission.NEW

    def expire(self, now: float) -> list[PeerId]:
        """Drop what does not hold any longer; whose records those were."""
        gone = [peer for peer, entry in self._entries.items() if entry.expires_at <= now]
        for peer in gone:
            del self._entries[peer]
        for peer in [peer for peer, (_, until) in self._goodbyes.items() if until <= now]:
            del self._goodbyes[peer]
        return gone

    def is_worth_checking(self, record: ServiceRecord, *, remaining: float, now: float) -> bool:
        """Whether a record that somebody passes on, and whose signature nobody has checked, would change much."""
        known = self._entries.get(record.peer_id)
        if known is None:
            return record.peer_id != self._local
        lease = record.lease_ms / 1000
        return (
            record.supersedes(known.record) and now + min(remaining, lease) > known.expires_at + lease * WORTH_CHECKING
        )

    def passed_on(self, now: float, asker: PeerId) -> list[tuple[bytes, float]]:
        """Records for another peer, and for how many seconds they hold: those of replicas that have answered us."""
        return [
            (entry.record.envelope, entry.expires_at - now)
            for peer, entry in self._entries.items()
            if entry.is_confirmed and entry.expires_at > now and peer != asker
        ]

    def next_expiry(self) -> float | None:
        """When the next record ceases to hold."""
        return min((entry.expires_at for entry in self._entries.values()), default=None)

    @staticmethod
    def _renew(known: Entry, record: ServiceRecord, expires_at: float) -> Admission:
        if record.envelope == known.record.envelope:
            if known.is_confirmed or expires_at <= known.expires_at:
                return Admission.KNOWN  # the replica's own word is not stretched by anybody
            known.expires_at = expires_at
            return Admission.RENEWED
        if not record.supersedes(known.record):
            return Admission.OLD
        # A newer word of the replica itself, if by way of others; it cannot mean less than the older one.
        known.record, known.expires_at = record, max(known.expires_at, expires_at)
        return Admission.RENEWED

    def _take_goodbye(self, record: ServiceRecord, now: float) -> Admission:
        self._goodbyes.pop(record.peer_id, None)
        self._goodbyes[record.peer_id] = (record, now + _GOODBYE_S)
        if len(self._goodbyes) > MAX_GOODBYES:
            del self._goodbyes[next(iter(self._goodbyes))]
        return Admission.KNOWN if self._entries.pop(record.peer_id, None) is None else Admission.GONE

    def _goodbye(self, peer: PeerId) -> ServiceRecord | None:
        record, _ = self._goodbyes.get(peer, (None, 0.0))
        return record

    def _has_room_for_hearsay(self, source: PeerId) -> bool:
        if len(self) >= self._max_replicas:
            return False
        sources = [entry.source for entry in self._entries.values() if entry.source is not None]
        return len(sources) < MAX_HEARSAY and sources.count(source) < MAX_HEARSAY_PER_SOURCE

    def _evict_hearsay(self) -> bool:
        victim = next((peer for peer, entry in self._entries.items() if not entry.is_confirmed), None)
        return victim is not None and self._entries.pop(victim, None) is not None
