"""How a machine is plugged into a network or router, and what addresses it has there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from netlab.addressing import Lease
from netlab.errors import LabError
from netlab.link import Link, LinkSpace, Plug
from netlab.namespace import Namespace
from netlab.readiness import wait_until_reachable
from netlab.shape import Shape


class Upstream(Namespace, ABC):
    """What machines are plugged into: a public network, or a router's inside."""

    _ports = 0

    def plug(self) -> str:
        """The name for a new device at its end of a link."""
        self._ports += 1
        return f"port{self._ports}"

    @abstractmethod
    def lease(self) -> Lease:
        """Addresses for a machine, never given out before."""

    @abstractmethod
    def serve(self, port: str, lease: Lease, mac: str) -> None:
        """Reach the machine at this port, which has this Ethernet address, by this lease and no earlier one."""

    @abstractmethod
    def gateway_mac(self, port_mac: str) -> str:
        """The Ethernet address of the gateway that a machine sees which is plugged into the port with this one."""

    @abstractmethod
    def seen_as(self, address: IPv4Address) -> IPv4Address:
        """The address that the rest of the world sees when a machine here sends from this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What a machine wants of its upstream."""

    ipv4: bool = True
    ipv6: bool = False
    inside: bool = False

    def of(self, lease: Lease) -> Lease:
        """The part of a lease that is wanted."""
        if not self.ipv4:
            lease = replace(lease, ipv4=None, gateway4=None, inside4=None)
        if not self.ipv6:
            lease = replace(lease, ipv6=None, gateway6=None, inside6=None)
        return lease if self.inside else replace(lease, inside4=None, inside6=None)


class Uplink:
    """A machine's own end: a device with addresses and a default route.

    Attributes:
        upstream: What it is plugged into.
        link: The cable.
        lease: The addresses.
    """

    def __init__(self, space: LinkSpace, plug: Plug, upstream: Upstream, wants: Wants, shape: Shape) -> None:
        self.upstream = upstream
        self._plug = plug
        self._wants = wants
        self._port = upstream.plug()
        self.link: Link = space.join(plug, Plug(upstream, self._port))
        self.lease = self._leased()
        self._configure()
        for gateway in (self.lease.gateway4, self.lease.gateway6):
            if gateway is not None:
                plug.namespace.call(wait_until_reachable, gateway)
        self.link.reshape(shape)

    def renumber(self, *, keep_ipv6: bool = False) -> None:
        """Move to new addresses; the old ones are gone at once."""
        old, new = self.lease, self._leased()
        if keep_ipv6:
            new = replace(new, ipv6=old.ipv6, gateway6=old.gateway6, inside6=old.inside6)
        self.lease = new
        self._configure()

    def _leased(self) -> Lease:
        lease = self._wants.of(self.upstream.lease())
        for family in ("ipv4", "ipv6"):
            if getattr(self._wants, family) and getattr(lease, family) is None:
                machine, upstream = self._plug.namespace.name, self.upstream.name
                raise LabError(f"{machine} wants {family}, but {upstream} has none; make it with {family}=True")
        return lease

    def _configure(self) -> None:
        device, lease, (mac, port_mac) = self._plug.device, self.lease, self.link.macs
        gateway_mac = self.upstream.gateway_mac(port_mac)
        lines = [f"address flush dev {device} scope global", f"link set {device} up"]
        for address, gateway in ((lease.ipv4, lease.gateway4), (lease.ipv6, lease.gateway6)):
            if address and gateway:
                lines += [
                    f"address add {address} dev {device} nodad",
                    f"route replace default via {gateway}",
                    neighbour(gateway, gateway_mac, device),
                ]
        self._plug.namespace.ip(*lines)
        self.upstream.serve(self._port, lease, mac)


def neighbour(address: IPv4Address | IPv6Address, mac: str, device: str) -> str:
    """An `ip` command that makes a neighbour known for good.

    Finding it by ARP would take a round trip of the link before the first packet, a second if that is lost, and
    give programs "no route to host" when the link is cut, which beyond the first hop nobody is told.
    """
    return f"neighbour replace {address} lladdr {mac} dev {device} nud permanent"
