"""The libp2p side of a node, for asyncio: connect, open and serve streams, ask and answer requests."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from lattica.errors import LatticaError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.identity.varint import encode_varint
from lattica.swarm.bridge import TrioThread, open_trio_thread
from lattica.swarm.connection import ConnectionInfo
from lattica.swarm.host import Host
from lattica.swarm.identify import PeerInfo
from lattica.swarm.mux import MuxStream
from lattica.swarm.relay_client import Reservation
from lattica.swarm.relay_table import RelayCounters, RelayLimits
from lattica.swarm.socket_streams import join, run_join, socket_pair
from lattica.swarm.stream import Stream

logger = logging.getLogger(__name__)

MAX_KNOWN_PEERS = 10_000
"""Peers whose identify message is remembered after they have gone."""
REQUEST_IDLE_S = 60.0
"""Seconds that a peer may keep a request stream open without asking."""
LAST_WORDS_S = 1.0
"""Seconds to bring the peer what a handler wrote on its socket before it failed."""
HANDLER_TIMEOUT_S = 30.0
"""Seconds for one answer of ours."""

StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream; the stream is closed when it returns and reset when it raises."""
RequestHandler = Callable[[PeerId, bytes], Awaitable[bytes | None]]
"""Answers one request; ``None`` sends nothing."""


SocketHandler = Callable[[PeerId, socket.socket], Awaitable[None]]
"""Serves one inbound stream as a socket, which it has to close."""


