"""What the mesh needs from outside; the node provides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lattica.identity import PeerAddress, PeerId


class PeerFinder(Protocol):
    """Finds addresses of peers that we know only by ID: the DHT."""

    async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
        """Where ``peer`` may be reached; raises `PeerUnreachableError` if nobody knows.

        Unless ``thorough``, the first to name an address is believed: dialling proves it.
        """
