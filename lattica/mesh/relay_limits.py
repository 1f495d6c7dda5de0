"""What a relay gives to whom, and who has how much of it. Pure: no sockets, no clock."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from lattica.errors import NetworkError
from lattica.identity import PeerId
from lattica.mesh.relay_wire import RelayRefusedError, RelayStatus, RelayToken


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceLimits:
    """Limits of one relay. A pipe counts from its valid token on, also while it waits for its target.

    Attributes:
        leases: Peers that can be reached through it. One bootstrap node for a network of a thousand.
        leases_per_host: Of those, with one remote address: an office behind one NAT, but no farm of made-up peers.
        lease_s: Seconds that a lease lasts; libp2p's circuit reservations last an hour, too.
        pipes: All pipes. Each costs two descriptors, six while bytes are on their way.
        pipes_per_target: To one peer: a model's provider with some hundred clients behind NATs.
        pipes_per_client: To one peer from one client, as the token says: what peers take from one on other paths, too.
        pipes_per_host: From one remote address: many clients may share a carrier's NAT.
        waiting: Pipes whose target has not come yet, in all; each may last for `wait_s`.
        waiting_per_target: The same for one target; a client may open all its pipes at once.
        wait_s: Seconds that a client waits for its target: a request on a control connection and a dial.
        target_bytes_s: Bytes per second of all pipes to one target, both ways together: 1 Gbit/s. ``None``: any number.
        bytes_s: The same over all pipes. Half of 10 Gbit/s, of which relaying takes twice as much as it relays.
    """

    leases: int = 1024
    leases_per_host: int = 64
    lease_s: int = 3600
    pipes: int = 2048
    pipes_per_target: int = 512
    pipes_per_client: int = 64
    pipes_per_host: int = 512
    waiting: int = 512
    waiting_per_target: int = 128
    wait_s: float = 10.0
    target_bytes_s: int | None = 125_000_000
    bytes_s: int | None = 500_000_000


class LeaseRefusedError(NetworkError):
    """The relay gives out no more leases."""


class LeaseBook:
    """Who has a lease until when. For counting only: tokens are recognised without it."""

    def __init__(self, limits: SpliceLimits) -> None:
        self._limits = limits
        self._leases: dict[PeerId, tuple[str, int]] = {}  # network, and when it ends

    def count(self, now: float) -> int:
        """Leases that are not over."""
        for peer in list(self._leases):  # oldest first: they all last equally long
            if self._leases[peer][1] > now:
                break
            del self._leases[peer]
        return len(self._leases)

    def grant(self, peer: PeerId, host: str, now: float, is_connected: Callable[[PeerId], bool]) -> int:
        """When the new lease of ``peer`` ends, in seconds since the epoch; it replaces the peer's old one.

        Leases of peers that have gone make room.

        Raises:
            LeaseRefusedError: There are too many.
        """
        network = network_of(host)
        old = self._leases.pop(peer, None)
        if self._refusal(network, now):
            self._leases = {one: lease for one, lease in self._leases.items() if is_connected(one)}
        refusal = self._refusal(network, now)
        if refusal:
            if old is not None:
                self._leases[peer] = old
            raise LeaseRefusedError(refusal)
        expires_at = int(now) + self._limits.lease_s
        self._leases[peer] = (network, expires_at)
        return expires_at

    def _refusal(self, network: str, now: float) -> str:
        if self.count(now) >= self._limits.leases:
            return "it has given out all its leases"
        if sum(one == network for one, _ in self._leases.values()) >= self._limits.leases_per_host:
            return "it has given out all its leases for your network address"
        return ""


@dataclass(eq=False, slots=True)
class Place:
    """One pipe's place in the ledger."""

    target: PeerId
    client: PeerId
    network: str
    is_waiting: bool = True


class SpliceLedger:
    """Counts the pipes of a relay and refuses one too many."""

    def __init__(self, limits: SpliceLimits) -> None:
        self.waiting = 0
        self.pipes = 0
        self._limits = limits
        self._counts: Counter[Hashable] = Counter()

    def admit(self, token: RelayToken, host: str) -> Place:
        """A place for a client at ``host``, waiting for its target; `joined` and `release` it.

        Raises:
            RelayRefusedError: A limit is reached; nothing is counted then.
        """
        place, limits = Place(token.target, token.client, network_of(host)), self._limits
        if self.waiting + self.pipes >= limits.pipes or self.waiting >= limits.waiting:
            raise RelayRefusedError(RelayStatus.RELAY_FULL)
        for key, limit, status in (
            (("client", place.target, place.client), limits.pipes_per_client, RelayStatus.CLIENT_OVER_LIMIT),
            (("target", place.target), limits.pipes_per_target, RelayStatus.TARGET_OVER_LIMIT),
            (("waiting", place.target), limits.waiting_per_target, RelayStatus.TARGET_OVER_LIMIT),
            (("host", place.network), limits.pipes_per_host, RelayStatus.HOST_OVER_LIMIT),
        ):
            if self._counts[key] >= limit:
                raise RelayRefusedError(status)
        self._counts.update(self._keys(place))
        self.waiting += 1
        return place

    def joined(self, place: Place) -> None:
        """The target has come."""
        self._drop(("waiting", place.target))
        place.is_waiting = False
        self.waiting -= 1
        self.pipes += 1

    def release(self, place: Place) -> None:
        """The pipe has ended, or was never joined."""
        for key in self._keys(place):
            self._drop(key)
        if place.is_waiting:
            self.waiting -= 1
        else:
            self.pipes -= 1

    def has_pipes(self, target: PeerId) -> bool:
        """Whether any pipe to ``target`` has a place."""
        return ("target", target) in self._counts

    @property
    def is_empty(self) -> bool:
        """Whether nothing is counted for anybody."""
        return not self._counts and not self.waiting and not self.pipes

    def _keys(self, place: Place) -> list[Hashable]:
        keys: list[Hashable] = [
            ("client", place.target, place.client),  # only together: a target may name any client in its tokens
            ("target", place.target),
            ("host", place.network),
        ]
        return [*keys, ("waiting", place.target)] if place.is_waiting else keys

    def _drop(self, key: Hashable) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


def network_of(host: str) -> str:
    """What one subscriber has of a network: an IPv4 address, or the first 64 bits of an IPv6 address (RFC 6177)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((host, 64), strict=False))
