"""Ways in which bytes travel between two peers, and addresses at which a peer's port may be reached."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import ifaddr

from lattica.identity import PeerAddress, PeerId


class PathKind(Enum):
    """Ways in which bytes travel, cheapest first."""

    LAN = "lan"
    """Dialled at a private address."""
    DIRECT = "direct"
    """Dialled at a public address."""
    PUNCHED_TCP = "punched-tcp"
    """TCP through the NATs, both sides having dialled at one time."""
    RELAYED = "relayed"
    """Two TCP connections that a relay joins."""
    CIRCUIT = "circuit"
    """A stream on the control connection, which may go through any libp2p relay."""

    @property
    def rank(self) -> int:
        """The lower, the better."""
        return _RANKS[self]

    @property
    def is_direct(self) -> bool:
        """Whether no third machine moves the bytes."""
        return self in {PathKind.LAN, PathKind.DIRECT, PathKind.PUNCHED_TCP}


_RANKS = {kind: rank for rank, kind in enumerate(PathKind)}


class CandidateKind(Enum):
    """Where a candidate address comes from."""

    HOST = "host"
    """An interface's own address."""
    PUBLIC = "public"
    """Configured by the operator, or seen to be reachable from outside."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address at which a node's port may be reached.

    Attributes:
        host: IPv4 or IPv6 address.
        port: TCP port.
        kind: Where the address comes from.
    """

    host: str
    port: int
    kind: CandidateKind

    @property
    def address(self) -> PeerAddress:
        """The candidate as a multiaddr."""
        return PeerAddress.tcp(self.host, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathInfo:
    """One pipe's way to a peer.

    Attributes:
        peer_id: The peer at the other end, proven by the pipe's preface.
        kind: The way.
        remote: The address at the other end of our socket: the peer's, its NAT's, or the relay's.
        since: When the pipe was opened, in seconds of `time.monotonic`.
        rtt: Seconds that the pipe's preface took to be answered: one round trip and the peer's work.
    """

    peer_id: PeerId
    kind: PathKind
    remote: PeerAddress
    since: float
    rtt: float


def path_kind(host: str) -> PathKind:
    """The kind of a TCP path to ``host``: `LAN` for loopback, private and link-local addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return PathKind.DIRECT
    return PathKind.LAN if address.is_private or address.is_link_local else PathKind.DIRECT


def host_candidates(bound: str, port: int) -> list[Candidate]:
    """Our own addresses at which a listener bound to ``bound`` can be reached.

    For a wildcard these are the interfaces' addresses without loopback and link-local ones, which mean something else
    on every machine; a machine with nothing else gets its loopback address.
    """
    address = ipaddress.ip_address(bound)
    if not address.is_unspecified:
        return [Candidate(bound, port, CandidateKind.HOST)]
    versions = {4} if address.version == 4 else {4, 6}
    found = [ip for ip in _interface_addresses() if ip.version in versions]
    usable = [ip for ip in found if not (ip.is_loopback or ip.is_link_local)] or [ip for ip in found if ip.is_loopback]
    return [Candidate(str(ip), port, CandidateKind.HOST) for ip in usable]


def _interface_addresses() -> Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            yield ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])


def dial_order(
    proven: Sequence[PeerAddress], candidates: Collection[Candidate], *, same_host: bool, same_site: bool = True
) -> list[PeerAddress]:
    """Which TCP addresses of a peer to dial, most promising first, none twice.

    Args:
        proven: Addresses at which the peer answered before.
        candidates: What the peer says of itself. It must not be used to reach into this machine, so:
        same_host: Whether the peer is known to be on this machine; if not, its loopback candidates do not count.
        same_site: Whether the peer may be in a private network of ours; if not, its private candidates do not count.
    """
    ordered = [address for address in proven if address.is_tcp]
    for kind in CandidateKind:
        said = [candidate.address for candidate in candidates if candidate.kind is kind]
        ordered += [
            address
            for address in said
            if (same_host or not is_local(address.host)) and (same_site or is_global(address.host))
        ]
    unique: dict[tuple[str, int], PeerAddress] = {}
    for address in ordered:
        unique.setdefault((address.host, address.port), address)
    return list(unique.values())


def is_local(host: str) -> bool:
    """Whether ``host`` is a loopback, wildcard or multicast address, which means this machine or nobody."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or address.is_multicast


def is_global(host: str) -> bool:
    """Whether ``host`` is an IP address that means the same machine everywhere."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def control_order(addresses: Sequence[PeerAddress], own: Collection[Candidate]) -> list[PeerAddress]:
    """A peer's addresses for a control connection, most promising first, without those that are our own here.

    A peer that has relays believes that it cannot be dialled, so these come first; then global addresses; private ones,
    which behind a NAT lead elsewhere, come last.
    """
    ours = {(candidate.host, candidate.port) for candidate in own}
    others = [address for address in addresses if (address.host, address.port) not in ours]
    if not any(address.is_circuit for address in others):
        return others
    return sorted(others, key=lambda a: 0 if a.is_circuit else 1 if is_global(a.host) else 2)
