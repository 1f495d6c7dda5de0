"""The mesh: reach any peer by its peer ID."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lattica.background import Background
from lattica.errors import NetworkError, PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.events import PathEvent, PathEventKind, PathEvents
from lattica.mesh.gateway import GatewayRoute, SocketNames
from lattica.mesh.inbound import Inbound
from lattica.mesh.link_table import LinkTable
from lattica.mesh.links import Links
from lattica.mesh.listener import Listener
from lattica.mesh.live_pipes import LivePipe, PipeTable
from lattica.mesh.native import NativePorts
from lattica.mesh.opener import Opener
from lattica.mesh.paths import Candidate, PathInfo, control_order
from lattica.mesh.pipes import OpenPipe, describe
from lattica.mesh.ports import PeerFinder
from lattica.mesh.reach import Reach
from lattica.mesh.relay_role import RelayRole
from lattica.mesh.route import Route
from lattica.mesh.tcp_info import tcp_info
from lattica.mesh.ways import Ways
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)

CONTROL_CHECK_S = 3.0
"""Seconds that a control connection has to answer a ping when a pipe to the same peer has stalled."""
REPLACE_TIMEOUT_S = 20.0
"""Seconds to find a path in place of one that has stalled; that one is given up by TCP after 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeStatus:
    """One live pipe.

    Attributes:
        path: Where it leads; ``None`` if the peer opened it.
        since: When it was joined, in seconds of `time.monotonic`.
        sent: Bytes to the peer; on a native connection those that it has acknowledged.
        received: Bytes from the peer.
        rtt: Round trip of its TCP connection in seconds (to the relay, if there is one); ``None`` if not known.
        is_stalled: Whether what we send is not acknowledged at present.
    """

    path: PathInfo | None
    since: float
    sent: int
    received: int
    rtt: float | None = None
    is_stalled: bool = False


