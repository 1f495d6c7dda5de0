"""Routes that leave the gateways out: gRPC dials the peer's native port itself, where a pipe has shown that it may."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

from lattica.errors import PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.grpc_socket import CAN_FIND, GrpcSocket, GrpcSockets
from lattica.mesh.link_table import LinkTable, forget_oldest
from lattica.mesh.links import Link
from lattica.mesh.live_pipes import LivePipe, PipeTable
from lattica.mesh.paths import PathInfo, PathKind
from lattica.mesh.route import Route

logger = logging.getLogger(__name__)

REFUSED_PAUSE_S = 300.0
"""Seconds until a native port is tried again that could not be reached: a firewall stays for longer than that."""
LOST_PAUSE_S = 30.0
"""The same for a connection that was lost, or has stalled: what ends connections should not have calls move all the
time."""
MAX_PAUSES = 1024
"""Native ports that we remember not to try; of more the oldest are forgotten."""
RENEW_TIMEOUT_S = 10.0
"""Seconds for asking a peer again where its native port is."""

Port = tuple[PeerId, str, int]
"""Whose, on which IP address, and its number."""


class NativeRoute(Route):
    """Leads to a peer's native port; made by `NativePorts`, whose turn it has until it is connected, refused or closed.

    Args:
        port: Where.
        path: That of the pipe that has shown that the peer is at that address.
        link: To the peer.
        ports: Who keeps account.
        turn: Held by us.
    """

    def __init__(self, port: Port, path: PathInfo, link: Link, ports: NativePorts, turn: asyncio.Lock) -> None:
        _, host, number = port
        target = f"ipv6:[{host}]:{number}" if ":" in host else f"ipv4:{host}:{number}"
        super().__init__(
            target, link, on_joined=ports.on_joined, on_lost=ports.on_lost, on_closed=lambda _: ports.on_closed(self)
        )
        self.port = port
        self.link = link
        self._path = path
        self._ports = ports
        self._turn: asyncio.Lock | None = turn
        self._socket: GrpcSocket | None = None
        self._pipe: LivePipe | None = None

    def connected(self) -> None:
        """Say that gRPC is connected: from now on its connection is looked after.

        Raises:
            PeerUnreachableError: It cannot be, so it must not be used.
        """
        peer, host, number = self.port
        found = self._ports.find(host, number)
        if found is None:
            raise PeerUnreachableError(peer, {self.target: "the connection is not to be found in this process"})
        self._settle()
        info = found.info
        path = PathInfo(
            peer_id=peer,
            kind=self._path.kind,
            remote=PeerAddress.tcp(host, number),
            since=time.monotonic(),
            rtt=info.rtt if info else self._path.rtt,
        )
        self._socket, self._pipe = found, LivePipe(peer, path, carrier=found)
        self._ports.hold(self, self._pipe)
        self._joined(self._pipe)

    def refused(self, reason: str) -> None:
        """Say that gRPC cannot connect: it is not tried there again for `REFUSED_PAUSE_S`."""
        logger.debug("native port refused peer=%s target=%s reason=%s", self.peer_id, self.target, reason)
        self._settle()
        self._ports.failed(self.port, REFUSED_PAUSE_S, self.link)

    def lost(self) -> None:
        """Say that gRPC has lost the connection, or that the peer will end it: no new calls go there."""
        self._ports.failed(self.port, LOST_PAUSE_S, self.link)
        if self._socket is not None and not self._socket.is_open:
            self._end()

    @property
    def has_pipe(self) -> bool:
        """Whether the connection is up."""
        return self._socket is not None and self._socket.is_open

    def close(self) -> None:
        """Free what it holds; its gRPC channel is closed."""
        self._settle()
        self._end()
        super().close()

    async def wait_native(self) -> NativeRoute | None:
        """Nothing leads to the peer more directly."""
        return None

    def _settle(self) -> None:
        """Let the next one dial."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    def _end(self) -> None:
        found, pipe = self._socket, self._pipe
        self._socket = self._pipe = None
        if found is not None and pipe is not None:
            self._ports.release(pipe, found)
            self._lost(pipe)


