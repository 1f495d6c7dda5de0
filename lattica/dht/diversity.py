"""Which peers sit in the same network block, so that one landlord cannot fill a routing table."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

# https://github.com/multiformats/multiaddr/blob/master/protocols.csv
_IP4 = 0x04
_IP6 = 0x29
_CIRCUIT = b"\xa2\x02"  # p2p-circuit, 290 as a varint


@dataclass(frozen=True, slots=True, kw_only=True)
class IpDiversity:
    """How many contacts from one network block a routing table takes. The defaults are go-libp2p-kad-dht's.

    Attributes:
        per_bucket: At most so many in one bucket.
        per_table: At most so many in all of them.
    """

    per_bucket: int = 2
    per_table: int = 3


def ip_groups(addresses: Iterable[bytes]) -> frozenset[bytes]:
    """The public network blocks that a peer's direct addresses are in: IPv4 /16, IPv6 /32.

    Empty for a peer with private, named or relayed addresses only. A relayed address begins with the relay's.
    """
    groups = (_ip_group(address) for address in addresses if _CIRCUIT not in address)
    return frozenset(group for group in groups if group is not None)


def _ip_group(address: bytes) -> bytes | None:
    if address[:1] == bytes((_IP4,)) and len(address) >= 5:
        return address[:3] if ipaddress.IPv4Address(address[1:5]).is_global else None
    if address[:1] == bytes((_IP6,)) and len(address) >= 17:
        return address[:5] if ipaddress.IPv6Address(address[1:17]).is_global else None
    return None
