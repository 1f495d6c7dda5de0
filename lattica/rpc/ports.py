"""What the rpc room needs from the mesh; the node wires them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId, TlsIdentity


class Route(Protocol):
    """A local gRPC target that leads to one peer.

    Attributes:
        peer_id: The peer.
        target: For a gRPC channel.
        tls: What the channel shows and trusts.
        expires_at: When the certificate should be replaced, in seconds of `time.monotonic`.
        failure: Why the latest attempt to open a pipe behind the target failed; ``None`` if it did not.
        attempts: What is being tried to open a pipe anew, and how that goes; ``None`` if nothing is.
    """

    peer_id: PeerId
    target: str
    tls: TlsIdentity
    expires_at: float
    failure: PeerUnreachableError | None
    attempts: Mapping[str, str] | None

    @property
    def has_pipe(self) -> bool:
        """Whether a pipe is up."""

    @property
    def path_kind(self) -> str:
        """The kind of its best path; empty without one."""

    @property
    def is_stalled(self) -> bool:
        """Whether its pipes are up, but nothing gets through at present."""

    async def wait_moving(self) -> None:
        """Return when it is not stalled, or not any more."""

    async def wait_superseded(self) -> None:
        """Return when a better path than the route's is ready, which a route that is opened now gets."""

    async def wait_native(self) -> NativeRoute | None:
        """A route to the same peer that leaves the gateways out, when it is worth trying; ``None`` if there is none.

        It is to be connected, refused or closed soon: others may wait for that.
        """

    def close(self) -> None:
        """Free the route; its channel is closed."""


class NativeRoute(Route, Protocol):
    """A route whose target is the peer's own port, so that its channel is one connection to there, and no other."""

    def connected(self) -> None:
        """Say that the channel is connected: from now on its connection is watched.

        Raises:
            PeerUnreachableError: It cannot be, so the route must not be used.
        """

    def refused(self, reason: str) -> None:
        """Say that the channel does not connect: for some minutes there is no such route."""

    def lost(self) -> None:
        """Say that the channel has lost its connection, or that the peer will end it."""


class RouteOpener(Protocol):
    """Opens routes: the mesh."""

    async def open_route(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> Route:
        """A route with a pipe ready behind it; raises `PeerUnreachableError` within ``timeout`` seconds.

        ``attempts`` gets, while that goes on, what is being tried and how it failed.
        """


class ServiceRouting(Protocol):
    """Who may offer a service name: the DHT, seen through the node. A key is a multihash."""

    def find(self, key: bytes) -> AsyncIterator[PeerId]:
        """Yield peers that said they offer the name, as they are found; never ourselves. They may be gone since."""

    async def announce(self, key: bytes) -> None:
        """Say that we offer the name, now and until `withdraw`."""

    def withdraw(self, key: bytes) -> None:
        """Do not say so again."""