class NativePorts:
    """Which peers' native ports are worth dialling, and which connections there are.

    Args:
        links: Tell the ports.
        table: Gets the connections, as pipes.
        on_opened: Called with a route that carries calls from now on.
        on_joined: Called with its pipe.
        on_lost: Called when that has ended.
        on_closed: Called with a route that is closed.
    """

    def __init__(
        self,
        links: LinkTable,
        table: PipeTable,
        *,
        on_opened: Callable[[Route], None],
        on_joined: Callable[[LivePipe], None],
        on_lost: Callable[[LivePipe], None],
        on_closed: Callable[[Route], None],
    ) -> None:
        self.on_joined, self.on_lost, self.on_closed = on_joined, on_lost, on_closed
        self._links = links
        self._table = table
        self._on_opened = on_opened
        self._retry_at: dict[Port, float] = {}
        self._doubted: dict[PeerId, Link] = {}
        self._turns: WeakValueDictionary[Port, asyncio.Lock] = WeakValueDictionary()
        self._routes: dict[LivePipe, NativeRoute] = {}
        self._sockets = GrpcSockets()

    async def wait_route(self, gateway: Route) -> NativeRoute | None:
        """A route to the native port of the peer to whom ``gateway`` leads; ``None`` if there is none that way.

        Waits while that is not worth trying. One route to an address at a time waits to be connected.
        """
        while CAN_FIND:
            await self._renew(gateway.peer_id)
            path, link = await gateway.wait_path(), self._links.get(gateway.peer_id)
            port = None if link is None else native_port(path, link)
            if link is None or port is None:
                return None
            turn = self._turns.setdefault(port, asyncio.Lock())
            await turn.acquire()
            pause = self._retry_at.get(port, 0.0) - time.monotonic()
            if pause <= 0.0:
                return NativeRoute(port, path, link, self, turn)
            turn.release()
            await asyncio.sleep(pause)
        return None

    async def _renew(self, peer: PeerId) -> None:
        """Ask a peer for a new link if its native port has disappointed: it may have another one since."""
        link = self._doubted.pop(peer, None)
        if link is None or self._links.get(peer) is not link:
            return
        try:
            async with asyncio.timeout(RENEW_TIMEOUT_S):
                await self._links.renew(peer, {}, link)
        except (PeerUnreachableError, TimeoutError) as error:
            logger.debug("native port not asked for peer=%s reason=%s", peer, error)

    # For routes

    def find(self, host: str, number: int) -> GrpcSocket | None:
        """The connection to an address that no route has yet."""
        try:
            return self._sockets.find((host, number))
        except OSError:  # it has ended by now, or there are no descriptors left
            return None

    def hold(self, route: NativeRoute, pipe: LivePipe) -> None:
        """Have a route's connection watched."""
        self._routes[pipe] = route
        self._table.add(pipe)
        self._on_opened(route)

    def release(self, pipe: LivePipe, found: GrpcSocket) -> None:
        """Forget it: it has ended, or will now."""
        del self._routes[pipe]
        self._sockets.release(found)
        self._table.remove(pipe)

    def stalled(self, pipe: LivePipe) -> None:
        """Nothing arrives any more on a pipe; if it is one of ours, calls come back to its port only after a while."""
        route = self._routes.get(pipe)
        if route is not None:
            self._pause(route.port, LOST_PAUSE_S)

    def failed(self, port: Port, pause: float, link: Link) -> None:
        """Do not try a port for some seconds, and doubt that the link still tells the right one."""
        self._pause(port, pause)
        self._doubted[port[0]] = link
        forget_oldest(self._doubted)

    def _pause(self, port: Port, seconds: float) -> None:
        self._retry_at.pop(port, None)
        self._retry_at[port] = time.monotonic() + seconds
        while len(self._retry_at) > MAX_PAUSES:
            del self._retry_at[next(iter(self._retry_at))]


def native_port(path: PathInfo, link: Link) -> Port | None:
    """Where gRPC may dial a peer to whom a pipe took a path; ``None`` if it should not.

    Only where the pipe has dialled the peer's own port: there the address proved to be the peer's. What a name means
    may change, and an IPv6 address of the link means nothing without its zone, so these are left out.
    """
    if path.kind not in {PathKind.LAN, PathKind.DIRECT} or not link.native_port:
        return None
    try:
        ip = ipaddress.ip_address(path.remote.host)
    except ValueError:
        return None
    if ip.version == 6 and ip.is_link_local:
        return None
    return link.peer_id, str(ip), link.native_port
