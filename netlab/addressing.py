"""Which addresses the machines of a lab get.

Public ones are out of ranges that the real Internet routes and Python calls global: documentation ranges would be
taken for private ones by the programs under test. They never leave the lab, which has no way out.

A public network has IPv4 ``N.0.0.0/8`` and IPv6 ``2aNN::/16``. Its n-th subscriber gets ``N.n.0.0/24`` and
``2aNN:n::/64`` for the link, and, if it is a router, a public IPv4 network and an IPv6 block for its inside.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from netlab.errors import LabError

FIRST_OCTETS = (11, 12, 17, 18, 20, 24, 34, 52)  # one for each public network
SUBSCRIBERS = 240  # of one network; second octets above are for links between networks
HOME_LAN = IPv4Network("192.168.1.0/24")  # of every home, as in life: two peers may have one address
CARRIER_LAN = IPv4Network("100.64.0.0/16")  # RFC 6598
FIRST_HOST, LAST_HOST = 10, 250  # in a LAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a machine gets from the network or router that it is plugged into.

    Attributes:
        ipv4: Its address, or ``None`` without IPv4.
        gateway4: Where it sends what is not for its own network.
        inside4: Public addresses routed to it, if it is a router that needs no NAT.
        ipv6: Like ``ipv4``.
        gateway6: Like ``gateway4``.
        inside6: The block delegated to it, if it is a router.
    """

    ipv4: IPv4Interface | None
    gateway4: IPv4Address | None
    inside4: IPv4Network | None
    ipv6: IPv6Interface | None
    gateway6: IPv6Address | None
    inside6: IPv6Network | None


class PublicPlan:
    """The addresses of one public network."""

    def __init__(self, number: int) -> None:
        if number >= len(FIRST_OCTETS):
            raise LabError(f"a lab has at most {len(FIRST_OCTETS)} public networks")
        self._octet = FIRST_OCTETS[number]
        self.ipv4 = IPv4Network(f"{self._octet}.0.0.0/8")
        self.ipv6 = IPv6Network(f"2a{self._octet}::/16")
        self._leases = 0

    def lease(self) -> Lease:
        """The next subscriber's, of both families; what it does not want it leaves."""
        self._leases += 1
        if self._leases > SUBSCRIBERS:
            raise LabError(f"{self.ipv4} has had {SUBSCRIBERS} subscribers and addresses; open another lab")
        head4, head6 = f"{self._octet}.{self._leases}", f"2a{self._octet}:{self._leases:x}"
        return Lease(
            ipv4=IPv4Interface(f"{head4}.0.2/24"),
            gateway4=IPv4Address(f"{head4}.0.1"),
            inside4=IPv4Network(f"{head4}.1.0/24"),
            ipv6=IPv6Interface(f"{head6}::2/64"),
            gateway6=IPv6Address(f"{head6}::1"),
            inside6=IPv6Network(f"{head6}:100::/40"),
        )

    def backbone(self, number: int) -> tuple[IPv4Network, IPv6Network]:
        """The two ends of this (the first) network's link to another one: first and second address of each."""
        head = f"{self._octet}.{SUBSCRIBERS + number}"
        return IPv4Network(f"{head}.0.0/30"), IPv6Network(f"2a{self._octet}:ff{number:02x}::/126")


class LanPlan:
    """The addresses of one router's inside."""

    def __init__(self, ipv4: IPv4Network | None, ipv6: IPv6Network | None) -> None:
        self.ipv4 = ipv4
        self.ipv6 = next(ipv6.subnets(new_prefix=64)) if ipv6 is not None else None
        self._block6 = ipv6
        self._leases = 0

    def gateway(self) -> tuple[IPv4Interface | None, IPv6Interface | None]:
        """The router's own addresses."""
        ipv4 = IPv4Interface((self.ipv4[1], self.ipv4.prefixlen)) if self.ipv4 else None
        ipv6 = IPv6Interface((self.ipv6[1], self.ipv6.prefixlen)) if self.ipv6 else None
        return ipv4, ipv6

    def lease(self) -> Lease:
        """The next machine's."""
        host = FIRST_HOST + self._leases
        if host > LAST_HOST:
            raise LabError(f"the LAN {self.ipv4} has no address left; use another router")
        self._leases += 1
        gateway4, gateway6 = self.gateway()
        return Lease(
            ipv4=IPv4Interface((self.ipv4[host], self.ipv4.prefixlen)) if self.ipv4 else None,
            gateway4=gateway4.ip if gateway4 else None,
            inside4=None,
            ipv6=IPv6Interface((self.ipv6[host], self.ipv6.prefixlen)) if self.ipv6 else None,
            gateway6=gateway6.ip if gateway6 else None,
            inside6=self._delegate(),
        )

    def _delegate(self) -> IPv6Network | None:
        """The block of the machine just counted: one of the 255 that are left beside the LAN's own."""
        if self._block6 is None or self._block6.prefixlen + 8 > 64:
            return None
        size = self._block6.num_addresses >> 8
        return IPv6Network((int(self._block6.network_address) + self._leases * size, self._block6.prefixlen + 8))
