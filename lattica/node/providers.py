"""The way of the content and rpc rooms to peers and to the DHT."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio

from lattica.dht import Dht
from lattica.identity import PeerId
from lattica.mesh import Mesh
from lattica.node.dht_transport import parse_addresses
from lattica.rpc import Rpc

MAX_PROVIDERS = 32
"""Providers of one content ID that one search yields; more would not make a fetch faster."""


class MeshChannels:
    """Implements `lattica.content.PeerChannels`."""

    def __init__(self, rpc: Rpc, mesh: Mesh) -> None:
        self._rpc = rpc
        self._mesh = mesh

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        """The channel to a peer."""
        return self._rpc.channel(peer)

    def path_kind(self, peer: PeerId) -> str:
        """The kind of the path to a peer; empty without one."""
        path = self._mesh.path_to(peer)
        return path.kind.value if path else ""

    async def wait_moved(self, peer: PeerId) -> None:
        """Return when new calls to the peer take a better way."""
        await self._rpc.channel(peer).wait_replaced()


class DhtServiceRouting:
    """Implements `lattica.rpc.ServiceRouting`."""

    def __init__(self, dht: Dht, mesh: Mesh) -> None:
        self._dht = dht
        self._content = DhtRouting(dht, mesh)

    def find(self, key: bytes) -> AsyncIterator[PeerId]:
        """Peers that announced the key, as the DHT finds them, without ourselves; the mesh learns their addresses."""
        return self._content.find_providers(key)

    async def announce(self, key: bytes) -> None:
        """Announce the key, now and until `withdraw`."""
        await self._content.provide(key)

    def withdraw(self, key: bytes) -> None:
        """Announce it no longer."""
        self._dht.stop_providing(key)


class DhtRouting:
    """Implements `lattica.content.ContentRouting`."""

    def __init__(self, dht: Dht, mesh: Mesh) -> None:
        self._dht = dht
        self._mesh = mesh

    async def find_providers(self, key: bytes) -> AsyncIterator[PeerId]:
        """Providers as the DHT finds them, without ourselves; the mesh learns their addresses."""
        async for info in self._dht.find_providers(key, limit=MAX_PROVIDERS):
            if info.peer_id != self._mesh.peer_id:
                self._mesh.add_addresses(info.peer_id, parse_addresses(info.addresses))
                yield info.peer_id

    async def provide(self, key: bytes) -> int:
        """Announce that we provide ``key``, now and until told otherwise."""
        return await self._dht.provide(key)
