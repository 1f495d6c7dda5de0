"""From a raw connection to an authenticated, multiplexed libp2p connection.

Noise, yamux and the negotiation of both are py-libp2p's; its host and swarm are not used (docs/adr/0005-thin-host.md).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import cast

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.yamux.yamux import GO_AWAY_NORMAL, TYPE_GO_AWAY, YAMUX_HEADER_FORMAT, Yamux
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from lattica.errors import NetworkError
from lattica.identity import IdentityKey, PeerId
from lattica.swarm.mux import WINDOW
from lattica.swarm.proposal import ProposedConnection
from lattica.swarm.raw import RawConnection

UPGRADE_TIMEOUT_S = 10.0
"""Seconds for negotiation and handshakes, Noise and yamux together."""
MAX_BUFFERED = 16 << 20
"""Bytes that a connection may hold unread, over all its streams; a peer that sends more loses the connection.

Each circuit, and each socket over a stream, may have one window more: others decide how slowly those are read.
"""
KEEPALIVE_IDLE_S = 15
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""TCP keep-alive: a peer that vanished without a word is noticed after 30 s."""
_GO_AWAY = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_GO_AWAY, 0, 0, GO_AWAY_NORMAL)


class BoundedYamux(Yamux):
    """Yamux that holds its peer to the receive window: py-libp2p's only logs a peer that sends more.

    Attributes:
        bulk: How many of its streams carry bulk, whose readers may stall.
    """

    def __init__(self, secured: ISecureConn, peer_id: ID, *, is_initiator: bool) -> None:
        super().__init__(secured, peer_id, is_initiator=is_initiator)
        self.bulk = 0

    def count_bulk(self, change: int) -> None:
        """One stream more, or less, carries bulk."""
        self.bulk += change

    async def _read_data_body(self, length: int) -> bytes:
        buffered = sum(map(len, self.stream_buffers.values()))
        if buffered + length > MAX_BUFFERED + self.bulk * WINDOW:
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
        self._noise = noise
        self._inbound = SecurityMultistream({NOISE: noise})

    async def upgrade(self, raw: RawConnection, peer_id: PeerId | None) -> tuple[PeerId, BoundedYamux]:
        """Authenticate the other side, which has to be ``peer_id`` unless that is ``None``, and start multiplexing.

        Whoever dialled (``raw`` knows) names the peer; of an inbound circuit the relay did.

        ``raw`` is closed on failure and cancellation.

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

    async def _upgrade(self, raw: RawConnection, peer_id: PeerId | None) -> tuple[PeerId, BoundedYamux]:
        if raw.is_initiator and peer_id is not None:
            proposed = cast(IRawConnection, ProposedConnection(raw, NOISE))
            secured = await self._noise.secure_outbound(proposed, ID(peer_id.raw))
        else:
            secured = await self._inbound.secure_inbound(raw)
        remote = PeerId(secured.get_remote_peer().to_bytes())
        if peer_id is not None and remote != peer_id:
            raise PeerIDMismatchesPubkey(f"{remote} answered")
        if raw.is_initiator:
            secured = cast(ISecureConn, ProposedConnection(secured, YAMUX))
        else:
            timeout = int(UPGRADE_TIMEOUT_S) + 1  # never reached: `upgrade` has the deadline
            await Multiselect({TProtocol(YAMUX): None}).negotiate(MultiselectCommunicator(secured), timeout)
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
