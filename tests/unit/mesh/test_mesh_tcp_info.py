"""What is read of the kernel's view of a connection."""

from __future__ import annotations

import contextlib
import socket

import pytest

from lattica.mesh.tcp_info import STALLED_RETRANSMITS, TcpInfo, is_established, tcp_info


def test_a_working_connection_is_not_stalled_and_has_a_round_trip() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
            info = tcp_info(near)
            assert info is not None
            assert not info.is_stalled
            assert 0 < info.rtt < 10.0


def test_a_peer_that_does_not_read_is_not_a_stalled_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        near.setblocking(False)
        far, _ = server.accept()
        with far:
            with contextlib.suppress(BlockingIOError):
                while near.send(bytes(1 << 20)):
                    pass
            info = tcp_info(near)
            assert info is not None
            assert not info.is_stalled


def test_other_sockets_and_closed_ones_have_none() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert tcp_info(near) is None
    closed = socket.socket()
    closed.close()
    assert tcp_info(closed) is None


def test_a_connection_counts_its_bytes_and_knows_when_an_end_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        assert not is_established(server)
        far, _ = server.accept()
        near.sendall(bytes(1000))
        assert len(far.recv(1000)) == 1000
        info = tcp_info(far)
        assert info is not None
        assert (info.sent // 100, info.received) == (0, 1000)
        states = [is_established(near)]
        far.close()
        assert near.recv(1) == b""
        states.append(is_established(near))
        assert states == [True, False]
    assert not is_established(near)


@pytest.mark.parametrize(
    ("retransmits", "unacked", "stalled"),
    [
        (0, 10, False),
        (STALLED_RETRANSMITS - 1, 1, False),
        (STALLED_RETRANSMITS, 1, True),
        (STALLED_RETRANSMITS, 0, False),
    ],
)
def test_a_path_is_stalled_when_nothing_is_acknowledged_again_and_again(
    retransmits: int, unacked: int, stalled: bool
) -> None:
    assert TcpInfo(retransmits=retransmits, unacked=unacked, rtt=0.1).is_stalled is stalled
