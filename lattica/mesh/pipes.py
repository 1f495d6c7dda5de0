"""Open and accept pipes: a TCP connection whose preface proves the link."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.links import Link
from lattica.mesh.paths import PathInfo, PathKind, path_kind
from lattica.mesh.preface import (
    ANSWER_BYTES,
    HEAD_BYTES,
    NONCE_BYTES,
    LinkRefusedError,
    Status,
    TicketOffice,
    check_answer,
    check_preface,
    encode_preface,
    encode_refusal,
    rest_of_preface,
)
from lattica.mesh.race import race

CONNECT_TIMEOUT_S = 5.0
"""Seconds for one TCP connection."""
PREFACE_TIMEOUT_S = 5.0
"""Seconds for the preface and its answer."""
DIAL_STAGGER_S = 0.25
"""Seconds between two dials of one race (RFC 8305 recommends 250 ms)."""
MAX_RACE = 16
"""Addresses of one peer that are dialled at most."""

TCP_OPTIONS = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),
)
"""No Nagle delay; a peer that vanished without a word is noticed after 30 s."""


@dataclass(frozen=True, slots=True)
class OpenPipe:
    """A pipe that we dialled: from here on its socket carries TLS.

    Attributes:
        sock: Connected and non-blocking; the holder closes it.
        path: Where it leads.
    """

    sock: socket.socket
    path: PathInfo


async def dial_first(link: Link, addresses: Sequence[PeerAddress], attempts: dict[str, str]) -> OpenPipe | None:
    """Dial all addresses, staggered; the first that proves to be the peer wins and the others are closed.

    ``attempts`` gets the reason for each that failed or has not answered yet.

    Raises:
        LinkRefusedError: The peer was there but does not know the link, and no other address worked.
    """
    refused: list[LinkRefusedError] = []

    async def attempt(address: PeerAddress) -> OpenPipe | None:
        attempts[address.text] = "no answer yet"
        try:
            pipe = await dial_pipe(link, address)
        except LinkRefusedError as error:
            attempts[address.text] = str(error)
            refused.append(error)
        except (NetworkError, OSError) as error:
            attempts[address.text] = describe(error)
        else:
            attempts.pop(address.text, None)
            return pipe
        return None

    dials = [partial(attempt, address) for address in addresses[:MAX_RACE]]
    pipe = await race(dials, stagger=DIAL_STAGGER_S, discard=close_pipe)
    if pipe is None and refused:
        raise refused[0]
    return pipe


async def dial_pipe(link: Link, address: PeerAddress) -> OpenPipe:
    """Connect to one address of the link's server and prove the link to each other.

    Raises:
        LinkRefusedError: It is the peer, but it does not know the link.
        NetworkError: Nobody answered, or somebody else did.
        OSError: From the system.
    """
    return await prove_pipe(link, await connect_tcp(address), path_kind(address.host), address)


async def prove_pipe(link: Link, sock: socket.socket, kind: PathKind, remote: PeerAddress) -> OpenPipe:
    """Make a pipe of a connected, non-blocking socket: prove the link to each other. Closes it on failure.

    Raises:
        LinkRefusedError: It is the peer, but it does not know the link.
        NetworkError: It did not answer, or somebody else did.
        OSError: From the system.
    """
    try:
        nonce, started = secrets.token_bytes(NONCE_BYTES), time.monotonic()
        try:
            async with asyncio.timeout(PREFACE_TIMEOUT_S):
                await asyncio.get_running_loop().sock_sendall(sock, encode_preface(link.ticket, nonce))
                answer = await receive_exactly(sock, ANSWER_BYTES)
        except TimeoutError as error:
            raise NetworkError(f"connected, but no answer within {PREFACE_TIMEOUT_S:.0f} s") from error
        check_answer(link.ticket, nonce, answer)
    except BaseException:
        sock.close()
        raise
    now = time.monotonic()
    path = PathInfo(peer_id=link.peer_id, kind=kind, remote=remote, since=now, rtt=now - started)
    return OpenPipe(sock, path)


class NoAnswerError(NetworkError):
    """Nothing at all came from an address: nobody is there, or the network does not lead there at present."""


async def connect_tcp(address: PeerAddress) -> socket.socket:
    """A connected, non-blocking TCP socket; `NoAnswerError` or `OSError` if there is none in time."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        configure(sock)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    except TimeoutError as error:
        sock.close()
        raise NoAnswerError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from error
    except BaseException:
        sock.close()
        raise
    return sock


async def accept_pipe(
    sock: socket.socket,
    office: TicketOffice,
    connect_server: Callable[[PeerId], Awaitable[socket.socket]],
) -> tuple[PeerId, socket.socket]:
    """Check the preface of an inbound socket and connect it to our gRPC server.

    Args:
        sock: Non-blocking. Closed on any failure.
        office: Recognises our tickets.
        connect_server: A socket to the gRPC server for this peer; raises `NetworkError` if there are too many.

    Returns:
        The peer at the other end and the socket to the gRPC server.
    """
    loop = asyncio.get_running_loop()
    try:
        configure(sock)
        async with asyncio.timeout(PREFACE_TIMEOUT_S):
            rest = await receive_exactly(sock, rest_of_preface(await receive_exactly(sock, HEAD_BYTES)))
            try:
                peer, answer = check_preface(office, rest, time.time())
            except LinkRefusedError:
                await loop.sock_sendall(sock, encode_refusal(Status.REFUSED))
                raise
            try:
                server = await connect_server(peer)
            except NetworkError:
                await loop.sock_sendall(sock, encode_refusal(Status.BUSY))
                raise
            try:
                await loop.sock_sendall(sock, answer)
            except BaseException:
                server.close()
                raise
    except BaseException:
        sock.close()
        raise
    return peer, server


async def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, none more; `RemoteProtocolError` if the stream ends before."""
    data = b""
    while len(data) < size:
        more = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not more:
            raise RemoteProtocolError("the connection ended in the middle of a preface")
        data += more
    return data


def close_pipe(pipe: OpenPipe) -> None:
    """Throw away a pipe that nobody needs."""
    pipe.sock.close()


def has_ended(pipe: OpenPipe) -> bool:
    """Whether the peer has closed a pipe on which nothing has been said yet, or it is lost."""
    try:
        return not pipe.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def configure(sock: socket.socket) -> None:
    """Make a socket non-blocking and set `TCP_OPTIONS`, as far as the system has them; a circuit's socket has none."""
    sock.setblocking(False)
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for level, name, value in TCP_OPTIONS:
        if hasattr(socket, name):
            sock.setsockopt(level, getattr(socket, name), value)


def describe(error: Exception) -> str:
    """An attempt's failure in a few words."""
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
