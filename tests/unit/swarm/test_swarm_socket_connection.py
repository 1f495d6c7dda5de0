"""The socket under Noise: what cancellation, slow peers and hostile handshakes do to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.utils import read_exactly

from lattica.identity import PeerAddress
from lattica.swarm.raw import MAX_HANDSHAKE, SEND_TIMEOUT_S, SocketConnection
from lattica.swarm.transport import configure_socket

REMOTE = PeerAddress.tcp("192.0.2.1", 4001)

Script = Callable[[SocketConnection, trio.SocketStream], Awaitable[None]]


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected TCP sockets with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near.connect(server.getsockname())
        far, _ = server.accept()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with near, far:
        yield near, far


def play(script: Script) -> None:
    """Run ``script`` with our end and the bare other end; the clock jumps when all wait.

    All wait for a moment, too, while the kernel does: 40 ms to acknowledge, 200 ms to send again.
    """

    async def main() -> None:
        with socket_pair() as (near, far):
            ours = SocketConnection(near, initiator=True, remote=REMOTE)
            other = trio.SocketStream(trio.socket.from_stdlib_socket(far))
            try:
                with trio.fail_after(3600):
                    await script(ours, other)
            finally:
                ours.abort()
                other.socket.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.4))


def test_a_read_gathers_what_comes_in_many_pieces() -> None:
    """py-libp2p's `read_exactly` asks 101 times and gives up."""

    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        async def dribble() -> None:
            for number in range(300):
                await other.send_all(bytes([number % 256]))
                await trio.testing.wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            assert await read_exactly(ours, 300) == bytes(number % 256 for number in range(300))

    play(script)


def test_reads_take_no_more_than_asked_and_lose_nothing_at_the_end() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        await other.send_all(b"0123456789")
        assert await ours.read(0) == b""
        assert await ours.read(3) == b"012"
        assert await ours.read() == b"3456789"
        await other.send_all(b"end")
        await other.send_eof()
        assert await ours.read(10) == b"end"
        assert await ours.read(10) == b""

    play(script)


def test_a_cancelled_read_loses_nothing() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        await other.send_all(b"half")
        with trio.move_on_after(1) as scope:
            await ours.read(8)
        assert scope.cancelled_caught
        await other.send_all(b"full")
        assert await ours.read(8) == b"halffull"

    play(script)


def test_a_handshake_has_so_many_bytes_and_no_more() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        with pytest.raises(ConnectionClosedError, match="handshake"):
            await ours.read(1 << 60)

    play(script)


def test_a_handshake_counts_what_is_used_not_what_was_read_ahead() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.send_all, bytes(3 * MAX_HANDSHAKE))
            for _ in range(MAX_HANDSHAKE // 1024):
                await ours.read(1024)
            with pytest.raises(ConnectionClosedError, match="handshake"):
                await ours.read(1)
            ours.handshake_done()
            assert len(await ours.read(2 * MAX_HANDSHAKE)) == 2 * MAX_HANDSHAKE

    play(script)


def test_a_cancelled_write_is_sent_to_the_end() -> None:
    """Noise has numbered the message already."""

    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        message = bytes(range(256)) * 1000

        async def write_and_give_up() -> None:
            with trio.move_on_after(0.5):
                await ours.write(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_and_give_up)
            await trio.sleep(1)
            received = b""
            while len(received) < len(message):
                received += await other.receive_some(10_000)
        assert received == message

    play(script)


def test_a_write_that_nobody_takes_closes_the_connection_in_time() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        started = trio.current_time()
        with pytest.raises(ConnectionClosedError, match="too long"):
            await ours.write(bytes(50_000_000))
        assert trio.current_time() - started == pytest.approx(SEND_TIMEOUT_S, abs=0.5)
        with pytest.raises(ConnectionClosedError):
            await ours.read(1)

    play(script)


def test_at_the_end_a_write_has_to_hurry() -> None:
    """The one under way, and those behind it."""

    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(ConnectionClosedError):
                    await ours.write(bytes(50_000_000))

            nursery.start_soon(write)
            await trio.sleep(1)
            ours.hurry(0.5)
        assert trio.current_time() - started == pytest.approx(1.5, abs=0.3)
        with pytest.raises(ConnectionClosedError):
            await ours.write(b"x")

    play(script)


def test_hurrying_before_a_write_holds_for_it() -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        ours.hurry(0.5)
        started = trio.current_time()
        with pytest.raises(ConnectionClosedError):
            await ours.write(bytes(50_000_000))
        assert trio.current_time() - started == pytest.approx(0.5, abs=0.3)

    play(script)


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_whoever_reads_or_writes_a_lost_connection_gets_an_error(how: str) -> None:
    async def script(ours: SocketConnection, other: trio.SocketStream) -> None:
        async def read() -> None:
            with pytest.raises(ConnectionClosedError):
                await ours.read(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.1)
            if how == "abort":
                ours.abort()
            else:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                other.socket.close()
        with pytest.raises(ConnectionClosedError):
            await ours.write(bytes(100_000))

    play(script)


def test_sockets_notice_a_peer_that_vanished() -> None:
    with socket_pair() as (near, _):
        configure_socket(near)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        idle, interval, count = (
            near.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count == 30
