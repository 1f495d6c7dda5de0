"""The libp2p host, in trio: its connections, direct and through relays, the protocols that it serves, ping."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import trio

from lattica.errors import NetworkError, PeerUnreachableError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm.connection import Connection, ConnectionInfo, Direction, InboundHandler
from lattica.swarm.dialing import connect_tcp, dialable, race
from lattica.swarm.identify import IDENTIFY, PUSH, PeerInfo
from lattica.swarm.identify_service import IdentifyService
from lattica.swarm.mux import MuxStream
from lattica.swarm.raw import RawConnection, SocketConnection
from lattica.swarm.relay_client import RelayClient
from lattica.swarm.relay_server import RelayServer
from lattica.swarm.relay_table import RelayLimits
from lattica.swarm.relay_wire import HOP, STOP
from lattica.swarm.transport import Upgrader, configure_socket

logger = logging.getLogger(__name__)

PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
PING_TIMEOUT_S = 10.0
"""Seconds for one ping; the reference implementations use 10 s or more."""
MAX_CONNECTIONS = 1024
"""Control connections of one node; an inbound one above that is refused."""
MAX_CONNECTIONS_PER_PEER = 4
"""Connections to one peer that are kept; a newer one displaces the oldest, a relayed one first."""
PROVE_TIMEOUT_S = 2.0
"""Seconds that an older connection has to answer when its peer has connected anew: mostly that is because its NAT or
its address has changed, and what waits for the old one waits in vain. A busy peer takes a few tenths."""
MAX_UPGRADES = 64
"""Inbound connections in their handshakes at one time; further ones wait. Sockets and circuits have as many each."""


class Host:
    """All control connections of one node. Lives in the trio thread; its nursery owns every connection."""

    def __init__(
        self,
        key: IdentityKey,
        nursery: trio.Nursery,
        *,
        on_connected: Callable[[ConnectionInfo], None],
        on_disconnected: Callable[[ConnectionInfo], None],
        on_identified: Callable[[PeerInfo], None],
        on_pushed: Callable[[PeerInfo], None],
    ) -> None:
        self.key = key
        self.handlers: dict[str, InboundHandler] = {PING: _serve_ping}
        self.identify = IdentifyService(
            key, self.handlers, peers=self._newest, on_identified=on_identified, on_pushed=on_pushed
        )
        self.relays = RelayClient(
            key.peer_id,
            connection_to=self.direct_connection_to,
            has_room=self._has_room,
            take_circuit=self._take_circuit,
        )
        self.relay: RelayServer | None = None
        self.handlers |= {
            IDENTIFY: self.identify.serve,
            PUSH: self.identify.serve_push,
            STOP: self.relays.serve_stop,
        }
        self._nursery = nursery
        self._upgrader = Upgrader(key)
        self._connections: dict[PeerId, list[Connection]] = {}
        self._dials: dict[tuple[PeerId, bool], trio.Lock] = {}
        self._relay_dials: dict[tuple[PeerId, bool], trio.Lock] = {}
        self._upgrades = trio.Semaphore(MAX_UPGRADES)
        self._circuit_upgrades = trio.Semaphore(MAX_UPGRADES)
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        nursery.start_soon(self.identify.run_pushes)

    # Connections

    def connections(self) -> list[ConnectionInfo]:
        """All open connections."""
        return [one.info for many in self._connections.values() for one in many if one.is_open]

    def connection_to(self, peer: PeerId) -> Connection | None:
        """The newest open connection to ``peer``, a direct one if there is one."""
        relayed = (one for one in reversed(self._connections.get(peer, ())) if one.is_open)
        return self.direct_connection_to(peer) or next(relayed, None)

    def direct_connection_to(self, peer: PeerId) -> Connection | None:
        """The newest open connection to ``peer`` that no relay carries."""
        mine = reversed(self._connections.get(peer, ()))
        return next((one for one in mine if one.is_open and one.info.relay is None), None)

    def _newest(self) -> list[Connection]:
        found = map(self.connection_to, self._connections)
        return [connection for connection in found if connection is not None]

    def _has_room(self) -> bool:
        return sum(map(len, self._connections.values())) < MAX_CONNECTIONS

    async def adopt(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Take over an inbound socket whose first bytes are a multistream header (still unread)."""
        adopted = False
        try:
            async with self._upgrades:  # whoever gives us sockets bounds how many wait here
                if not self._has_room():
                    logger.warning("inbound connection refused remote=%s connections=%d", remote, MAX_CONNECTIONS)
                    return
                configure_socket(sock)
                raw = SocketConnection(sock, initiator=False, remote=remote)
                adopted = True  # from here on it is closed through `raw`, or trio would not learn of it
                await self._add(raw, None, remote, Direction.INBOUND)
        except (NetworkError, OSError) as error:
            logger.info("inbound connection dropped remote=%s reason=%s", remote, error)
        finally:
            if not adopted:
                sock.close()

    async def _take_circuit(self, raw: RawConnection, remote: PeerAddress, peer: PeerId) -> None:
        """A circuit that a relay brings us; it says that ``peer`` is at its other end."""
        async with self._circuit_upgrades:
            await self._add(raw, peer, remote, Direction.INBOUND)

    async def connect(self, peer: PeerId, addresses: Sequence[PeerAddress], *, direct: bool = False) -> ConnectionInfo:
        """An open connection to ``peer``: the one we have, or the first that a race over ``addresses`` makes.

        With ``direct``, relayed connections do not count and circuit addresses are not dialled.

        Raises:
            PeerUnreachableError: With the reason for each address.
        """
        if peer == self.key.peer_id:
            raise PeerUnreachableError(peer, {"self": "that is this node itself"})
        async with _turn(self._dials, (peer, direct)):
            existing = self.direct_connection_to(peer) if direct else self.connection_to(peer)
            if existing is not None:
                return existing.info
            candidates = dialable(self.key.peer_id, peer, addresses, direct=direct)
            connection, failures = await race(lambda address: self._dial(peer, address), candidates)
        if connection is None:
            reason = "not a TCP address of this peer" + ("" if direct else ", nor a circuit to it")
            failures |= {address.text: reason for address in addresses if address not in candidates}
            raise PeerUnreachableError(peer, failures)
        return connection.info

    async def _dial(self, peer: PeerId, address: PeerAddress) -> Connection:
        if address.relay is not None:
            return await self._dial_circuit(peer, address, address.relay)
        sock = await connect_tcp(address)
        configure_socket(sock)
        raw = SocketConnection(sock, initiator=True, remote=address)
        return await self._add(raw, peer, address, Direction.OUTBOUND)

    async def _dial_circuit(self, peer: PeerId, address: PeerAddress, relay: PeerAddress) -> Connection:
        if relay.peer_id is None:
            raise NetworkError("its relay is not named")
        # Not `connect`: two peers that are said to be each other's relays would wait for each other for ever.
        async with _turn(self._relay_dials, (relay.peer_id, True)):
            if self.direct_connection_to(relay.peer_id) is None:
                if not relay.is_tcp:
                    raise NetworkError("we are not connected to its relay, and cannot dial it")
                await self._dial(relay.peer_id, relay)
        raw = await self.relays.dial(relay.peer_id, peer, address)
        self._nursery.start_soon(raw.hold)
        return await self._add(raw, peer, address, Direction.OUTBOUND)

    async def _add(
        self, raw: RawConnection, peer: PeerId | None, remote: PeerAddress, direction: Direction
    ) -> Connection:
        actual, muxed = await self._upgrader.upgrade(raw, peer)
        if actual == self.key.peer_id:
            raw.abort()
            raise NetworkError("the address is this node's own")
        relay = remote.relay.peer_id if remote.relay is not None else None
        info = ConnectionInfo(peer_id=actual, remote=remote.with_peer(actual), direction=direction, relay=relay)
        connection = Connection(info, raw, muxed, self.handlers)
        settled = trio.Event()
        self._nursery.start_soon(self._run, connection, settled)
        try:
            await settled.wait()
        except trio.Cancelled:
            connection.close()  # nobody wants it any more: whoever disconnects next would not find it yet
            raise
        if not connection.is_open:
            raise NetworkError("the peer closed the connection at once")
        return connection

    async def _run(self, connection: Connection, settled: trio.Event) -> None:
        peer = connection.info.peer_id

        def ready() -> None:
            mine = self._connections.setdefault(peer, [])
            mine.append(connection)
            kept = sorted((one for one in mine if one.is_open), key=lambda one: one.info.relay is None)
            for oldest in kept[:-MAX_CONNECTIONS_PER_PEER]:
                oldest.close()
            self._on_connected(connection.info)
            self._nursery.start_soon(self.identify.ask, connection)
            if connection.info.direction is Direction.INBOUND:
                for older in kept[:-1]:
                    if (older.info.relay is None) is (connection.info.relay is None):
                        self._nursery.start_soon(self._prove, older)
            settled.set()

        try:
            await connection.run(ready)
        except Exception:
            logger.exception("connection failed peer=%s", peer)
        finally:
            settled.set()
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        peer = connection.info.peer_id
        mine = self._connections.get(peer, [])
        if connection in mine:
            mine.remove(connection)
            if not mine:
                del self._connections[peer]
                self.identify.peer_left(peer)
            if self.direct_connection_to(peer) is None:
                self.relays.peer_left(peer)
                if self.relay is not None:
                    self.relay.peer_left(peer)
            self._on_disconnected(connection.info)

    async def _prove(self, connection: Connection) -> None:
        """Close a connection that does not answer any more."""
        with trio.move_on_after(PROVE_TIMEOUT_S) as scope:
            try:
                await _ping(connection)
            except NetworkError:  # it is lost, and closes by itself, or the peer serves no pings
                return
        if scope.cancelled_caught:
            logger.info(
                "connection replaced by its peer peer=%s remote=%s", connection.info.peer_id, connection.info.remote
            )
            connection.close()

    def close_peer(self, peer: PeerId) -> None:
        """Close all connections to ``peer``."""
        for connection in list(self._connections.get(peer, ())):
            connection.close()

    # Streams

    async def open_stream(self, peer: PeerId, protocol: str, first: bytes = b"") -> MuxStream:
        """A stream to a connected peer; `StreamError` if there is no connection or it does not serve ``protocol``."""
        return await self._connection(peer).open_stream(protocol, first)

    def _connection(self, peer: PeerId) -> Connection:
        connection = self.connection_to(peer)
        if connection is None:
            raise StreamError(f"not connected to {peer}")
        return connection

    # Our relay

    def serve_relay(self, limits: RelayLimits) -> None:
        """Be a relay, with new books if we were one already."""
        self.stop_relay()
        self.relay = RelayServer(
            self.key,
            limits,
            connection_to=self.direct_connection_to,
            addresses=lambda: self.identify.addresses,
        )
        self.handlers[HOP] = self.relay.serve
        self.identify.push_soon()

    def stop_relay(self) -> None:
        """Be none any more: the circuits end."""
        if self.relay is not None:
            self.relay.stop()
            self.relay = None
            del self.handlers[HOP]
            self.identify.push_soon()

    # Ping

    async def ping(self, peer: PeerId) -> float:
        """Seconds for one libp2p ping on a new stream, the stream's opening not counted."""
        try:
            with trio.fail_after(PING_TIMEOUT_S):
                return await _ping(self._connection(peer))
        except trio.TooSlowError as error:
            raise StreamError(f"no answer to a ping within {PING_TIMEOUT_S:.0f} s") from error


async def _ping(connection: Connection) -> float:
    stream = await connection.open_stream(PING)
    try:
        payload, started = secrets.token_bytes(PING_BYTES), trio.current_time()
        await stream.write(payload)
        if await _read_exactly(stream, PING_BYTES) != payload:
            raise RemoteProtocolError("wrong bytes in a ping's answer", connection.info.peer_id)
        return trio.current_time() - started
    finally:
        await stream.finish()


async def _serve_ping(stream: MuxStream) -> None:
    while data := await stream.read_some(PING_BYTES):
        await stream.write(data)


async def _read_exactly(stream: MuxStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read_some(size - len(data))
        if not more:
            raise StreamError("the stream ended early")
        data += more
    return data


@contextlib.asynccontextmanager
async def _turn(locks: dict[tuple[PeerId, bool], trio.Lock], key: tuple[PeerId, bool]) -> AsyncIterator[None]:
    """One at a time for each ``key``; nothing stays of it when nobody waits."""
    lock = locks.setdefault(key, trio.Lock())
    try:
        async with lock:
            yield
    finally:
        if not lock.statistics().tasks_waiting and not lock.locked():
            locks.pop(key, None)
