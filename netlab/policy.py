"""Everything that decides how one router treats a packet."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from netlab.errors import LabError
from netlab.firewall import Firewall, Unsolicited
from netlab.nat import NatKind

UDP_TIMEOUT = 120  # seconds; RFC 4787, REQ-5: not less than two minutes
TCP_TIMEOUT = 7440  # seconds; RFC 5382, REQ-5: not less than 2 h 4 min for an established connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The NAT of a router.

    Attributes:
        kind: Mapping, filtering and port allocation.
        external: The address that everything inside appears to have.
        hairpin: Whether two machines inside can talk through their external endpoints (RFC 4787, section 6).
        udp_timeout: Whole seconds after which a mapping that carried no packet, in either direction, is gone.
    """

    kind: NatKind
    external: IPv4Address
    hairpin: bool = True
    udp_timeout: int = UDP_TIMEOUT

    def __post_init__(self) -> None:
        if self.udp_timeout < 1:
            raise LabError(f"a UDP mapping cannot last {self.udp_timeout} s; give it one second at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterPolicy:
    """What a router does between ``wan``, its interface to the outside, and all its other interfaces.

    Without a NAT and without a firewall it forwards everything.
    """

    wan: str
    translation: Translation | None = None
    firewall: Firewall | None = None
    unsolicited: Unsolicited = Unsolicited.DROP
