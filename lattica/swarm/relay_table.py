"""Who has a reservation at our relay and which circuits it carries: limits and bookkeeping, without I/O or clock."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lattica.errors import ConfigError
from lattica.identity import PeerId
from lattica.swarm.connection import MAX_CIRCUITS
from lattica.swarm.relay_wire import CircuitLimit, RelayStatus

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What a relay gives away at most.

    Attributes:
        reservations: Peers that may be reached through us; as many as a node has connections.
        reservations_per_ip: Of those, peers behind one IPv4 address or IPv6 /64: an office behind one NAT fits.
        reservation_ttl: Seconds that a reservation holds; its owner renews it before. libp2p's usual hour.
        circuits: Circuits at one time. Each buffers up to 512 KiB of what its slower end has not taken.
        circuits_per_client: Circuits that one peer may have dialled.
        circuits_per_target: Circuits that may lead to one peer: a provider of a popular model has hundreds.
        circuit_duration: Seconds that one may last, 0 without end. Long enough for a model over a home uplink, finite
            so that what both ends have forgotten goes away. Whole seconds, they are announced.
        circuit_data: Bytes that may go in each direction of one, 0 for any number; announced too.
        circuit_rate: Bytes/s in each direction of one, 0 without limit.
    """

    reservations: int = 1024
    reservations_per_ip: int = 64
    reservation_ttl: float = 3600.0
    circuits: int = 1024
    circuits_per_client: int = 64
    circuits_per_target: int = 512
    circuit_duration: int = 6 * 3600
    circuit_data: int = 64 << 30
    circuit_rate: int = 0

    def __post_init__(self) -> None:
        if self.circuits_per_target > MAX_CIRCUITS or self.circuits_per_client > MAX_CIRCUITS:
            raise ConfigError(f"one connection carries {MAX_CIRCUITS} circuits at most: lower the relay's limits")

    @property
    def announced(self) -> CircuitLimit:
        """What peers are told of it."""
        return CircuitLimit(duration=self.circuit_duration, data=self.circuit_data)


@dataclass(slots=True, kw_only=True)
class RelayCounters:
    """What a relay has done and is doing.

    Attributes:
        reservations: Peers with a reservation now.
        circuits: Circuits that are open or being opened now.
        reservations_total: Reservations granted, renewals among them.
        circuits_total: Circuits that were opened.
        bytes_total: Bytes that circuits carried, both directions.
        refused_total: Requests refused, by the status in lower case.
    """

    reservations: int = 0
    circuits: int = 0
    reservations_total: int = 0
    circuits_total: int = 0
    bytes_total: int = 0
    refused_total: Counter[str] = field(default_factory=Counter)

    def snapshot(self) -> RelayCounters:
        """A copy, which does not change."""
        return replace(self, refused_total=self.refused_total.copy())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Circuit:
    """One circuit; equal to itself only, so that nobody's end touches another's.

    Attributes:
        client: Who dialled.
        target: Who is reached.
    """

    client: PeerId
    target: PeerId


@dataclass(frozen=True, slots=True)
class _Reservation:
    where: str
    expires: float


class RelayTable:
    """Reservations and circuits of one relay. Times are seconds of one clock, the caller's."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self.counters = RelayCounters()
        self._reservations: dict[PeerId, _Reservation] = {}
        self._places: Counter[str] = Counter()
        self._circuits: set[Circuit] = set()
        self._clients: Counter[PeerId] = Counter()
        self._targets: Counter[PeerId] = Counter()

    def reserve(self, peer: PeerId, host: str, now: float) -> RelayStatus:
        """Grant or renew ``peer``'s reservation, who is at the IP address ``host``; anything but OK is a refusal."""
        self.expire(now)
        where = _place(host)
        mine = self._reservations.get(peer)
        others_here = self._places[where] - (mine is not None and mine.where == where)
        full = mine is None and len(self._reservations) >= self.limits.reservations
        if full or others_here >= self.limits.reservations_per_ip:
            return self.refuse(RelayStatus.RESERVATION_REFUSED)
        self.forget(peer)
        self._reservations[peer] = _Reservation(where, now + self.limits.reservation_ttl)
        self._places[where] += 1
        self.counters.reservations = len(self._reservations)
        self.counters.reservations_total += 1
        return RelayStatus.OK

    def forget(self, peer: PeerId) -> None:
        """Drop ``peer``'s reservation, if it has one: it is not connected any more. Its circuits end by themselves."""
        mine = self._reservations.pop(peer, None)
        if mine is not None:
            _one_less(self._places, mine.where)
            self.counters.reservations = len(self._reservations)

    def forget_all(self) -> None:
        """Drop all reservations."""
        for peer in list(self._reservations):
            self.forget(peer)

    def expire(self, now: float) -> None:
        """Drop the reservations whose time is over."""
        for peer in [peer for peer, mine in self._reservations.items() if mine.expires <= now]:
            self.forget(peer)

    def open(self, client: PeerId, target: PeerId, now: float) -> Circuit | RelayStatus:
        """A circuit, to be given back with `close`; or why there is none."""
        self.expire(now)
        if client == target:
            return self.refuse(RelayStatus.PERMISSION_DENIED)
        if target not in self._reservations:
            return self.refuse(RelayStatus.NO_RESERVATION)
        limits = self.limits
        if (
            len(self._circuits) >= limits.circuits
            or self._clients[client] >= limits.circuits_per_client
            or self._targets[target] >= limits.circuits_per_target
        ):
            return self.refuse(RelayStatus.RESOURCE_LIMIT_EXCEEDED)
        circuit = Circuit(client=client, target=target)
        self._circuits.add(circuit)
        self._clients[client] += 1
        self._targets[target] += 1
        self.counters.circuits = len(self._circuits)
        return circuit

    def close(self, circuit: Circuit) -> None:
        """Give a circuit back."""
        self._circuits.remove(circuit)
        _one_less(self._clients, circuit.client)
        _one_less(self._targets, circuit.target)
        self.counters.circuits = len(self._circuits)

    def refuse(self, status: RelayStatus) -> RelayStatus:
        """Count a refusal; ``status`` again."""
        self.counters.refused_total[status.name.lower()] += 1
        return status


def _one_less(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _place(host: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64, which is what one customer has."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.ip_network((ip.packed[:8] + bytes(8), 64)).network_address)