class Swarm:
    """Control connections to peers; made by `open_swarm`, used from its asyncio loop only.

    Attributes:
        key: Our identity.
    """

    def __init__(self, key: IdentityKey, thread: TrioThread) -> None:
        self.key = key
        self._thread = thread
        self._host: Host
        self._known: dict[PeerId, PeerInfo] = {}
        self._connected: dict[PeerId, list[ConnectionInfo]] = {}
        self._on_connected: list[Callable[[ConnectionInfo], None]] = []
        self._on_disconnected: list[Callable[[ConnectionInfo], None]] = []
        self._on_identified: list[Callable[[PeerInfo], None]] = []

    async def _start(self) -> None:
        self._host = await self._thread.call(self._make_host)

    async def _make_host(self) -> Host:
        return Host(
            self.key,
            self._thread.nursery,
            on_connected=lambda info: self._thread.post(self._connection_opened, info),
            on_disconnected=lambda info: self._thread.post(self._connection_closed, info),
            on_identified=lambda info: self._thread.post(self._peer_identified, info),
            on_pushed=lambda info: self._thread.post(self._peer_pushed, info),
        )

    # Events

    def subscribe(
        self,
        *,
        connected: Callable[[ConnectionInfo], None] | None = None,
        disconnected: Callable[[ConnectionInfo], None] | None = None,
        identified: Callable[[PeerInfo], None] | None = None,
    ) -> None:
        """Have functions called, in the asyncio thread, when connections come and go and peers identify."""
        for listeners, listener in (
            (self._on_connected, connected),
            (self._on_disconnected, disconnected),
            (self._on_identified, identified),
        ):
            if listener is not None:
                listeners.append(listener)  # type: ignore[arg-type]

    def _connection_opened(self, info: ConnectionInfo) -> None:
        self._connected.setdefault(info.peer_id, []).append(info)
        for listener in self._on_connected:
            listener(info)

    def _connection_closed(self, info: ConnectionInfo) -> None:
        rest = self._connected.get(info.peer_id, [])
        if info in rest:
            rest.remove(info)
        if not rest:
            self._connected.pop(info.peer_id, None)
        for listener in self._on_disconnected:
            listener(info)

    def _peer_identified(self, info: PeerInfo) -> None:
        self._known.pop(info.peer_id, None)
        self._known[info.peer_id] = info
        while len(self._known) > MAX_KNOWN_PEERS:
            del self._known[next(iter(self._known))]
        for listener in self._on_identified:
            listener(info)

    def _peer_pushed(self, info: PeerInfo) -> None:
        """A push leaves out what has not changed."""
        known = self._known.get(info.peer_id, info)
        self._peer_identified(
            replace(
                info,
                agent=info.agent or known.agent,
                protocols=info.protocols or known.protocols,
                observed=info.observed or known.observed,
            )
        )

    # Connections

    def connections(self) -> list[ConnectionInfo]:
        """All open control connections, oldest first for each peer."""
        return [info for infos in self._connected.values() for info in infos]

    def is_connected(self, peer: PeerId) -> bool:
        """Whether there is an open control connection to ``peer``."""
        return peer in self._connected

    def peer_info(self, peer: PeerId) -> PeerInfo | None:
        """What ``peer`` said of itself when it last connected; kept for a while after it has gone."""
        return self._known.get(peer)

    async def connect(
        self, peer: PeerId, addresses: Sequence[PeerAddress] = (), *, direct: bool = False
    ) -> ConnectionInfo:
        """An open connection to ``peer``: an existing one, or the first of a staggered race over ``addresses``.

        They are dialled in the order given. For circuits their relays are connected to, if need be.
        Cancellation leaves no half-open connection.

        Args:
            peer: Whom to connect to.
            addresses: Where it may be.
            direct: No relay may be between: an existing relayed connection does not do, nor does a circuit.

        Raises:
            PeerUnreachableError: With the reason for each address.
        """
        return await self._thread.call(partial(self._host.connect, direct=direct), peer, addresses)

    async def adopt(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Take over a connected inbound socket (ours to close from here on) on which libp2p is spoken."""
        try:
            await self._thread.call(self._host.adopt, sock, remote)
        except StreamError:
            sock.close()
            raise

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to ``peer``."""

        async def close() -> None:
            self._host.close_peer(peer)

        await self._thread.call(close)

    async def advertise(self, addresses: Sequence[PeerAddress]) -> None:
        """Tell peers from now on that we listen there, and have it pushed to those that are connected.

        Returns before they have it. Of many calls in quick succession, the last one is pushed.
        """

        async def update() -> None:
            self._host.identify.advertise(addresses)

        await self._thread.call(update)

    async def ping(self, peer: PeerId) -> float:
        """Seconds of one libp2p round trip to a connected peer; raises `StreamError`."""
        return await self._thread.call(self._host.ping, peer)

    # Relays

    async def reserve(self, relay: PeerId) -> Reservation:
        """Have a directly connected relay let others reach us through it, for a while; again to renew that.

        It ends with the last direct connection to the relay. Keeping it alive is the caller's business.

        Raises:
            StreamError: Not connected, or the relay refused, in its words.
            RemoteProtocolError: Its answer makes no sense.
        """
        return await self._thread.call(self._host.relays.reserve, relay)

    async def serve_relay(self, limits: RelayLimits) -> None:
        """Be a relay for others. Doing so again starts anew: what was reserved is forgotten, circuits end."""

        async def start() -> None:
            self._host.serve_relay(limits)

        await self._thread.call(start)

    async def stop_relay(self) -> None:
        """Be no relay any more: circuits end, peers learn it."""

        async def stop() -> None:
            self._host.stop_relay()

        await self._thread.call(stop)

    def relay_counters(self) -> RelayCounters:
        """What our relay has done and is doing, as of now; zeros if we are none."""
        relay = self._host.relay
        return relay.table.counters.snapshot() if relay is not None else RelayCounters()

    # Streams

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream to a connected peer; raises `StreamError` if it does not serve ``protocol``."""
        muxed = await self._thread.call(self._host.open_stream, peer, protocol, b"", discard=self._discard)
        return Stream(self._thread, muxed, protocol)

    def _discard(self, stream: MuxStream) -> None:
        self._thread.spawn(stream.reset)

    def serve_streams(self, protocol: str, handler: StreamHandler) -> None:
        """Have ``handler`` serve each inbound stream of ``protocol``; its errors cost the peer the stream."""

        async def serve(muxed: MuxStream) -> None:
            await self._thread.ask(handler, Stream(self._thread, muxed, protocol))

        self._serve(protocol, serve)

    async def open_socket(self, peer: PeerId, protocol: str) -> socket.socket:
        """A new stream to a connected peer, as a socket that does not block; the caller closes it.

        What is written waits while the peer does not read, and the other way round. ``shutdown(SHUT_WR)`` ends one
        direction. When the stream is lost, the socket reads to its end or says that it was reset.

        Raises:
            StreamError: Not connected, or the peer does not serve ``protocol``.
        """

        async def open_joined() -> socket.socket:
            muxed = await self._host.open_stream(peer, protocol)
            near, far = socket_pair()
            self._thread.nursery.start_soon(run_join, muxed, near)
            return far

        return await self._thread.call(open_joined, discard=socket.socket.close)

    def serve_sockets(self, protocol: str, handler: SocketHandler) -> None:
        """Give ``handler`` each inbound stream of ``protocol`` as a socket, see `open_socket`.

        The socket is the handler's to close, and may outlive it; if it raises, the socket is closed.
        """

        async def serve(muxed: MuxStream) -> None:
            near, far = socket_pair()
            taken: list[bool] = []

            async def owned() -> None:
                taken.append(True)
                try:
                    await handler(muxed.peer, far)
                except BaseException:
                    far.close()
                    raise

            failures: list[Exception] = []
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(join, muxed, near)
                    try:
                        await self._thread.ask(owned)
                    except Exception as error:  # noqa: BLE001 - raised below, outside the nursery
                        failures.append(error)
                        # What it has written, a refusal perhaps, gets there: a reset would overtake it.
                        nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S
            finally:
                # In the handler's thread: it may be about to start.
                self._thread.post(lambda: None if taken else far.close())
            if failures:
                raise failures[0]

        self._serve(protocol, serve)

    async def request(self, peer: PeerId, protocol: str, message: bytes, limit: int) -> bytes:
        """Send one length-delimited message to a connected peer and return its answer of at most ``limit`` bytes.

        One round trip, one hop between threads. The caller sets the deadline.

        Raises:
            StreamError: The peer is not connected, does not serve the protocol, or did not answer.
            RemoteProtocolError: The answer is too long or malformed.
        """
        return await self._thread.call(self._request, peer, protocol, message, limit)

    async def _request(self, peer: PeerId, protocol: str, message: bytes, limit: int) -> bytes:
        stream = await self._host.open_stream(peer, protocol, encode_varint(len(message)) + message)
        try:
            answer = await stream.read_message(limit)
            if answer is None:
                raise StreamError(f"{peer} closed the stream without an answer")
        except BaseException:
            await stream.reset()
            raise
        await stream.finish()
        return answer

    async def send(self, peer: PeerId, protocol: str, message: bytes) -> None:
        """Send one length-delimited message to a connected peer that does not answer it; raises `StreamError`."""
        await self._thread.call(self._send, peer, protocol, message)

    async def _send(self, peer: PeerId, protocol: str, message: bytes) -> None:
        stream = await self._host.open_stream(peer, protocol, encode_varint(len(message)) + message)
        await stream.finish()

    def serve_requests(self, protocol: str, handler: RequestHandler, limit: int) -> None:
        """Have ``handler`` answer each message (at most ``limit`` bytes) on inbound streams of ``protocol``."""

        async def serve(muxed: MuxStream) -> None:
            while True:
                with trio.move_on_after(REQUEST_IDLE_S) as idle:
                    message = await muxed.read_message(limit)
                if idle.cancelled_caught or message is None:
                    return
                with trio.move_on_after(HANDLER_TIMEOUT_S) as scope:
                    answer = await self._thread.ask(handler, muxed.peer, message)
                if scope.cancelled_caught:
                    raise StreamError(f"no answer to a {protocol} request within {HANDLER_TIMEOUT_S:.0f} s")
                if answer is not None:
                    await muxed.write_message(answer)

        self._serve(protocol, serve)

    def stop_serving(self, protocol: str) -> None:
        """Serve ``protocol`` no more; streams that are open go on."""
        self._host.handlers.pop(protocol, None)

    def _serve(self, protocol: str, serve: Callable[[MuxStream], Awaitable[None]]) -> None:
        async def guarded(muxed: MuxStream) -> None:
            try:
                await serve(muxed)
            except LatticaError:
                raise
            except Exception as error:
                logger.exception("handler failed protocol=%s peer=%s", protocol, muxed.peer)
                raise StreamError(f"our handler of {protocol} failed") from error

        self._host.handlers[protocol] = guarded


@contextlib.asynccontextmanager
async def open_swarm(key: IdentityKey) -> AsyncIterator[Swarm]:
    """The control plane of one node. It listens on nothing by itself: `Swarm.adopt` takes inbound sockets.

    At the end all connections are closed and its thread is joined.
    """
    _quiet_libp2p()
    async with open_trio_thread() as thread:
        swarm = Swarm(key, thread)
        await swarm._start()
        yield swarm


def _quiet_libp2p() -> None:
    """On import py-libp2p gives its loggers levels of its own and logs every misdeed of a peer as an error of ours."""
    if "LIBP2P_DEBUG" not in os.environ:
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
