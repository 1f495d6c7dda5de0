"""From a connected TCP socket to an authenticated, multiplexed libp2p connection.

Noise, yamux and the negotiation of both are py-libp2p's; its host and swarm are not used (docs/adr/0005-thin-host.md).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.yamux.yamux import GO_AWAY_NORMAL, TYPE_GO_AWAY, YAMUX_HEADER_FORMAT, Yamux
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from multiaddr import Multiaddr

from lattica.errors import NetworkError
from lattica.identity import IdentityKey, PeerAddress, PeerId

UPGRADE_TIMEOUT_S = 10.0
"""Seconds for negotiation and handshakes, Noise and yamux together."""
SEND_TIMEOUT_S = 20.0
"""Seconds that one frame, at most 64 KiB, may take to leave before the connection counts as lost."""
MAX_HANDSHAKE = 64 * 1024
"""Bytes that the handshakes may take of a peer that has not proven who it is; real ones take less than 1 KiB."""
MAX_BUFFERED = 16 << 20
"""Bytes that a connection may hold unread, over all its streams; a peer that sends more loses the connection."""
KEEPALIVE_IDLE_S = 15
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""TCP keep-alive: a peer that vanished without a word is noticed after 30 s."""
_READ_SIZE = 64 * 1024
_GO_AWAY = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_GO_AWAY, 0, 0, GO_AWAY_NORMAL)


class SocketConnection(IRawConnection):
    """A TCP socket as py-libp2p's raw connection.

    Writes are shielded from cancellation: Noise numbers its messages, so a message that was encrypted but not sent
    would break the connection for all its streams.
    """

    def __init__(self, sock: socket.socket, *, initiator: bool, remote: PeerAddress) -> None:
        self.is_initiator = initiator
        self._remote = remote
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._buffer = bytearray()
        self._handshake_left: int | None = MAX_HANDSHAKE
        self._send_timeout = SEND_TIMEOUT_S
        self._sending = trio.CancelScope()

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes (``None``: at least one), or fewer at the end.

        Reads ahead, which saves two system calls for each Noise message, and gathers ``n`` bytes here, because
        py-libp2p's `read_exactly` gives up on a message that comes in more than 101 pieces.
        """
        wanted = 1 if n is None else n
        self._count_handshake(wanted)
        try:
            while len(self._buffer) < wanted:
                more = await self._stream.receive_some(_READ_SIZE)
                if not more:
                    break
                self._buffer += more
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}") from error
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _count_handshake(self, size: int) -> None:
        if self._handshake_left is not None:
            self._handshake_left -= size
            if self._handshake_left < 0:
                raise ConnectionClosedError(f"a handshake of more than {MAX_HANDSHAKE} bytes")

    def handshake_done(self) -> None:
        """The other side has proven who it is: it may send what it likes."""
        self._handshake_left = None

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, cancelled or not."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._send_timeout) as scope:
                self._sending = scope
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}") from error
        if scope.cancelled_caught:
            self.abort()
            raise ConnectionClosedError(f"the peer took too long to receive {len(data)} bytes")

    def hurry(self, timeout: float) -> None:
        """Give the send under way, and each later one, no more than ``timeout`` seconds."""
        self._send_timeout = timeout
        self._sending.deadline = min(self._sending.deadline, trio.current_time() + timeout)

    async def close(self) -> None:
        """Close the socket."""
        self.abort()

    def abort(self) -> None:
        """Close the socket at once; readers and writers get an error."""
        self._stream.socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other side."""
        return (self._remote.host, self._remote.port)

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The other side's multiaddr."""
        return [Multiaddr(self._remote.text)]

    def get_connection_type(self) -> ConnectionType:
        """Never relayed: it is a socket."""
        return ConnectionType.DIRECT


class BoundedYamux(Yamux):
    """Yamux that holds its peer to the receive window: py-libp2p's only logs a peer that sends more."""

    async def _read_data_body(self, length: int) -> bytes:
        buffered = sum(map(len, self.stream_buffers.values()))
        if buffered + length > MAX_BUFFERED:
            # The one error on which handle_incoming ends the connection instead of going on.
            raise trio.TooSlowError
        return await super()._read_data_body(length)

    async def end(self, timeout: float) -> None:
        """Say goodbye, for at most ``timeout`` seconds, and reset all streams.

        `Yamux.close` would leave readers waiting for ever if the connection was just being lost, and lingers.
        """
        if not self.event_shutting_down.is_set():
            with trio.move_on_after(timeout), suppress(IOException):
                await self._write_frame(_GO_AWAY)
        await self._cleanup_on_error()


class Upgrader:
    """Runs the handshakes for one identity: Noise and yamux, and nothing weaker."""

    def __init__(self, key: IdentityKey) -> None:
        pair = create_new_key_pair(key.seed)
        noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
        self._security = SecurityMultistream({NOISE: noise})

    async def upgrade(self, raw: SocketConnection, peer_id: PeerId | None) -> tuple[PeerId, BoundedYamux]:
        """Authenticate the other side (``peer_id`` if we dialled it) and start multiplexing.

        The socket is closed on failure and cancellation.

        Raises:
            NetworkError: The other side is another peer, speaks something else, or took too long.
        """
        try:
            with trio.fail_after(UPGRADE_TIMEOUT_S):
                upgraded = await self._upgrade(raw, peer_id)
                raw.handshake_done()
                return upgraded
        except trio.TooSlowError as error:
            raw.abort()
            raise NetworkError(f"no libp2p handshake within {UPGRADE_TIMEOUT_S:.0f} s") from error
        except PeerIDMismatchesPubkey as error:
            raw.abort()
            raise NetworkError("another peer answered there") from error
        except Exception as error:
            raw.abort()
            raise NetworkError(f"libp2p handshake failed: {_innermost(error)}") from error
        except BaseException:
            raw.abort()
            raise

    async def _upgrade(self, raw: SocketConnection, peer_id: PeerId | None) -> tuple[PeerId, BoundedYamux]:
        if peer_id is None:
            secured = await self._security.secure_inbound(raw)
        else:
            secured = await self._security.secure_outbound(raw, ID(peer_id.raw))
        remote = PeerId(secured.get_remote_peer().to_bytes())
        if peer_id is not None and remote != peer_id:
            raise PeerIDMismatchesPubkey(f"{remote} answered")
        communicator = MultiselectCommunicator(secured)
        timeout = int(UPGRADE_TIMEOUT_S) + 1  # never reached: `upgrade` has the deadline
        if raw.is_initiator:
            await MultiselectClient().select_one_of([TProtocol(YAMUX)], communicator, timeout)
        else:
            await Multiselect({TProtocol(YAMUX): None}).negotiate(communicator, timeout)
        return remote, BoundedYamux(secured, ID(remote.raw), is_initiator=raw.is_initiator)


def configure_socket(sock: socket.socket) -> None:
    """No Nagle delay, and keep-alive that notices a lost peer in half a minute."""
    options: list[tuple[int, str, int]] = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_COUNT),
    ]
    for level, name, value in options:
        if hasattr(socket, name):
            sock.setsockopt(level, getattr(socket, name), value)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
