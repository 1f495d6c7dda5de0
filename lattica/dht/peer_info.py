"""A peer and where it can be reached."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.identity import PeerId


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer ID with addresses, as the DHT hands it around.

    Attributes:
        peer_id: Who.
        addresses: Binary multiaddrs, best first; may be empty. Hearsay: only dialling proves them.
    """

    peer_id: PeerId
    addresses: tuple[bytes, ...] = ()
