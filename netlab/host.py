"""A machine with one network interface, to run programs on."""

from ipaddress import IPv4Address, IPv6Address

from netlab.errors import LabError
from netlab.link import Link, LinkSpace, Plug
from netlab.names import LabId
from netlab.namespace import Namespace
from netlab.router import Router
from netlab.shape import Shape
from netlab.uplink import Uplink, Upstream, Wants

DEVICE = "eth0"


class Host(Namespace):
    """Run programs with `run` and `popen`, functions with `call`; `socket` makes sockets for use anywhere.

    Attributes:
        router: The router it is behind, or ``None`` on a public network.
    """

    def __init__(self, lab: LabId, name: str, wants: Wants, space: LinkSpace, upstream: Upstream, shape: Shape) -> None:
        self.router = upstream if isinstance(upstream, Router) else None
        super().__init__(lab, name, ipv6=wants.ipv6)
        self._uplink = Uplink(space, Plug(self, DEVICE), upstream, wants, shape)

    def __repr__(self) -> str:
        return f"<Host {self.name} {', '.join(map(str, self.addresses))}>"

    @property
    def link(self) -> Link:
        """Its cable: to its public network, or to the LAN of its router."""
        return self._uplink.link

    @property
    def access(self) -> Link:
        """The link by which its site hangs on a public network: its own cable, or its outermost router's."""
        return self.link if self.router is None else self.router.access

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers between it and its public network, its own first."""
        return () if self.router is None else (self.router, *self.router.above)

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Its own addresses, IPv4 first."""
        lease = self._uplink.lease
        return tuple(interface.ip for interface in (lease.ipv4, lease.ipv6) if interface is not None)

    @property
    def ipv4(self) -> IPv4Address:
        """Its own IPv4 address; private behind a NAT."""
        interface = self._uplink.lease.ipv4
        if interface is None:
            raise LabError(f"{self.name} has no IPv4 address; make it with ipv4=True")
        return interface.ip

    @property
    def ipv6(self) -> IPv6Address:
        """Its own IPv6 address, which is global everywhere."""
        interface = self._uplink.lease.ipv6
        if interface is None:
            raise LabError(f"{self.name} has no IPv6 address; make it with ipv6=True")
        return interface.ip

    @property
    def public_address(self) -> IPv4Address:
        """The IPv4 address that the public sees: its own, or that of the outermost NAT."""
        return self._uplink.upstream.seen_as(self.ipv4)

    def change_address(self) -> None:
        """Move to new addresses in the same place; the old ones are gone at once."""
        self._uplink.renumber()
