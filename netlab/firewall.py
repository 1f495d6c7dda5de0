"""What a router lets through, apart from what its NAT translates."""

from dataclasses import dataclass
from enum import Enum


class Unsolicited(Enum):
    """The answer to a TCP segment from outside that nobody inside has asked for."""

    DROP = "drop"
    RESET = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """A packet filter between the inside and the outside of a router. ICMP always passes.

    Attributes:
        tcp_ports: Destination ports that TCP may leave for; ``None`` means any, empty means none.
        udp_ports: The same for UDP.
        stateful: Whether new flows from outside are refused. Addresses behind a NAT are filtered by the NAT
            in any case, so that this is for IPv6 and for routers without a NAT.
    """

    tcp_ports: frozenset[int] | None = None
    udp_ports: frozenset[int] | None = None
    stateful: bool = True


STATEFUL = Firewall()
UDP_BLOCKED = Firewall(udp_ports=frozenset())
ONLY_TCP_443 = Firewall(tcp_ports=frozenset({443}), udp_ports=frozenset())
