"""A public network: the router that its subscribers are plugged into, one link each."""

from ipaddress import IPv4Address

from netlab.addressing import Lease, PublicPlan
from netlab.link import Link, LinkSpace, Plug
from netlab.names import LabId
from netlab.readiness import wait_until_reachable
from netlab.shape import Shape
from netlab.sysctl import FORWARDING, set_sysctls
from netlab.uplink import Upstream, neighbour

NO_ROUTE_AT_ONCE = {"ipv4/icmp_ratelimit": 0, "ipv6/icmp/ratelimit": 0}  # each attempt is told, not one a second


class Network(Upstream):
    """Subscribers reach each other and other networks through it; it filters nothing.

    Attributes:
        link: Its link to the first network, or ``None`` if it is that.
    """

    def __init__(self, lab: LabId, name: str, number: int) -> None:
        self.link: Link | None = None
        self._number = number
        self._plan = PublicPlan(number)
        super().__init__(lab, name)
        self.call(set_sysctls, {**FORWARDING, **NO_ROUTE_AT_ONCE})

    def __repr__(self) -> str:
        return f"<Network {self.name} {self._plan.ipv4}>"

    def lease(self) -> Lease:
        """See `Upstream`."""
        return self._plan.lease()

    def serve(self, port: str, lease: Lease, mac: str) -> None:
        """See `Upstream`."""
        lines = [f"link set {port} up", f"address flush dev {port} scope global"]
        for address, gateway, inside in (
            (lease.ipv4, lease.gateway4, lease.inside4),
            (lease.ipv6, lease.gateway6, lease.inside6),
        ):
            if address:
                lines.append(f"address add {gateway}/{address.network.prefixlen} dev {port} nodad")
                lines.append(neighbour(address.ip, mac, port))
            if address and inside:
                lines.append(f"route replace {inside} via {address.ip}")
        self.ip(*lines)

    def gateway_mac(self, port_mac: str) -> str:
        """See `Upstream`: each port is a gateway."""
        return port_mac

    def seen_as(self, address: IPv4Address) -> IPv4Address:
        """See `Upstream`: nobody translates between public networks."""
        return address

    def join(self, backbone: "Network", space: LinkSpace, shape: Shape) -> None:
        """Link this network to the first one, through which it reaches all others."""
        far = backbone.plug()
        self.link = space.join(Plug(self, "backbone"), Plug(backbone, far))
        ipv4, ipv6 = backbone._plan.backbone(self._number)
        near4, far4, near6, far6 = ipv4[2], ipv4[1], ipv6[2], ipv6[1]
        near_mac, far_mac = self.link.macs
        backbone.ip(
            f"link set {far} up",
            f"address add {far4}/{ipv4.prefixlen} dev {far}",
            f"address add {far6}/{ipv6.prefixlen} dev {far} nodad",
            neighbour(near4, near_mac, far),
            neighbour(near6, near_mac, far),
            f"route add {self._plan.ipv4} via {near4}",
            f"route add {self._plan.ipv6} via {near6}",
        )
        self.ip(
            "link set backbone up",
            f"address add {near4}/{ipv4.prefixlen} dev backbone",
            f"address add {near6}/{ipv6.prefixlen} dev backbone nodad",
            neighbour(far4, far_mac, "backbone"),
            neighbour(far6, far_mac, "backbone"),
            f"route add default via {far4}",
            f"route add default via {far6}",
        )
        for gateway in (far4, far6):
            self.call(wait_until_reachable, gateway)
        self.link.reshape(shape)
