"""What the DHT needs from outside: a way to send a message to a peer and to be sent one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from lattica.identity import PeerId

LATTICA_KAD: Final = "/lattica/kad/1.0.0"
"""Protocol ID of a Lattica network's DHT."""
IPFS_KAD: Final = "/ipfs/kad/1.0.0"
"""Protocol ID of the public IPFS network's DHT, for nodes that are told to join that one."""

RequestHandler = Callable[[PeerId, bytes], Awaitable[bytes | None]]
"""Answers one request: its sender, proven by the transport, and the unframed message in; the unframed response out.

``None``: there is nothing to send back, and the stream stays open for further requests. It raises `NetworkError` if the
stream is to be reset; `RemoteProtocolError` if the sender broke the protocol as well. It never blocks on the network.
"""


class DhtTransport(Protocol):
    """Kademlia messages over some network; the node implements it over streams of its control connections.

    Messages are protobuf bytes; on a stream each has its length before it as an unsigned varint. A frame longer than
    `lattica.dht.MAX_REQUEST_BYTES` (inbound) or `lattica.dht.MAX_RESPONSE_BYTES` (outbound) must not be read into
    memory: reset the stream and raise `RemoteProtocolError`.
    """

    @property
    def local_peer(self) -> PeerId:
        """Who we are."""
        ...

    def local_addresses(self) -> Sequence[bytes]:
        """Binary multiaddrs at which others can reach us now, best first."""
        ...

    async def request(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> bytes:
        """Send `message` and return the response; dial `addresses` if there is no connection yet.

        The deadline is the caller's: on cancellation the stream is reset.

        Raises:
            NetworkError: The peer cannot be reached, does not speak the protocol, or the stream broke.
        """
        ...

    async def send(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> None:
        """Like `request`, for a message that has no response: return when it is written and the stream closed.

        Raises:
            NetworkError: As in `request`.
        """
        ...

    def serve(self, handler: RequestHandler | None) -> None:
        """Hand inbound requests to `handler` and offer the protocol to peers; ``None`` stops both."""
        ...
