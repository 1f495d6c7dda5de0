"""The libp2p host, in trio: its connections, the protocols that it serves, identify and ping."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Sequence

import trio

from lattica._version import __version__
from lattica.errors import NetworkError, PeerUnreachableError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm.connection import Connection, ConnectionInfo, Direction, InboundHandler
from lattica.swarm.dialing import connect_tcp, race
from lattica.swarm.identify import IDENTIFY, MAX_IDENTIFY, PeerInfo, decode_identify, encode_identify
from lattica.swarm.mux import MuxStream
from lattica.swarm.transport import SocketConnection, Upgrader, configure_socket

logger = logging.getLogger(__name__)

PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
PING_TIMEOUT_S = 10.0
"""Seconds for one ping; the reference implementations use 10 s or more."""
MAX_CONNECTIONS = 1024
"""Control connections of one node; an inbound one above that is refused."""
MAX_CONNECTIONS_PER_PEER = 4
"""Connections to one peer that are kept; a newer one displaces the oldest."""
MAX_UPGRADES = 64
"""Inbound connections in their handshakes at one time; further ones wait."""
IDENTIFY_TIMEOUT_S = 15.0
"""Seconds that a peer has to identify itself; it stays connected without."""
AGENT = f"lattica/{__version__}"


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
    ) -> None:
        self.key = key
        self.handlers: dict[str, InboundHandler] = {IDENTIFY: self._serve_identify, PING: _serve_ping}
        self.addresses: tuple[PeerAddress, ...] = ()
        self.address_seq = 0
        self._nursery = nursery
        self._upgrader = Upgrader(key)
        self._connections: dict[PeerId, list[Connection]] = {}
        self._dials: dict[PeerId, trio.Lock] = {}
        self._upgrades = trio.Semaphore(MAX_UPGRADES)
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_identified = on_identified

    # Connections

    def connections(self) -> list[ConnectionInfo]:
        """All open connections."""
        return [one.info for many in self._connections.values() for one in many if one.is_open]

    def connection_to(self, peer: PeerId) -> Connection | None:
        """The newest open connection to ``peer``."""
        return next((one for one in reversed(self._connections.get(peer, ())) if one.is_open), None)

    async def adopt(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Take over an inbound socket whose first bytes are a multistream header (still unread)."""
        adopted = False
        try:
            async with self._upgrades:  # whoever gives us sockets bounds how many wait here
                total = sum(map(len, self._connections.values()))
                if total >= MAX_CONNECTIONS:
                    logger.warning("inbound connection refused remote=%s connections=%d", remote, total)
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

    async def connect(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> ConnectionInfo:
        """An open connection to ``peer``: the one we have, or the first that a race over ``addresses`` makes.

        Raises:
            PeerUnreachableError: With the reason for each address.
        """
        if peer == self.key.peer_id:
            raise PeerUnreachableError(peer, {"self": "that is this node itself"})
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                open_connection = self.connection_to(peer)
                if open_connection is not None:
                    return open_connection.info
                dialable = [address for address in addresses if address.is_tcp and address.peer_id in {None, peer}]
                connection, failures = await race(lambda address: self._dial(peer, address), dialable)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dials.pop(peer, None)
        if connection is None:
            failures.update({a.text: "not a TCP address of this peer" for a in addresses if a not in dialable})
            raise PeerUnreachableError(peer, failures)
        return connection.info

    async def _dial(self, peer: PeerId, address: PeerAddress) -> Connection:
        sock = await connect_tcp(address)
        configure_socket(sock)
        raw = SocketConnection(sock, initiator=True, remote=address)
        return await self._add(raw, peer, address, Direction.OUTBOUND)

    async def _add(
        self, raw: SocketConnection, peer: PeerId | None, remote: PeerAddress, direction: Direction
    ) -> Connection:
        actual, muxed = await self._upgrader.upgrade(raw, peer)
        if actual == self.key.peer_id:
            raw.abort()
            raise NetworkError("the address is this node's own")
        info = ConnectionInfo(peer_id=actual, remote=remote.with_peer(actual), direction=direction)
        connection = Connection(info, raw, muxed, self.handlers)
        settled = trio.Event()
        self._nursery.start_soon(self._run, connection, settled)
        await settled.wait()
        if not connection.is_open:
            raise NetworkError("the peer closed the connection at once")
        return connection

    async def _run(self, connection: Connection, settled: trio.Event) -> None:
        peer = connection.info.peer_id

        def ready() -> None:
            mine = self._connections.setdefault(peer, [])
            mine.append(connection)
            for oldest in mine[:-MAX_CONNECTIONS_PER_PEER]:
                oldest.close()
            self._on_connected(connection.info)
            self._nursery.start_soon(self._identify, connection)
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
            self._on_disconnected(connection.info)

    def close_peer(self, peer: PeerId) -> None:
        """Close all connections to ``peer``."""
        for connection in list(self._connections.get(peer, ())):
            connection.close()

    # Streams

    async def open_stream(self, peer: PeerId, protocol: str, first: bytes = b"") -> MuxStream:
        """A stream to a connected peer; `StreamError` if there is no connection or it does not serve ``protocol``."""
        connection = self.connection_to(peer)
        if connection is None:
            raise StreamError(f"not connected to {peer}")
        return await connection.open_stream(protocol, first)

    # Identify and ping

    async def _identify(self, connection: Connection) -> None:
        peer = connection.info.peer_id
        try:
            with trio.fail_after(IDENTIFY_TIMEOUT_S):
                stream = await connection.open_stream(IDENTIFY)
                try:
                    message = await stream.read_message(MAX_IDENTIFY)
                finally:
                    await stream.finish()
            if message is None:
                raise StreamError("the stream ended without a message")
            info = decode_identify(peer, message)
        except (StreamError, trio.TooSlowError) as error:
            logger.info("identify failed peer=%s reason=%s", peer, error)
        except RemoteProtocolError as error:
            logger.warning("connection closed peer=%s reason=%s", peer, error)
            connection.close()
        except Exception:  # our fault, and no reason to lose the other connections
            logger.exception("identify failed peer=%s", peer)
        else:
            self._on_identified(info)

    async def _serve_identify(self, stream: MuxStream) -> None:
        message = encode_identify(
            self.key,
            agent=AGENT,
            protocols=self.handlers,
            addresses=self.addresses,
            observed=stream.remote,
            seq=self.address_seq,
        )
        await stream.write_message(message)

    async def ping(self, peer: PeerId) -> float:
        """Seconds for one libp2p ping on a new stream, the stream's opening not counted."""
        try:
            with trio.fail_after(PING_TIMEOUT_S):
                stream = await self.open_stream(peer, PING)
                try:
                    payload, started = secrets.token_bytes(PING_BYTES), trio.current_time()
                    await stream.write(payload)
                    if await _read_exactly(stream, PING_BYTES) != payload:
                        raise RemoteProtocolError("wrong bytes in a ping's answer", peer)
                    return trio.current_time() - started
                finally:
                    await stream.finish()
        except trio.TooSlowError as error:
            raise StreamError(f"no answer to a ping within {PING_TIMEOUT_S:.0f} s") from error


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
