"""Asks STUN servers over TCP how the world sees a local port, and holds the connections that keep it so."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from lattica.background import background_tasks
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress
from lattica.mesh.pipes import configure, describe, receive_exactly
from lattica.mesh.stun import (
    HEADER_BYTES,
    MAX_STUN_MESSAGE,
    TRANSACTION_BYTES,
    Endpoint,
    StunKind,
    body_length,
    encode_request,
    parse_stun,
)
from lattica.mesh.stun_report import Answer, NatReport, nat_report

ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"
STUN_TIMEOUT_S = 3.0
"""Seconds that a server has to connect and answer."""
MAX_STUN_SERVERS = 3
"""Servers asked from one port: two tell the kind of mapping, a third tells a rule of its ports from chance."""
STRAGGLER_S = 0.15
"""Seconds, besides as long again as the first answer took, that the others have after it."""
UDP_RETRIES_S = (0.25, 0.5, 1.0)
"""Seconds after which a UDP request is sent again, and in the end given up (RFC 8489 starts with 0.5)."""


@dataclass(frozen=True, slots=True)
class HeldMapping:
    """A mapping, and the connection that keeps it; the holder calls `close`.

    Attributes:
        server: Who was asked.
        local: Our end of the connection.
        mapped: The same as the server sees it.
        rtt: Seconds from request to answer.
        sock: Connected to the server and non-blocking.
        second_port: Another port at which the server says that it answers.
    """

    server: PeerAddress
    local: Endpoint
    mapped: Endpoint
    rtt: float
    sock: socket.socket
    second_port: int | None = None

    def close(self) -> None:
        """Let go of it."""
        self.sock.close()


@dataclass(frozen=True, slots=True)
class LearnedPort:
    """A local port whose mapping is known, and held until the block of `learn_from_many` ends.

    Attributes:
        local: Our address and port, as seen from the first server that answered.
        report: What its mappings say of the NAT.
    """

    local: Endpoint
    report: NatReport


def bind_shared(host: str, port: int) -> socket.socket:
    """A TCP socket on ``host`` and ``port`` (0: one that nobody has) that shares them with others that want to.

    Raises:
        OSError: From the system.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        configure(sock)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def learn_mapping(server: PeerAddress, local_port: int, *, local_host: str = "0.0.0.0") -> HeldMapping:
    """How ``server``, a node or another STUN server at an IP address, sees ``local_port`` (0: any free one).

    Cancelled or failed, it leaves nothing open.

    Raises:
        NetworkError: The server cannot be asked from here, or did not answer in time.
        RemoteProtocolError: Its answer is malformed.
        OSError: From the system.
    """
    if not can_ask(server, local_host):
        raise NetworkError(f"{server} is no IP address that can be asked from {local_host}")
    return await _ask(bind_shared(local_host, local_port), server)


def can_ask(server: PeerAddress, local_host: str) -> bool:
    """Whether it is a TCP port at an IP address of the same family as ``local_host``."""
    try:
        same = ipaddress.ip_address(server.host).version == ipaddress.ip_address(local_host).version
    except ValueError:
        return False
    return same and server.is_tcp


def stun_host(servers: Sequence[PeerAddress], local_host: str) -> str:
    """Where to bind in order to ask, if our port is bound to ``local_host``.

    Who has both families asks by IPv4 if that can be, for it is what NATs translate.
    """
    return ANY_IPV4 if local_host == ANY_IPV6 and any(can_ask(one, ANY_IPV4) for one in servers) else local_host


