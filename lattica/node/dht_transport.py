"""The DHT's messages over streams of the swarm's control connections."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lattica.dht import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Dht, RequestHandler
from lattica.errors import AddressError, PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh import Mesh
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)


class SwarmDhtTransport:
    """Implements `lattica.dht.DhtTransport`."""

    def __init__(self, swarm: Swarm, mesh: Mesh, protocol: str) -> None:
        self._swarm = swarm
        self._mesh = mesh
        self._protocol = protocol

    @property
    def local_peer(self) -> PeerId:
        """Who we are."""
        return self._swarm.key.peer_id

    def local_addresses(self) -> Sequence[bytes]:
        """Where the mesh listens."""
        return [address.to_bytes() for address in self._mesh.addresses]

    def addresses_of(self, peer: PeerId) -> Sequence[bytes]:
        """What a connected peer said of its addresses."""
        info = self._swarm.peer_info(peer)
        if info is None or not self._swarm.is_connected(peer):
            return ()
        return [address.to_bytes() for address in info.addresses]

    async def request(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> bytes:
        """One request and its response, over a new connection if there is none."""
        await self._connect(peer, addresses)
        return await self._swarm.request(peer, self._protocol, message, MAX_RESPONSE_BYTES)

    async def send(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> None:
        """One message without a response."""
        await self._connect(peer, addresses)
        await self._swarm.send(peer, self._protocol, message)

    async def _connect(self, peer: PeerId, addresses: Sequence[bytes]) -> None:
        await self._swarm.connect(peer, self._mesh.control_order(parse_addresses(addresses)))

    def serve(self, handler: RequestHandler | None) -> None:
        """Answer requests with ``handler``, or stop."""
        if handler is None:
            self._swarm.stop_serving(self._protocol)
        else:
            self._swarm.serve_requests(self._protocol, handler, MAX_REQUEST_BYTES)


class DhtPeerFinder:
    """Implements `lattica.mesh.PeerFinder` with DHT lookups."""

    def __init__(self, dht: Dht) -> None:
        self._dht = dht

    async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
        """Where ``peer`` listens, says the DHT; raises `PeerUnreachableError`."""
        addresses = parse_addresses((await self._dht.find_peer(peer, thorough=thorough)).addresses)
        if not addresses:
            raise PeerUnreachableError(peer, {"dht": "it knows no address that can be dialled"})
        return addresses


def parse_addresses(raw: Sequence[bytes]) -> list[PeerAddress]:
    """Binary multiaddrs without those that we do not understand: they come from peers."""
    parsed = []
    for one in raw:
        try:
            parsed.append(PeerAddress.from_bytes(one))
        except AddressError as error:
            logger.debug("address ignored reason=%s", error)
    return parsed
