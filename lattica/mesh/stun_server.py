"""Answers STUN Binding requests on the node's one TCP port, and on a second one of its own (`stun_second`)."""

from __future__ import annotations

import asyncio
import socket

from lattica.errors import RemoteProtocolError
from lattica.identity import PeerAddress
from lattica.mesh.stun import HEADER_BYTES, Endpoint, answer_request, body_length

MAX_REQUESTS = 8
"""Requests answered on one connection; a client that punches sends one."""
IDLE_S = 30.0
"""Seconds that a client may hold a connection without a word, and with it its mapping; a whole punch takes less."""
MESSAGE_TIMEOUT_S = 5.0
"""Seconds from the first byte of a request to the end of its answer."""


async def answer_stun(sock: socket.socket, remote: PeerAddress, second_port: int | None = None) -> None:
    """Route of the listener: tell a client its address as often as it asks; returns when it has gone.

    A client keeps its connection while it punches, for a few seconds, and all that time the listener counts it as
    unproven. That is meant: it is what bounds these connections (as one of 48 from one host, and of 256 in all), and
    who is displaced, the oldest first, has had its answer long ago and loses only what holds its mapping open; a NAT
    keeps that for minutes after a connection's end (RFC 5382, REQ-5).

    Args:
        sock: Non-blocking, first byte unread. Closed on every way out.
        remote: Where it comes from.
        second_port: Where else it can ask, as it is told with each answer.

    Raises:
        RemoteProtocolError: It does not speak STUN.
        OSError: The connection was lost.
    """
    source = Endpoint(remote.host, remote.port)
    loop = asyncio.get_running_loop()
    try:
        for _ in range(MAX_REQUESTS):
            first = await _first_byte(sock)
            if not first:
                return
            async with asyncio.timeout(MESSAGE_TIMEOUT_S):
                header = first + await _receive(sock, HEADER_BYTES - 1)
                request = header + await _receive(sock, body_length(header))
                await loop.sock_sendall(sock, answer_request(request, source, second_port))
        await _first_byte(sock)  # hold the mapping, but say no more
    except TimeoutError as error:
        raise RemoteProtocolError(f"a STUN message that took longer than {MESSAGE_TIMEOUT_S:.0f} s") from error
    finally:
        sock.close()


async def _first_byte(sock: socket.socket) -> bytes:
    """The first byte of the next request; nothing if the client has gone or has nothing more to ask."""
    try:
        async with asyncio.timeout(IDLE_S):
            return await asyncio.get_running_loop().sock_recv(sock, 1)
    except TimeoutError:
        return b""


async def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not more:
            raise RemoteProtocolError("a connection that ended within a STUN message")
        data += more
    return data