class Mesh:
    """Control connections, links, and pipes to peers; made by `open_mesh`.

    Attributes:
        peer_id: Who we are.
        links: Asks for links and grants them.
        reach: How others reach us.
        book: What we were told of where peers are.
    """

    def __init__(
        self,
        swarm: Swarm,
        links: Links,
        link_table: LinkTable,
        ways: Ways,
        reach: Reach,
        role: RelayRole,
        inbound: Inbound,
        listener: Listener,
        table: PipeTable,
        runtime: Path,
        tasks: Background,
    ) -> None:
        self.peer_id = swarm.key.peer_id
        self._role = role
        self._inbound = inbound
        self._listener = listener
        self.links = links
        self.reach = reach
        self.book = link_table.book
        self._swarm = swarm
        self._link_table = link_table
        self._table = table
        self._tasks = tasks
        self._names = SocketNames(runtime)
        self._opener = Opener(
            ways, link_table, wanted=self._wants_better, found=self._found, failed=self._failed, tasks=tasks
        )
        self._native = NativePorts(
            link_table,
            table,
            on_opened=self._route_opened,
            on_joined=self._joined,
            on_lost=self._lost,
            on_closed=self._route_closed,
        )
        self._routes: dict[PeerId, set[Route]] = {}
        self._replacing: set[PeerId] = set()
        self._events = PathEvents()

    # Where we are

    @property
    def addresses(self) -> list[PeerAddress]:
        """Multiaddrs at which we listen, and those through our relays, with our peer ID."""
        return self.reach.addresses

    @property
    def candidates(self) -> list[Candidate]:
        """Where our port may be reached."""
        return self.reach.candidate_list

    @property
    def port(self) -> int:
        """The node's one port."""
        return self._listener.port

    @property
    def relayed(self) -> int:
        """Circuits and pipes that we carry for others at present."""
        return self._role.relayed

    @property
    def finder(self) -> PeerFinder | None:
        """Finds addresses of peers that we know only by ID; for the node to set."""
        return self._link_table.finder

    @finder.setter
    def finder(self, finder: PeerFinder | None) -> None:
        self._link_table.finder = finder

    def start(self, server: Path, *, native_port: int = 0) -> None:
        """Take connections from now on; inbound pipes are joined with the gRPC server on the unix socket ``server``.

        Peers are told of its ``native_port``, where it takes connections itself; 0 if there is none. To be called when
        every protocol is served: peers ask only once, when they connect, what we serve.
        """
        self._inbound.server = server
        self.reach.native_port = native_port
        self._listener.start()

    # Reaching peers

    def add_addresses(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> None:
        """Remember where a peer may be reached."""
        self.book.add(peer, addresses)

    def control_order(self, addresses: Sequence[PeerAddress]) -> list[PeerAddress]:
        """A peer's addresses as `Swarm.connect` should try them, without those that mean ourselves here."""
        return control_order(addresses, self.candidates)

    async def connect(self, peer: PeerId, *, timeout: float | None = None) -> None:
        """Have a control connection to ``peer``.

        Args:
            peer: Whom.
            timeout: Seconds; ``None`` leaves the deadline to the caller.

        Raises:
            PeerUnreachableError: With everything that was tried.
        """
        attempts: dict[str, str] = {}
        try:
            async with asyncio.timeout(timeout):
                await self._link_table.connect(peer, attempts)
        except TimeoutError as error:
            raise PeerUnreachableError(peer, attempts) from error

    async def open_route(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> GatewayRoute:
        """A gRPC target that leads to ``peer``, with a pipe ready behind it; the arguments are `open_pipe`'s.

        Raises:
            PeerUnreachableError: With everything that was tried.
        """
        opened = await self.open_pipe(peer, timeout=timeout, attempts=attempts)
        link = self._link_table.get(peer)
        try:
            if link is None:  # forgotten meanwhile
                raise RuntimeError("the link was lost")
            route = GatewayRoute(
                self._names.next(),
                opened,
                link,
                self._table,
                self._tasks,
                lambda attempts: self.open_pipe(peer, attempts=attempts),
                self._native.wait_route,
                on_joined=self._joined,
                on_lost=self._lost,
                on_closed=self._route_closed,
            )
        except (OSError, RuntimeError) as error:  # no file descriptors are left; the mesh is closing
            opened.sock.close()
            raise PeerUnreachableError(peer, {"gateway": describe(error)}) from error
        self._route_opened(route)
        return route

    async def open_pipe(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> OpenPipe:
        """A new pipe over the best path that works at once; better ones are looked for in the background.

        Args:
            peer: Whom.
            timeout: Seconds; ``None`` leaves the deadline to the caller.
            attempts: Gets, while that goes on, what is being tried and how it failed.

        Raises:
            PeerUnreachableError: With everything that was tried, and what had not answered in time.
        """
        attempts = {} if attempts is None else attempts
        try:
            async with asyncio.timeout(timeout):
                return await self._opener.open(peer, attempts)
        except TimeoutError as error:
            raise PeerUnreachableError(peer, attempts) from error

    # What is known of paths

    def paths(self, peer: PeerId) -> list[PipeStatus]:
        """The live pipes to and from ``peer``, oldest first."""
        return [_status(pipe) for pipe in self._table.of(peer)]

    def peers_with_paths(self) -> list[PeerId]:
        """Peers with a live pipe."""
        return self._table.peers()

    def path_to(self, peer: PeerId) -> PathInfo | None:
        """The path of the newest pipe that we opened to ``peer``."""
        return next((pipe.path for pipe in reversed(self._table.of(peer)) if pipe.path), None)

    def path_failures(self, peer: PeerId) -> Mapping[str, str]:
        """Why there is no better path to ``peer``: what was tried last, how it failed; empty if nothing was."""
        return self._opener.searches.failures(peer)

    def watch_paths(self) -> AbstractContextManager[AsyncIterator[PathEvent]]:
        """What happens to the paths to all peers, from now on: ``with mesh.watch_paths() as events: async for …``.

        A reader that is slower than the events loses the oldest, and is told how many.
        """
        return self._events.subscribe()

    # Change

    def _joined(self, pipe: LivePipe) -> None:
        self._emit(PathEventKind.OPENED, pipe)

    def _lost(self, pipe: LivePipe) -> None:
        self._emit(PathEventKind.CLOSED, pipe)

    def _route_opened(self, route: Route) -> None:
        self._routes.setdefault(route.peer_id, set()).add(route)

    def _route_closed(self, route: Route) -> None:
        routes = self._routes.get(route.peer_id, set())
        routes.discard(route)
        if not routes:
            self._routes.pop(route.peer_id, None)

    def _wants_better(self, peer: PeerId) -> bool:
        ours = [pipe for pipe in self._table.of(peer) if pipe.path is not None]
        return bool(ours) and not any(p.path and p.path.kind.is_direct and not p.is_stalled for p in ours)

    def _found(self, pipe: OpenPipe) -> None:
        """A pipe is ready that nobody waits for: move new calls to it."""
        worse = [
            route
            for route in self._routes.get(pipe.path.peer_id, ())
            if (current := route.path) is None or current.kind.rank > pipe.path.kind.rank
        ]
        if worse:  # a path that was stalled may be back
            self._events.emit(PathEvent(peer_id=pipe.path.peer_id, kind=PathEventKind.BETTER, path=pipe.path))
        for route in worse:
            route.supersede()

    def _failed(self, peer: PeerId, attempts: Mapping[str, str]) -> None:
        reason = "; ".join(f"{what}: {why}" for what, why in attempts.items())
        self._events.emit(PathEvent(peer_id=peer, kind=PathEventKind.FAILED, reason=reason))

    def pipe_stalled(self, pipe: LivePipe) -> None:
        """Nothing arrives any more on a pipe of ours: find another path before it is lost."""
        self._emit(PathEventKind.STALLED, pipe)
        self._native.stalled(pipe)
        if pipe.peer_id not in self._replacing:
            self._replacing.add(pipe.peer_id)
            task = self._tasks.start_unless_ending(self._replace(pipe.peer_id))
            if task is not None:
                task.add_done_callback(lambda _: self._replacing.discard(pipe.peer_id))

    def pipe_recovered(self, pipe: LivePipe) -> None:
        """It does again."""
        for route in self._routes.get(pipe.peer_id, ()):
            route.recovered()
        self._emit(PathEventKind.RECOVERED, pipe)

    async def _replace(self, peer: PeerId) -> None:
        check = self._tasks.start(self._check_control(peer))
        try:
            pipe = await self.open_pipe(peer, timeout=REPLACE_TIMEOUT_S)
        except PeerUnreachableError as error:
            self._failed(peer, error.attempts)
        else:
            self._opener.searches.offer(pipe)
        await asyncio.wait([check])

    async def _check_control(self, peer: PeerId) -> None:
        """A control connection by the same way may be lost, too, and not have noticed."""
        try:
            async with asyncio.timeout(CONTROL_CHECK_S):
                await self._swarm.ping(peer)
        except (NetworkError, TimeoutError):
            await self._link_table.disconnect(peer)

    def _emit(self, kind: PathEventKind, pipe: LivePipe) -> None:
        logger.debug(
            "path %s peer=%s path=%s", kind.value, pipe.peer_id, pipe.path.kind.value if pipe.path else "inbound"
        )
        self._events.emit(PathEvent(peer_id=pipe.peer_id, kind=kind, path=pipe.path))

    def close(self) -> None:
        """Close the pipes that nobody has taken."""
        self._opener.searches.close()


def _status(pipe: LivePipe) -> PipeStatus:
    info = tcp_info(pipe.carrier.far) if pipe.carrier else None
    return PipeStatus(
        path=pipe.path,
        since=pipe.since,
        sent=pipe.carrier.sent if pipe.carrier else 0,
        received=pipe.carrier.received if pipe.carrier else 0,
        rtt=info.rtt if info else None,
        is_stalled=pipe.is_stalled,
    )
