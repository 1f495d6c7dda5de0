"""What the content room needs from outside: channels to peers, and who provides what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import grpc.aio

from lattica.identity import PeerId


class PeerChannels(Protocol):
    """gRPC channels to peer IDs; the rpc room, seen through the node."""

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        """The channel to a peer, made without waiting. It is shared: whoever gets it does not close it.

        Its calls raise `lattica.errors.PeerUnreachableError` or `grpc.aio.AioRpcError`.
        """
        ...

    def path_kind(self, peer: PeerId) -> str:
        """How bytes travel to the peer now: ``"lan"``, ``"direct"``, …; empty if there is no path."""
        ...

    async def wait_moved(self, peer: PeerId) -> None:
        """Return when new calls to the peer take a better way than those under way; these end where they are."""
        ...


class ContentRouting(Protocol):
    """Who provides which content; the DHT, seen through the node. A key is a CID's multihash."""

    def find_providers(self, key: bytes) -> AsyncIterator[PeerId]:
        """Providers of a key as they are found. One search; closing the iterator cancels it.

        Raises:
            NetworkError: The search failed.
        """
        ...

    async def provide(self, key: bytes) -> int:
        """Announce that we provide a key; the number of peers that keep the announcement.

        Raises:
            NetworkError: Nobody could be told.
        """
        ...
