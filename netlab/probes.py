"""Raw sockets that find out what a NAT or firewall does, and punch holes in it.

All sockets are used from the calling thread. Where something must not arrive, a later packet that is known to pass
proves it, so that nothing waits in vain; only what becomes of a TCP connection takes a timeout.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from netlab.host import Host

TIMEOUT = 20.0  # seconds for what must happen, on a busy machine
SILENCE = 1.0  # seconds without an answer that count as none, on a busy machine
Endpoint: TypeAlias = tuple[str, int]


class Attempt(Enum):
    """What becomes of a TCP connection that somebody tries."""

    CONNECTED = "connected"
    REFUSED = "refused"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may use a mapping, besides the remote endpoint that it was made for."""

    same_address: bool
    other_address: bool


def udp(host: Host, port: int = 0, *, ipv6: bool = False) -> socket.socket:
    """A bound UDP socket on the host."""
    return _bound(host, socket.SOCK_DGRAM, port, ipv6=ipv6)


def tcp(host: Host, port: int = 0, *, ipv6: bool = False) -> socket.socket:
    """A bound TCP socket on the host, that shares its port with others, as hole punching needs."""
    return _bound(host, socket.SOCK_STREAM, port, ipv6=ipv6)


def listen(host: Host, port: int = 0, *, ipv6: bool = False) -> socket.socket:
    """A listening TCP socket on the host, which shares its port, too."""
    listener = tcp(host, port, ipv6=ipv6)
    listener.listen(16)
    return listener


def _bound(host: Host, kind: int, port: int, *, ipv6: bool) -> socket.socket:
    bound = host.socket(kind, socket.AF_INET6 if ipv6 else socket.AF_INET)
    bound.settimeout(TIMEOUT)
    if kind == socket.SOCK_STREAM:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((str(host.ipv6 if ipv6 else host.ipv4), port))
    return bound


def local(bound: socket.socket) -> Endpoint:
    """Where the socket is bound: address and port."""
    address, port, *_ = bound.getsockname()
    return str(address), int(port)


def mapped(client: socket.socket, server: socket.socket) -> Endpoint:
    """The source that one UDP socket sees of a datagram from the other."""
    token = f"{time.monotonic_ns()}".encode()
    client.sendto(token, local(server))
    while True:
        data, (address, port, *_) = server.recvfrom(100)
        if data == token:
            return str(address), int(port)


@contextmanager
def connection(client: socket.socket, listener: socket.socket) -> Iterator[tuple[socket.socket, Endpoint]]:
    """Connect, and get the other side's socket and the source that it sees."""
    client.connect(local(listener))
    accepted, (address, port, *_) = listener.accept()
    with client, accepted:
        accepted.settimeout(TIMEOUT)
        yield accepted, (str(address), int(port))


def arrives(receiver: socket.socket, sent: bytes, last: bytes) -> bool:
    """Whether a datagram arrived before a later one that is known to pass."""
    seen = False
    while (data := receiver.recv(2000)) != last:
        seen = seen or data == sent
    return seen


def nothing_waits(receiver: socket.socket) -> bool:
    """Whether no datagram has come; to be asked when a later one has arrived elsewhere."""
    receiver.setblocking(False)
    with suppress(BlockingIOError):
        receiver.recv(2000)
        return False
    return True


def attempt(host: Host, to: Endpoint) -> Attempt:
    """What becomes of a TCP connection from the host."""
    with tcp(host, ipv6=":" in to[0]) as client:
        client.settimeout(SILENCE)
        try:
            client.connect(to)
        except ConnectionRefusedError:
            return Attempt.REFUSED
        except TimeoutError:
            return Attempt.SILENCE
        return Attempt.CONNECTED


def udp_admits(inside: Host, one: Host, two: Host) -> Admitted:
    """Who may send to a UDP mapping that was made by sending to ``one``."""
    with udp(inside) as client, udp(one) as known, udp(one) as other_port, udp(two) as other_host:
        external = mapped(client, known)
        other_port.sendto(b"other port", external)
        known.sendto(b"end 1", external)
        same_address = arrives(client, b"other port", b"end 1")
        other_host.sendto(b"other host", external)
        known.sendto(b"end 2", external)
        return Admitted(same_address, arrives(client, b"other host", b"end 2"))


def tcp_admits(inside: Host, one: Host, two: Host) -> Admitted:
    """Who may connect to a port that the inside listens on, and from which it has connected to ``one``."""
    with ExitStack() as stack:
        listener = stack.enter_context(listen(inside))
        client = tcp(inside, local(listener)[1])
        _, external = stack.enter_context(connection(client, stack.enter_context(listen(one))))
        from_one, from_two = attempt(one, external), attempt(two, external)
        return Admitted(from_one is Attempt.CONNECTED, from_two is Attempt.CONNECTED)


def punch(one: socket.socket, two: socket.socket, to_one: Endpoint, to_two: Endpoint) -> None:
    """Simultaneous open: both TCP sockets dial each other's external endpoint until they meet.

    The way between their NATs must take longer than dialling twice does, since a SYN that arrives before the other
    side's has left may be refused. A refused socket dials again.
    """
    deadline = time.monotonic() + TIMEOUT
    dialling = {one: to_two, two: to_one}
    for client in dialling:
        client.setblocking(False)
    while dialling:
        for client, to in list(dialling.items()):
            error = client.connect_ex(to)
            if error in {0, errno.EISCONN}:
                client.settimeout(TIMEOUT)
                del dialling[client]
            elif error not in {errno.EINPROGRESS, errno.EALREADY, errno.ECONNREFUSED}:
                raise OSError(error, os.strerror(error))
        if time.monotonic() > deadline:
            raise TimeoutError(f"still dialling {list(dialling.values())} after {TIMEOUT} s")
        select.select([], list(dialling), [], 0.05)
