"""What this node offers: its own records, signed when somebody asks. No I/O; clocks come in."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from lattica.identity import IdentityKey, PeerId
from lattica.rpc.replicas.limits import INSTANCE_BYTES, LEASE_S, MAX_ASKERS, MAX_LEASE_S, RESIGN_PART
from lattica.rpc.replicas.record import ServiceRecord, seal_record

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Offer:
    capacity: int
    load: Callable[[], float]
    record: ServiceRecord | None = None
    signed_at: float = float("-inf")
    askers: dict[PeerId, float] = field(default_factory=dict)  # when each last asked, the longest ago first


class Offers:
    """The names that we offer.

    Args:
        key: Signs.
        lease: Of each record, in seconds.
    """

    def __init__(self, key: IdentityKey, *, lease: float = LEASE_S) -> None:
        self._key = key
        self._lease = lease
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._sequence = 0
        self._offers: dict[str, _Offer] = {}
        self._goodbyes: dict[str, tuple[ServiceRecord, float]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._offers

    @property
    def names(self) -> list[str]:
        """What we offer."""
        return list(self._offers)

    def put(self, name: str, *, capacity: int, load: Callable[[], float]) -> None:
        """Offer a name, or offer it with another capacity and load."""
        previous = self._offers.get(name)
        self._offers[name] = _Offer(capacity, load, askers=previous.askers if previous else {})
        self._goodbyes.pop(name, None)

    def withdraw(self, name: str, now: float, wall: float) -> tuple[ServiceRecord, list[PeerId]] | None:
        """Offer a name no longer: the goodbye, and who asked within the last lease; ``None`` if it was not offered."""
        offer = self._offers.pop(name, None)
        if offer is None:
            return None
        self._goodbyes = {one: kept for one, kept in self._goodbyes.items() if now < kept[1]}
        goodbye = self._signed(name, capacity=offer.capacity, load=0.0, lease=0.0, wall=wall)
        self._goodbyes[name] = (goodbye, now + MAX_LEASE_S)
        return goodbye, [peer for peer, asked_at in offer.askers.items() if now - asked_at < self._lease]

    def record(self, name: str, now: float, wall: float) -> ServiceRecord | None:
        """Our record for a name, not older than `RESIGN_PART` says; a goodbye for a while after a withdrawal."""
        offer = self._offers.get(name)
        if offer is None:
            goodbye, until = self._goodbyes.get(name, (None, 0.0))
            return goodbye if now < until else None
        if offer.record is None or now - offer.signed_at >= self._lease * RESIGN_PART:
            load = _current(name, offer.load)
            offer.record = self._signed(name, capacity=offer.capacity, load=load, lease=self._lease, wall=wall)
            offer.signed_at = now
        return offer.record

    def asked(self, name: str, peer: PeerId, now: float) -> None:
        """A peer has asked for a name: it is to hear our goodbye."""
        if (offer := self._offers.get(name)) is not None:
            offer.askers.pop(peer, None)
            offer.askers[peer] = now
            if len(offer.askers) > MAX_ASKERS:
                del offer.askers[next(iter(offer.askers))]

    def _signed(self, name: str, *, capacity: int, load: float, lease: float, wall: float) -> ServiceRecord:
        self._sequence += 1
        return seal_record(
            self._key, name=name, instance=self._instance, sequence=self._sequence, issued_at_ms=int(wall * 1000),
            lease_ms=int(lease * 1000), capacity=capacity, load=load,
        )  # fmt: skip


def _current(name: str, load: Callable[[], float]) -> float:
    try:
        return float(load())
    except Exception:
        logger.exception("load of a service not known name=%s", name)
        return 0.0
