"""What the store needs from outside; the node wires it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import grpc.aio

from lattica.identity import PeerId


class StoreChannels(Protocol):
    """gRPC channels to peer IDs: the rpc room."""

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        """The channel to a peer, made without waiting. It is shared: whoever gets it does not close it."""


class ReplicaRouting(Protocol):
    """Who may have a replica of a namespace: the DHT. A key is a multihash."""

    def find(self, key: bytes) -> AsyncIterator[PeerId]:
        """Yield peers that said they have one, as they are found; never ourselves. They may be gone since."""

    async def announce(self, key: bytes) -> None:
        """Say that we have one, now and until `withdraw`."""

    def withdraw(self, key: bytes) -> None:
        """Do not say so again."""


class SyncLink(Protocol):
    """A stream of frames to and from a peer that has a replica.

    Attributes:
        peer: Who that is; proven.
    """

    peer: PeerId

    async def send(self, frame: bytes) -> None:
        """Send a frame; waits while the peer does not take it. Raises `NetworkError` when the stream has ended."""

    async def receive(self) -> bytes | None:
        """The peer's next frame; ``None`` at the end. Raises `NetworkError` when the stream has broken."""
