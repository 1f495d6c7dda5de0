"""Which native ports are dialled, and how gRPC's own connections are found among a process's descriptors."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import pytest

from lattica.identity import IdentityKey, PeerAddress, TlsIdentity
from lattica.mesh.grpc_socket import CAN_FIND, GrpcSockets
from lattica.mesh.links import Link
from lattica.mesh.native import native_port
from lattica.mesh.paths import PathInfo, PathKind
from lattica.mesh.preface import PipeTicket

BOB = IdentityKey.from_seed(bytes(32)).peer_id
needs_linux = pytest.mark.skipif(not CAN_FIND, reason="descriptors of the process are found on Linux alone")


def path(kind: PathKind, host: str = "192.0.2.7") -> PathInfo:
    return PathInfo(peer_id=BOB, kind=kind, remote=PeerAddress.tcp(host, 4737), since=0.0, rtt=0.01)


def link(number: int = 40000) -> Link:
    tls = TlsIdentity(authority=b"", private_key=b"", certificate=b"")
    return Link(
        peer_id=BOB,
        tls=tls,
        ticket=PipeTicket(b"", b""),
        candidates=(),
        native_port=number,
        expires_at=time.monotonic() + 1000,
    )


@pytest.mark.parametrize("kind", PathKind)
def test_only_an_address_that_was_dialled_and_proved_to_be_the_peers_is_dialled_again(kind: PathKind) -> None:
    dialled = native_port(path(kind), link())
    assert dialled == ((BOB, "192.0.2.7", 40000) if kind in {PathKind.LAN, PathKind.DIRECT} else None)


@pytest.mark.parametrize(
    ("host", "dialled"),
    [
        ("192.168.1.2", True),
        ("2001:db8::7", True),
        ("169.254.1.2", True),
        ("fe80::7", False),
        ("peer.example", False),
    ],
)
def test_addresses_that_may_mean_somebody_else_by_then_are_not_dialled(host: str, dialled: bool) -> None:
    assert (native_port(path(PathKind.LAN, host), link()) is not None) == dialled


def test_a_peer_without_a_native_port_is_not_dialled() -> None:
    assert native_port(path(PathKind.LAN), link(0)) is None


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def dialled(server: socket.socket, *, as_grpc_does: bool = True) -> socket.socket:
    """A connection to a server, made as gRPC makes them: from a socket of IPv6, which does not block."""
    host, port = server.getsockname()
    sock = socket.socket(socket.AF_INET6 if as_grpc_does else socket.AF_INET)
    sock.connect((f"::ffff:{host}" if as_grpc_does else host, port))
    sock.setblocking(False)
    return sock


@needs_linux
@pytest.mark.parametrize("as_grpc_does", [True, False])
def test_a_connection_is_found_by_where_it_leads(server: socket.socket, as_grpc_does: bool) -> None:
    with dialled(server, as_grpc_does=as_grpc_does) as sock, server.accept()[0] as far:
        sockets = GrpcSockets()
        found = sockets.find(server.getsockname())
        assert found is not None
        assert found.far.getsockname() == sock.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000, "as of our own pipes"
        states = [found.is_open]
        sock.send(bytes(1000))
        assert len(far.recv(1000)) == 1000
        far.send(bytes(500))
        assert len(sock.recv(500)) == 500
        assert (found.sent // 100, found.received) == (10, 500)
        assert sockets.find(server.getsockname()) is None, "each is found once"
        found.drop()
        assert sock.recv(1) == b""
        states.append(found.is_open)
        assert states == [True, False]
        sockets.release(found)
        assert found.received == 500, "what is known last"


@needs_linux
def test_one_of_two_connections_is_none_unless_the_other_is_known(server: socket.socket) -> None:
    sockets = GrpcSockets()
    with dialled(server) as first:
        old = sockets.find(server.getsockname())
        assert old is not None
        with dialled(server) as second:
            assert GrpcSockets().find(server.getsockname()) is None
            new = sockets.find(server.getsockname())
            assert new is not None
            assert new.far.getsockname() == second.getsockname()
            sockets.release(new)
        sockets.release(old)
        again = sockets.find(server.getsockname())
        assert again is not None
        assert again.far.getsockname() == first.getsockname()
        sockets.release(again)


@needs_linux
def test_a_socket_that_was_not_connected_when_it_was_looked_at_is_found_later(server: socket.socket) -> None:
    sockets = GrpcSockets()
    with socket.socket() as sock:
        sock.setblocking(False)
        assert sockets.find(server.getsockname()) is None
        assert sock.connect_ex(server.getsockname()) in {0, errno.EINPROGRESS}
        with server.accept()[0]:
            found = sockets.find(server.getsockname())
            assert found is not None
            sockets.release(found)


@needs_linux
def test_what_is_looked_at_is_left_alone(server: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        near, far = (stack.enter_context(sock) for sock in socket.socketpair())
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.connect(server.getsockname())
        blocking = stack.enter_context(socket.create_connection(server.getsockname()))
        ended = stack.enter_context(dialled(server))
        ended.shutdown(socket.SHUT_RDWR)
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(1.0)
        before = [sock.getblocking() for sock in (near, far, datagrams, blocking)]
        assert GrpcSockets().find(server.getsockname()) is None
        assert [sock.getblocking() for sock in (near, far, datagrams, blocking)] == before
        near.send(b"still here")
        assert far.recv(100) == b"still here"
