"""Which of a peer's addresses are worth a SYN, and may get one. Pure.

A peer says where to dial, and must not make a port scanner of us: `MAX_TARGETS` addresses in a round, no system's
ports, nothing on our own machine, and private addresses only where they can mean the peer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from lattica.mesh.punch_messages import Offer
from lattica.mesh.stun import Endpoint

MAX_TARGETS = 8
"""Endpoints that are dialled in one round."""
MAX_PREDICTED = 5
"""Of them, ports that a NAT with a rule will probably use next: one for each time that its first SYN may be refused."""
MIN_PORT = 1024
"""A NAT maps no unprivileged port to one below this (RFC 4787, REQ-3), and servers are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PunchPlan:
    """What to do in a round.

    Attributes:
        targets: Where to dial, in this order.
        hosts: Whose connections to take, whatever port they come from.
        is_late: Whether the other side should have dialled when we do.
        is_counted: Whether the peer expects our SYNs to leave our NAT in this order.
    """

    targets: tuple[Endpoint, ...]
    hosts: frozenset[str]
    is_late: bool
    is_counted: bool = False


def punch_plan(own: Offer, theirs: Offer) -> PunchPlan:
    """How ``own``'s side goes about a round with ``theirs``.

    If only our NAT gives each connection another port, we dial a little later. Each of our SYNs that is refused takes
    one more port, and moves on from those that the peer has predicted; and a NAT that filters by address lets us
    in as soon as the peer has sent anything to ours.
    """
    targets = tuple(plausible_candidates(own, theirs))
    hosts = frozenset(target.host for target in targets)
    return PunchPlan(
        targets=targets,
        hosts=hosts,
        is_late=own.is_hard and not theirs.is_hard,
        is_counted=own.is_hard and bool(own.port_step),
    )


def plausible_candidates(own: Offer, theirs: Offer) -> list[Endpoint]:
    """Where to dial ``theirs``, most promising first, each once and `MAX_TARGETS` at most.

    - Private, CGNAT, link-local and other addresses that are not global count only if both sides have one public
      address, or, for the mapped one, if ours is not global either: then our STUN servers are in the same private
      network.
    - IPv6 for IPv6 only, that is if we have a port there. What an IPv4 side offers of it comes first: to dial it costs
      no NAT a port.
    - Never our own, nor any that means this machine, nobody or everybody.
    - A NAT that counts its ports up (or down) has used `mapped` for the server: its next ones are dialled first, and
      if ours counts as well, one of us dials every second one (`_stride`).
    - If it is our NAT that counts, interface addresses come last, as each may cost it a port.
    """
    neighbours = own.mapped.host == theirs.mapped.host
    ours = {own.mapped, *own.hosts}
    own_hosts = {host.host for host in own.hosts}
    families = {":" in one.host for one in ours}

    def is_plausible(endpoint: Endpoint, *, local_counts: bool) -> bool:
        ip = ipaddress.ip_address(endpoint.host)
        return (
            (ip.version == 6) in families
            and endpoint not in ours
            and MIN_PORT <= endpoint.port < 1 << 16
            and _is_unicast(ip)
            and (ip.is_global or (local_counts and endpoint.host not in own_hosts))
        )

    own_is_local = not ipaddress.ip_address(own.mapped.host).is_global
    predicted = _mapped(theirs, _stride(own, theirs))
    mapped = [one for one in predicted if is_plausible(one, local_counts=neighbours or own_is_local)]
    hosts = [one for one in theirs.hosts if is_plausible(one, local_counts=neighbours)]
    ordered = [*hosts, *mapped] if neighbours and not own.is_hard else [*mapped, *hosts]
    ordered.sort(key=lambda one: ":" not in one.host)
    return list(dict.fromkeys(ordered))[:MAX_TARGETS]


def _stride(own: Offer, theirs: Offer) -> int:
    """How far apart the ports are that we predict, in steps; of two sides whose NATs count one comes to 2.

    SYN number i of a side leaves its NAT by port number i + s after the one that it has told, where s other
    connections of the same home have come between: one to the relay, mostly. If both sides dial each port, two SYNs
    meet only where neither side has such. If one dials ports 1, 3, 5, 7, 9, its SYN number 1 + s + t meets the other's
    number 1 + 2s + t, where t is the other's s: as long as the other predicts so many.
    """
    both_count = own.is_hard and theirs.is_hard and own.port_step and theirs.port_step
    return 2 if both_count and own.mapped < theirs.mapped else 1


def _mapped(theirs: Offer, stride: int) -> Iterator[Endpoint]:
    host, port = theirs.mapped
    if theirs.is_hard and theirs.port_step:
        for number in range(1, MAX_PREDICTED * stride + 1, stride):
            yield Endpoint(host, port + number * theirs.port_step)
    yield theirs.mapped


def _is_unicast(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved:  # reserved: 255.255.255.255, too
        return False
    return not (ip.version == 6 and ip.is_link_local)  # it means nothing without an interface's name