@contextlib.asynccontextmanager
async def learn_from_many(
    servers: Sequence[PeerAddress], *, local_host: str = "0.0.0.0", attempts: dict[str, str] | None = None
) -> AsyncIterator[LearnedPort]:
    """A new local TCP port, whose mappings are known and held while the block runs.

    `MAX_STUN_SERVERS` are asked at one time, in their order. Servers that cannot be asked from ``local_host`` are
    passed over. ``attempts`` gets the reason for each that failed.

    Raises:
        NetworkError: Nobody answered.
        OSError: From the system: no port, no sockets.
    """
    attempts = {} if attempts is None else attempts
    asked = [server for server in servers if can_ask(server, local_host)][:MAX_STUN_SERVERS]
    held: dict[int, HeldMapping] = {}
    # A port is ours from the first socket on; the others share it.
    with contextlib.ExitStack() as closing:
        sockets: list[socket.socket] = []
        for _ in asked:
            sockets.append(bind_shared(local_host, sockets[0].getsockname()[1] if sockets else 0))
            closing.callback(sockets[-1].close)
        await _ask_all(sockets, asked, held, attempts)
        if not held:
            raise NetworkError("no STUN server answered" if asked else "no STUN server is known")
        in_order = [held[number] for number in sorted(held)]
        answers = [Answer(Endpoint(one.server.host, one.server.port), one.mapped, one.rtt) for one in in_order]
        yield LearnedPort(in_order[0].local, nat_report(answers))


async def _ask_all(
    sockets: Sequence[socket.socket],
    servers: Sequence[PeerAddress],
    held: dict[int, HeldMapping],
    attempts: dict[str, str],
) -> None:
    """Ask all at once, and do not wait long for the others once one has answered."""
    answered = asyncio.Event()

    async def ask(number: int) -> None:
        server = servers[number]
        attempts[f"stun {server.text}"] = "no answer yet"
        try:
            held[number] = await _ask(sockets[number], server)
        except (NetworkError, OSError) as error:
            attempts[f"stun {server.text}"] = describe(error)
        else:
            del attempts[f"stun {server.text}"]
            answered.set()

    async def all_asked() -> None:
        await asyncio.wait(asks)
        answered.set()

    started = time.monotonic()
    async with background_tasks() as tasks:
        # Their SYNs leave in this order, which is what `port_step` is about.
        asks = [tasks.start(ask(number)) for number in range(len(servers))]
        if not asks:
            return
        tasks.start(all_asked())
        await answered.wait()
        await asyncio.wait(asks, timeout=time.monotonic() - started + STRAGGLER_S)


async def _ask(sock: socket.socket, server: PeerAddress) -> HeldMapping:
    """One request and its answer; closes the socket unless that succeeds."""
    loop, transaction = asyncio.get_running_loop(), secrets.token_bytes(TRANSACTION_BYTES)
    try:
        async with asyncio.timeout(STUN_TIMEOUT_S):
            await loop.sock_connect(sock, (server.host, server.port))
            started = time.monotonic()
            await loop.sock_sendall(sock, encode_request(transaction))
            header = await receive_exactly(sock, HEADER_BYTES)
            answer = header + await receive_exactly(sock, body_length(header))
        mapped, second_port = _answered(answer, transaction)
    except TimeoutError as error:
        sock.close()
        raise NetworkError(f"no answer within {STUN_TIMEOUT_S:.0f} s") from error
    except BaseException:
        sock.close()
        raise
    host, port = sock.getsockname()[:2]
    return HeldMapping(server, Endpoint(host, port), mapped, time.monotonic() - started, sock, second_port)


def _answered(data: bytes, transaction: bytes) -> tuple[Endpoint, int | None]:
    answer = parse_stun(data)
    if answer.transaction != transaction or answer.kind is StunKind.REQUEST:
        raise RemoteProtocolError("a STUN answer to another request")
    if answer.mapped is None:
        raise RemoteProtocolError("the STUN server refuses the request")
    return answer.mapped, answer.second_port


async def udp_mapping(server: Endpoint, sock: socket.socket) -> Endpoint:
    """How a STUN server sees a non-blocking UDP socket, from which nobody else may read meanwhile.

    Raises:
        NetworkError: It does not answer; a lost datagram is sent again.
        OSError: From the system.
    """
    loop, transaction = asyncio.get_running_loop(), secrets.token_bytes(TRANSACTION_BYTES)
    for wait in UDP_RETRIES_S:
        await loop.sock_sendto(sock, encode_request(transaction), tuple(server))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    data, source = await loop.sock_recvfrom(sock, MAX_STUN_MESSAGE)
                    if Endpoint(source[0], source[1]) == server:
                        with contextlib.suppress(RemoteProtocolError):
                            return _answered(data, transaction)[0]
    raise NetworkError(f"no answer over UDP within {sum(UDP_RETRIES_S):.1f} s")
