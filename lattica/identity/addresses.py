"""Where a peer listens: multiaddrs, as text and as bytes, and what they say to a TCP dialler.

Source: https://github.com/multiformats/multiaddr. Parsing is the `multiaddr` package's; its errors end here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from multiaddr import Multiaddr
from multiaddr.protocols import P_P2P

from lattica.errors import AddressError
from lattica.identity.peer_id import PeerId

MAX_ADDRESS_BYTES = 1024
"""Bytes of a binary multiaddr accepted from a peer; long relay addresses with certificates' hashes take about 200."""
_CIRCUIT = "/p2p-circuit"
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """One multiaddr at which a peer may be reached.

    Attributes:
        text: The multiaddr without its ``/p2p/`` part.
        host: IP address or DNS name; empty unless it is a plain TCP address.
        port: TCP port; 0 unless it is a plain TCP address.
        peer_id: The peer that the multiaddr names at its end, if it does.
        relay: The relay's own address, with its peer ID, if this is a circuit through exactly one relay.
    """

    text: str
    host: str
    port: int
    peer_id: PeerId | None = None
    relay: PeerAddress | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a multiaddr such as ``/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…``.

        Raises:
            AddressError: It is malformed.
        """
        if len(text) > 4 * MAX_ADDRESS_BYTES:
            raise AddressError(text, "too long for a multiaddr")
        try:
            return cls._from_multiaddr(Multiaddr(text.strip()), text)
        except AddressError:
            raise
        except Exception as error:  # the multiaddr package leaks many kinds for malformed input
            hint = "a multiaddr looks like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…"
            raise AddressError(text, hint) from error

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read a binary multiaddr; raises `AddressError` if it is malformed."""
        if len(raw) > MAX_ADDRESS_BYTES:
            raise AddressError(raw[:32].hex(), "too long for a multiaddr")
        try:
            return cls._from_multiaddr(Multiaddr(raw), raw.hex())
        except AddressError:
            raise
        except Exception as error:  # as above
            raise AddressError(raw[:64].hex(), "not a binary multiaddr") from error

    @classmethod
    def tcp(cls, host: str, port: int, peer_id: PeerId | None = None) -> Self:
        """The address of a TCP port on an IP address or DNS name.

        An IPv6 zone is dropped, and an IPv4 address as a dual-stack socket writes it (``::ffff:…``) is one again.
        """
        host = host.partition("%")[0]
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return cls(f"/dns/{host}/tcp/{port}", host, port, peer_id)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return cls(f"/ip{ip.version}/{ip}/tcp/{port}", str(ip), port, peer_id)

    @classmethod
    def circuit(cls, relay: PeerAddress) -> Self:
        """The address of whoever is reached through ``relay``, an address with a peer ID.

        Raises:
            AddressError: It names no peer, or is a circuit itself.
        """
        if relay.peer_id is None:
            raise AddressError(str(relay), "a relay's address has to end with its peer ID")
        if "p2p-circuit" in relay.text.split("/"):
            raise AddressError(str(relay), "a circuit goes through one relay, not through several")
        return cls(f"{relay}{_CIRCUIT}", "", 0, None, relay)

    @classmethod
    def _from_multiaddr(cls, address: Multiaddr, source: str) -> Self:
        parts = [(protocol.name, value) for protocol, value in address.items()]
        peer_id = None
        if parts and parts[-1][0] == "p2p":
            peer_id = PeerId.parse(str(parts.pop()[1]))
            address = address.decapsulate_code(P_P2P)
        elif not parts:
            raise AddressError(source, "it is empty")
        text = str(address)
        names = [name for name, _ in parts]
        if len(names) == 2 and names[0] in _HOSTS and names[1] == "tcp":
            return cls(text, str(parts[0][1]), int(parts[1][1]), peer_id)
        if names[-1:] == ["p2p"]:
            raise AddressError(source, "it names two peers in a row")
        if parts and Multiaddr(text) != address:  # a unix path whose bytes have no leading slash, for one
            raise AddressError(source, "it has no text form")
        return cls(text, "", 0, peer_id, cls._relay_of(text))

    @classmethod
    def _relay_of(cls, circuit: str) -> PeerAddress | None:
        relay, marker, rest = circuit.partition(_CIRCUIT)
        if not marker or rest:  # no circuit, or through several relays
            return None
        address = cls.parse(relay) if relay else None
        return address if address is not None and address.peer_id is not None else None

    @property
    def is_circuit(self) -> bool:
        """Whether it leads through exactly one relay, whose peer ID it names."""
        return self.relay is not None

    @property
    def is_tcp(self) -> bool:
        """Whether a plain TCP dial may reach it."""
        return bool(self.host) and 0 < self.port < 1 << 16

    def to_bytes(self, *, with_peer: bool = False) -> bytes:
        """The binary multiaddr, without the peer unless told otherwise."""
        return bytes(Multiaddr(str(self) if with_peer else self.text).to_bytes())

    def with_peer(self, peer_id: PeerId) -> Self:
        """The same address, said to be ``peer_id``'s."""
        return type(self)(self.text, self.host, self.port, peer_id, self.relay)

    def __str__(self) -> str:
        return f"{self.text}/p2p/{self.peer_id}" if self.peer_id else self.text
