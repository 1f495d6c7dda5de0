"""Which relays to hold reservations at, and when to ask again. Pure: `now` in, the next steps out.

A peer that cannot be dialled is reached through its relays, so it holds two: the nearest, and one for the time that the
nearest needs to come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lattica.identity import PeerAddress, PeerId

WANTED = 2
"""Relays that are held at a time."""
MAX_CANDIDATES = 32
"""Relays that are remembered; those that the operator names come on top."""
RETRY_MIN_S = 0.5
RETRY_MAX_S = 5.0
"""Bounds of the pause before a relay that failed is asked again while we hold too few: a restart is over soon."""
PATIENT_AFTER = 12
"""Failures in a row, a minute's worth, after which the pause grows beyond that, to `RETRY_PATIENT_S`."""
RETRY_PATIENT_S = 60.0
NEARER = 0.5
"""Share of a held relay's round trip below which another one takes its place; less is not worth moving everybody."""
RENEW_AT = 0.5
"""Share of its life after which a reservation is renewed."""


@dataclass(eq=False)
class RelayCandidate:
    """A relay that we know of.

    Attributes:
        peer_id: Which.
        addresses: Where it listens.
        is_named: Whether the operator named it; others were met by chance.
        rtt: Seconds of a round trip to it; ``None`` if never measured.
        renew_at: When its reservation has to be renewed; ``None`` if we hold none.
        retry_at: Not to be asked before.
        failures: In a row.
    """

    peer_id: PeerId
    addresses: Sequence[PeerAddress]
    is_named: bool
    rtt: float | None = None
    renew_at: float | None = None
    retry_at: float = 0.0
    failures: int = field(default=0)

    @property
    def is_held(self) -> bool:
        """Whether we hold a reservation there."""
        return self.renew_at is not None

    def distance(self) -> tuple[int, float, bool]:
        """To sort by: reliable first, then near; of equally near ones those that the operator named."""
        return (self.failures, self.rtt if self.rtt is not None else 1.0, not self.is_named)


class RelayPlan:
    """The relays that we know of, and what to do about them."""

    def __init__(self) -> None:
        self._known: dict[PeerId, RelayCandidate] = {}

    def add(self, peer: PeerId, addresses: Sequence[PeerAddress], *, named: bool = False) -> None:
        """Note a relay, or its new addresses."""
        if (known := self._known.get(peer)) is not None:
            known.addresses = [*addresses, *(a for a in known.addresses if a not in addresses)][:MAX_CANDIDATES]
            known.is_named = known.is_named or named
            return
        self._known[peer] = RelayCandidate(peer, list(addresses), named)
        chance = [one for one in self._known.values() if not one.is_named and not one.is_held]
        if len(chance) > MAX_CANDIDATES:
            del self._known[max(chance, key=RelayCandidate.distance).peer_id]

    def remove(self, peer: PeerId) -> None:
        """Forget a relay that is none any more, unless the operator named it."""
        if (known := self._known.get(peer)) is not None and not known.is_named:
            del self._known[peer]

    def held(self) -> list[PeerId]:
        """Where we hold reservations, nearest first."""
        return [one.peer_id for one in sorted(self._known.values(), key=RelayCandidate.distance) if one.is_held]

    def addresses(self, peer: PeerId) -> Sequence[PeerAddress]:
        """Where a relay listens."""
        return self._known[peer].addresses if peer in self._known else ()

    def unmeasured(self) -> list[PeerId]:
        """Relays whose distance we do not know."""
        return [one.peer_id for one in self._known.values() if one.rtt is None]

    def measured(self, peer: PeerId, rtt: float) -> None:
        """How far a relay is."""
        if (known := self._known.get(peer)) is not None:
            known.rtt = rtt

    def due(self, now: float) -> list[PeerId]:
        """Relays to ask now for a first reservation or for a new one: renewals, and the best of those not held.

        One that is much nearer than one that we hold is asked as well, to take its place.
        """
        held = [one for one in self._known.values() if one.is_held]
        renew = [one for one in held if one.renew_at is not None and now >= max(one.renew_at, one.retry_at)]
        free = [one for one in self._known.values() if not one.is_held and now >= one.retry_at]
        free.sort(key=RelayCandidate.distance)
        missing = max(0, WANTED - len(held))
        if not missing and free and self._is_much_nearer(free[0], max(held, key=RelayCandidate.distance)):
            missing = 1
        return [one.peer_id for one in (*renew, *free[:missing])]

    @staticmethod
    def _is_much_nearer(one: RelayCandidate, other: RelayCandidate) -> bool:
        known = one.rtt is not None and other.rtt is not None and not one.failures
        return known and (one.rtt or 0.0) < (other.rtt or 0.0) * NEARER

    def surplus(self) -> list[PeerId]:
        """Held relays beyond what we want, farthest first."""
        return self.held()[WANTED:][::-1]

    def reserved(self, peer: PeerId, *, rtt: float, valid: float, now: float) -> None:
        """A reservation was made or renewed, for ``valid`` seconds."""
        if (known := self._known.get(peer)) is not None:
            known.rtt, known.renew_at, known.failures, known.retry_at = rtt, now + valid * RENEW_AT, 0, now

    def failed(self, peer: PeerId, now: float) -> None:
        """A relay did not answer, refuses, or was lost with its reservation; ask it again after a pause."""
        if (known := self._known.get(peer)) is None:
            return
        known.failures += 1
        known.renew_at = None
        pause = min(RETRY_MIN_S * 2 ** min(known.failures - 1, 10), RETRY_MAX_S)
        known.retry_at = now + (pause if known.failures < PATIENT_AFTER else RETRY_PATIENT_S)

    def released(self, peer: PeerId) -> None:
        """We hold it no longer, on purpose."""
        if (known := self._known.get(peer)) is not None:
            known.renew_at = None

    def retry_now(self) -> None:
        """The network has changed: what failed before may work."""
        for known in self._known.values():
            known.failures, known.retry_at = 0, 0.0

    def wake_at(self) -> float | None:
        """When `due` next has something; ``None`` if nothing is planned."""
        held = [one for one in self._known.values() if one.is_held]
        times = [max(one.renew_at or 0.0, one.retry_at) for one in held]
        if len(held) < WANTED:
            times += [one.retry_at for one in self._known.values() if not one.is_held]
        return min(times, default=None)
