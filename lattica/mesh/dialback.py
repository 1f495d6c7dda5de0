"""Asks peers to dial us, and dials those that ask: ``/lattica/dialback/1.0.0``.

A peer can only have the address dialled from which it comes itself, a few times a minute, and gets 17 bytes there.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import OrderedDict

from google.protobuf.message import DecodeError

from lattica._proto import dialback_pb2
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.pipes import connect_tcp, describe, receive_exactly
from lattica.swarm import Swarm

DIALBACK_PROTOCOL = "/lattica/dialback/1.0.0"
MAX_MESSAGE = 1024
"""Bytes of a request or response; real ones take 20 to 100."""
FIRST_BYTE = b"D"
NONCE_BYTES = 16
NONCE_TIMEOUT_S = 5.0
"""Seconds for the nonce on a connection that begins with `FIRST_BYTE`."""
ASK_TIMEOUT_S = 12.0
"""Seconds that a peer has to dial us and answer; its own dial may take 5."""
MAX_DIALS = 16
"""Dials for others at one time; who asks for one more is refused."""
PAUSE_S = 10.0
"""Seconds between two dials for one peer."""
MAX_REMEMBERED = 1024
"""Peers whose last dial is remembered."""


class Dialback:
    """Both sides of the protocol.

    Args:
        swarm: Our control connections.
    """

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._expected: set[bytes] = set()
        self._arrived: set[bytes] = set()
        self._dials = 0
        self._last: OrderedDict[PeerId, float] = OrderedDict()

    def serve(self) -> None:
        """Dial peers that ask for it."""
        self._swarm.serve_requests(DIALBACK_PROTOCOL, self._answer, MAX_MESSAGE)

    async def ask(self, peer: PeerId, port: int) -> bool | None:
        """Whether ``peer`` can dial us at ``port``; ``None`` if it does not tell."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = dialback_pb2.DialbackRequest(port=port, nonce=nonce).SerializeToString()
        self._expected.add(nonce)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                raw = await self._swarm.request(peer, DIALBACK_PROTOCOL, request, MAX_MESSAGE)
            response = dialback_pb2.DialbackResponse.FromString(raw)
            if not response.dialled and response.reason.startswith("busy"):
                return None
            # That it was accepted counts, whoever says so.
            return nonce in self._arrived
        except (NetworkError, DecodeError, TimeoutError):
            return True if nonce in self._arrived else None
        finally:
            self._expected.discard(nonce)
            self._arrived.discard(nonce)

    async def accept(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Route of the listener: a peer dials us because we asked it to."""
        del remote
        with sock:
            async with asyncio.timeout(NONCE_TIMEOUT_S):
                data = await receive_exactly(sock, len(FIRST_BYTE) + NONCE_BYTES)
        nonce = data[len(FIRST_BYTE) :]
        if nonce in self._expected:
            self._arrived.add(nonce)

    async def _answer(self, peer: PeerId, message: bytes) -> bytes:
        try:
            request = dialback_pb2.DialbackRequest.FromString(message)
        except DecodeError as error:
            raise RemoteProtocolError("malformed dialback request", peer) from error
        if len(request.nonce) != NONCE_BYTES or not 0 < request.port < 1 << 16:
            raise RemoteProtocolError("dialback request without a port or nonce", peer)
        reason = await self._dial(peer, request.port, request.nonce)
        return dialback_pb2.DialbackResponse(dialled=not reason, reason=reason).SerializeToString()

    async def _dial(self, peer: PeerId, port: int, nonce: bytes) -> str:
        """Why it failed; empty if it did not."""
        remotes = [info.remote for info in self._swarm.connections() if info.peer_id == peer and info.relay is None]
        if not remotes:
            return "you are not connected directly"
        if not self._admit(peer):
            return "busy: ask again later"
        self._dials += 1
        try:
            with await connect_tcp(PeerAddress.tcp(remotes[-1].host, port)) as sock:
                async with asyncio.timeout(NONCE_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_sendall(sock, FIRST_BYTE + nonce)
                    # The other side closes when it has read: then it has arrived before our answer does.
                    await asyncio.get_running_loop().sock_recv(sock, 1)
        except (NetworkError, OSError, TimeoutError) as error:
            return describe(error)
        finally:
            self._dials -= 1
        return ""

    def _admit(self, peer: PeerId) -> bool:
        now = asyncio.get_running_loop().time()
        if self._dials >= MAX_DIALS or now - self._last.get(peer, -PAUSE_S) < PAUSE_S:
            return False
        self._last.pop(peer, None)
        self._last[peer] = now
        while len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return True
