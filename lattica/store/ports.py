"""What the store needs from outside; the node wires it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from lattica.identity import PeerId


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


class StorePeers(Protocol):
    """The way to other replicas: gRPC."""

    def call(self, peer: PeerId) -> AbstractAsyncContextManager[SyncLink]:
        """A stream to a peer while the block lasts; raises `NetworkError` at once, or in the link's methods."""

    async def genesis(self, peer: PeerId, namespace: bytes) -> bytes:
        """What the peer says is the genesis of a namespace; empty if it does not know. Raises `NetworkError`."""


class ReplicaRouting(Protocol):
    """Who may have a replica of a namespace: the DHT. A key is a multihash."""

    def find(self, key: bytes) -> AsyncIterator[PeerId]:
        """Yield peers that said they have one, as they are found; never ourselves. They may be gone since."""

    async def announce(self, key: bytes) -> None:
        """Say that we have one, now and until `withdraw`."""

    def withdraw(self, key: bytes) -> None:
        """Do not say so again."""
