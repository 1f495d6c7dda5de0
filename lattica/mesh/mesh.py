"""The mesh: reach any peer by its peer ID."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from lattica.background import Background, background_tasks
from lattica.errors import NetworkError, PeerUnreachableError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.gateway import LivePipe, PipeTable, Route, SocketNames
from lattica.mesh.links import Link, Links
from lattica.mesh.listener import Listener, open_listener
from lattica.mesh.paths import Candidate, CandidateKind, PathInfo, dial_order, host_candidates, is_local
from lattica.mesh.pipes import OpenPipe, accept_pipe, describe, dial_first
from lattica.mesh.ports import PeerFinder
from lattica.mesh.preface import MAGIC, LinkRefusedError
from lattica.mesh.race import race
from lattica.swarm import Direction, Swarm

logger = logging.getLogger(__name__)

LIBP2P_FIRST_BYTE = 0x13
"""Length of the multistream header line, which opens every libp2p connection."""
LINK_TIMEOUT_S = 10.0
"""Seconds that a connected peer has to answer a link request."""
RENEW_STAGGER_S = 1.0
"""Seconds after which an old link's addresses have had their chance, and the peer is looked for anew as well."""
MAX_BOOK = 10_000
"""Peers whose addresses, and links, are remembered."""
MAX_BOOK_ADDRESSES = 32
"""Addresses remembered of one peer; new ones displace old ones."""
MAX_PIPES = 4096
"""Inbound pipes of a node."""
MAX_PIPES_PER_PEER = 64
"""Inbound pipes of one peer. A peer needs one for each channel, and a second while paths change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeStatus:
    """One live pipe.

    Attributes:
        path: Where it leads; ``None`` if the peer opened it.
        since: When it was joined, in seconds of `time.monotonic`.
        sent: Bytes to the peer.
        received: Bytes from the peer.
    """

    path: PathInfo | None
    since: float
    sent: int
    received: int


class AddressBook:
    """Addresses of peers, from whoever told us; bounded, most recently told first."""

    def __init__(self) -> None:
        self._book: OrderedDict[PeerId, dict[str, PeerAddress]] = OrderedDict()

    def add(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> None:
        """Remember addresses."""
        known = self._book.setdefault(peer, {})
        self._book.move_to_end(peer)
        for address in addresses:
            known.pop(address.text, None)
            known[address.text] = address
        for oldest in list(known)[:-MAX_BOOK_ADDRESSES]:
            del known[oldest]
        while len(self._book) > MAX_BOOK:
            self._book.popitem(last=False)

    def of(self, peer: PeerId) -> list[PeerAddress]:
        """What we know, newest first."""
        return list(self._book.get(peer, {}).values())[::-1]


class Mesh:
    """Control connections, links, and pipes to peers; made by `open_mesh`.

    Attributes:
        addresses: Multiaddrs at which we listen.
    """

    def __init__(self, key: IdentityKey, swarm: Swarm, runtime: Path, tasks: Background, table: PipeTable) -> None:
        self.peer_id = key.peer_id
        self.links = Links(key, swarm, lambda: self.candidates)
        self.candidates: list[Candidate] = []
        self.finder: PeerFinder | None = None
        self._swarm = swarm
        self._tasks = tasks
        self._table = table
        self._names = SocketNames(runtime)
        self._book = AddressBook()
        self._client_links: dict[PeerId, Link] = {}
        self._locks: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()
        self._proven: dict[PeerId, PeerAddress] = {}
        self._server_path: Path | None = None
        self._listener: Listener

    # Serving

    @property
    def port(self) -> int:
        """The node's one port."""
        return self._listener.port

    @property
    def addresses(self) -> list[PeerAddress]:
        """Where we listen, with our peer ID."""
        return [candidate.address.with_peer(self.peer_id) for candidate in self.candidates]

    async def bind(self, listener: Listener, announce: Sequence[PeerAddress]) -> None:
        """Work out where we can be reached: our interfaces, and what the operator says."""
        self._listener = listener
        public = [Candidate(a.host, a.port, CandidateKind.PUBLIC) for a in announce if a.is_tcp]
        self.candidates = host_candidates(listener.host, listener.port) + public
        self.links.serve()
        await self._swarm.advertise(self.addresses)

    def start(self, server: Path) -> None:
        """Take connections from now on; inbound pipes are joined with the gRPC server on the unix socket ``server``.

        To be called when every protocol is served: peers ask only once, when they connect, what we serve.
        """
        self._server_path = server
        self._listener.start()

    async def accept_libp2p(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Route of the listener: a libp2p connection."""
        await self._swarm.adopt(socket.socket(fileno=sock.detach()), remote)

    async def accept_pipe(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Route of the listener: a pipe."""
        peer, server = await accept_pipe(sock, self.links.office, self._connect_server)
        logger.debug("pipe accepted peer=%s remote=%s", peer, remote)
        self._table.join(server, sock, LivePipe(peer, None), lambda: None)

    async def _connect_server(self, peer: PeerId) -> socket.socket:
        if self._server_path is None or self._table.count >= MAX_PIPES:
            raise NetworkError("the node takes no pipes now")
        if len(self._table.of(peer)) >= MAX_PIPES_PER_PEER:
            raise NetworkError(f"{peer} has {MAX_PIPES_PER_PEER} pipes open")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(self._server_path))
        except OSError as error:
            sock.close()
            raise NetworkError("the node is closing") from error
        except BaseException:
            sock.close()
            raise
        return sock

    # Reaching peers

    def add_addresses(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> None:
        """Remember where a peer may be reached."""
        self._book.add(peer, addresses)

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
                await self._connect(peer, attempts)
        except TimeoutError as error:
            raise PeerUnreachableError(peer, attempts) from error

    async def open_route(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> Route:
        """A gRPC target that leads to ``peer``, with a pipe ready behind it; the arguments are `open_pipe`'s.

        Raises:
            PeerUnreachableError: With everything that was tried.
        """
        opened = await self.open_pipe(peer, timeout=timeout, attempts=attempts)
        try:
            return Route(
                self._names.next(),
                opened,
                self._client_links[peer],
                self._table,
                self._tasks,
                lambda attempts: self.open_pipe(peer, attempts=attempts),
            )
        except (OSError, RuntimeError) as error:  # no file descriptors are left; the mesh is closing
            opened.sock.close()
            raise PeerUnreachableError(peer, {"gateway": describe(error)}) from error

    async def open_pipe(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> OpenPipe:
        """A new pipe over the best path that works.

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
                pipe = await self._open_pipe(peer, attempts)
        except TimeoutError as error:
            raise PeerUnreachableError(peer, attempts) from error
        self._proven[peer] = pipe.path.remote
        _forget_oldest(self._proven)
        return pipe

    def paths(self, peer: PeerId) -> list[PipeStatus]:
        """The live pipes to and from ``peer``, oldest first."""
        return [
            PipeStatus(
                path=pipe.path,
                since=pipe.since,
                sent=pipe.pair.sent if pipe.pair else 0,
                received=pipe.pair.received if pipe.pair else 0,
            )
            for pipe in self._table.of(peer)
        ]

    def path_to(self, peer: PeerId) -> PathInfo | None:
        """The path of the newest pipe that we opened to ``peer``."""
        return next((pipe.path for pipe in reversed(self._table.of(peer)) if pipe.path), None)

    async def _open_pipe(self, peer: PeerId, attempts: dict[str, str]) -> OpenPipe:
        link, now = self._client_links.get(peer), time.monotonic()
        if link is None or now >= link.expires_at:
            ways = [partial(self._dial_anew, peer, link, attempts)]
        else:
            # If it does not answer there it has moved, or is another process by now, or is gone: ask it again.
            ways = [partial(self._dial, peer, link, attempts), partial(self._dial_anew, peer, link, attempts)]
            if not link.is_fresh(now):
                ways.reverse()
        pipe = await race(ways, stagger=RENEW_STAGGER_S, discard=lambda late: late.sock.close())
        if pipe is None:
            raise PeerUnreachableError(peer, attempts)
        return pipe

    async def _dial(self, peer: PeerId, link: Link, attempts: dict[str, str]) -> OpenPipe | None:
        with contextlib.suppress(LinkRefusedError):  # told in ``attempts``
            return await dial_first(link, self._dial_order(peer, link), attempts)
        return None

    async def _dial_anew(self, peer: PeerId, stale: Link | None, attempts: dict[str, str]) -> OpenPipe | None:
        """Dial with a link newer than ``stale``."""
        try:
            link = await self._new_link(peer, attempts, stale)
        except PeerUnreachableError:  # told in ``attempts``, too
            return None
        return await self._dial(peer, link, attempts)

    def _dial_order(self, peer: PeerId, link: Link) -> list[PeerAddress]:
        connections = [info for info in self._swarm.connections() if info.peer_id == peer]
        proven = [self._proven[peer]] if peer in self._proven else []
        proven += [info.remote for info in connections if info.direction is Direction.OUTBOUND]
        same_host = any(is_local(address.host) for address in [*proven, *(info.remote for info in connections)])
        return dial_order(proven, link.candidates, same_host=same_host)

    async def _new_link(self, peer: PeerId, attempts: dict[str, str], stale: Link | None) -> Link:
        lock = self._locks.setdefault(peer, asyncio.Lock())
        attempts["link"] = "another attempt is asking for it"
        async with lock:
            del attempts["link"]
            current = self._client_links.get(peer)
            if current is not None and current is not stale and current.is_fresh(time.monotonic()):
                return current
            link = await self._request_link(peer, attempts)
            self._client_links[peer] = link
            _forget_oldest(self._client_links)
            return link

    async def _request_link(self, peer: PeerId, attempts: dict[str, str]) -> Link:
        """Connect and ask for a link; once more if the connection that we had turns out to be lost."""
        for last in (False, True):
            await self._connect(peer, attempts)
            attempts["link"] = "not granted yet"
            try:
                async with asyncio.timeout(LINK_TIMEOUT_S):
                    link = await self.links.request(peer)
            except TimeoutError:
                attempts["link"] = f"no answer within {LINK_TIMEOUT_S:.0f} s"
                await self._disconnect(peer)
                break
            except NetworkError as error:
                attempts["link"] = str(error)
                if last or not isinstance(error, StreamError):
                    break
                await self._disconnect(peer)
            else:
                del attempts["link"]
                return link
        raise PeerUnreachableError(peer, attempts)

    async def _disconnect(self, peer: PeerId) -> None:
        """Give up a connection that may be lost without having noticed, so that the next attempt dials."""
        with contextlib.suppress(StreamError):  # the swarm is closing
            await self._swarm.disconnect(peer)

    async def _connect(self, peer: PeerId, attempts: dict[str, str]) -> None:
        known = self._known_addresses(peer)
        if await self._dial_control(peer, known, attempts):  # at once if there is a connection
            return
        if self.finder is None:
            raise PeerUnreachableError(peer, attempts)
        attempts["dht"] = "no answer yet"
        try:
            found = await self.finder.find_peer(peer)
        except PeerUnreachableError as error:
            attempts["dht"] = "; ".join(error.attempts.values()) or "nobody knows the peer"
            raise PeerUnreachableError(peer, attempts) from error
        except NetworkError as error:
            attempts["dht"] = str(error)
            raise PeerUnreachableError(peer, attempts) from error
        del attempts["dht"]
        self._book.add(peer, found)
        tried = {address.text for address in known}
        fresh = [address for address in found if address.text not in tried]
        if not fresh or not await self._dial_control(peer, fresh, attempts):
            raise PeerUnreachableError(peer, attempts)

    def _known_addresses(self, peer: PeerId) -> list[PeerAddress]:
        info = self._swarm.peer_info(peer)
        known = self._book.of(peer) + list(info.addresses if info else ())
        return list({address.text: address for address in known}.values())

    async def _dial_control(self, peer: PeerId, addresses: list[PeerAddress], attempts: dict[str, str]) -> bool:
        attempts.update({address.text: "no answer yet" for address in addresses})
        try:
            await self._swarm.connect(peer, addresses)
        except PeerUnreachableError as error:
            attempts.update(error.attempts)
            return False
        except StreamError as error:
            attempts["swarm"] = str(error)
            return False
        for address in addresses:
            attempts.pop(address.text, None)
        return True


def _forget_oldest(by_peer: dict[PeerId, Any]) -> None:
    while len(by_peer) > MAX_BOOK:
        del by_peer[next(iter(by_peer))]


@contextlib.asynccontextmanager
async def open_mesh(
    key: IdentityKey,
    swarm: Swarm,
    *,
    host: str,
    port: int,
    runtime: Path,
    announce: Sequence[PeerAddress] = (),
    splice: bool | None = None,
) -> AsyncIterator[Mesh]:
    """The mesh of one node, bound to its one port; `Mesh.start` opens it.

    Args:
        key: Our identity.
        swarm: Our control plane.
        host: IP address to bind: ``0.0.0.0``, ``::`` (both families) or one of the machine's.
        port: TCP port; 0 for any free one.
        runtime: A private folder with a short path, for unix sockets.
        announce: Further addresses at which we can be reached, as the operator knows.
        splice: False to move bytes through Python; for tests and systems without `os.splice`.

    Raises:
        PortInUseError: Another program listens there.
        ConfigError: The address is not this machine's.
    """
    table = PipeTable(asyncio.get_running_loop(), splice=splice)
    try:
        async with background_tasks() as tasks:
            mesh = Mesh(key, swarm, runtime, tasks, table)
            routes = {LIBP2P_FIRST_BYTE: mesh.accept_libp2p, MAGIC[0]: mesh.accept_pipe}
            async with open_listener(host, port, routes) as listener:
                await mesh.bind(listener, announce)
                yield mesh
    finally:
        table.close()
