"""Streams as sockets: bulk, backpressure, half-close, loss; nothing is left open."""

from __future__ import annotations

import asyncio
import random
import socket
import threading

import pytest
from circuits import behind_a_relay
from descriptors import descriptors, opened_since
from swarm_pairs import connected, wired
from waiting import until

from lattica.errors import StreamError
from lattica.identity import IdentityKey, PeerId
from lattica.swarm import Swarm, socket_streams
from lattica.swarm.transport import MAX_BUFFERED

PIPE = "/test/pipe/1"
STALL_S = 6.0
"""Longer than the 5 s after which py-libp2p's yamux gives up on a reader."""


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while data := await loop.sock_recv(sock, 1 << 16):
        received += data
    return bytes(received)


async def echo(peer: PeerId, sock: socket.socket) -> None:
    """All that comes, back when it has ended."""
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_sendall(sock, await read_all(sock))


async def test_bytes_and_ends_go_both_ways() -> None:
    data = random.Random(1).randbytes(3_000_000)
    before = descriptors("socket")
    async with connected() as (alice, bob, _), asyncio.timeout(30):
        bob.serve_sockets(PIPE, echo)
        with await alice.open_socket(bob.key.peer_id, PIPE) as sock:
            assert not sock.getblocking()
            await asyncio.get_running_loop().sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
            assert await read_all(sock) == data
        await all_given_back(alice, bob)
    assert opened_since(before, "socket") == []


async def all_given_back(alice: Swarm, bob: Swarm) -> None:
    async def records(one: Swarm, other: Swarm) -> int:
        async def count() -> int:
            link = one._host.connection_to(other.key.peer_id)
            return len(link._muxed.streams) if link is not None else 0

        return await one._thread.call(count)

    async with asyncio.timeout(30):
        while await records(alice, bob) or await records(bob, alice):
            await asyncio.sleep(0.01)


async def test_a_socket_goes_through_a_circuit_as_well() -> None:
    data = random.Random(2).randbytes(2_000_000)
    async with behind_a_relay() as net, asyncio.timeout(40):
        net.target.serve_sockets(PIPE, echo)
        await net.client.connect(net.target.key.peer_id, [net.address])
        with await net.client.open_socket(net.target.key.peer_id, PIPE) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
            assert await read_all(sock) == data


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "circuit"])
async def test_a_reader_that_stalls_makes_the_writer_wait_and_breaks_nothing(way: str) -> None:
    """Yamux itself gives up after 5 s; meanwhile the connection serves others."""
    size = 4_000_000
    async with behind_a_relay() as net, asyncio.timeout(50):
        go_on = asyncio.Event()
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def late(peer: PeerId, sock: socket.socket) -> None:
            with sock:
                await go_on.wait()
                received.put_nowait(await read_all(sock))

        client, server = (net.client, net.target) if way == "circuit" else (net.client, net.relay)
        server.serve_sockets(PIPE, late)
        await client.connect(server.key.peer_id, [net.address if way == "circuit" else net.at])
        loop = asyncio.get_running_loop()
        data = random.Random(3).randbytes(size)
        with await client.open_socket(server.key.peer_id, PIPE) as sock:
            sending = asyncio.ensure_future(loop.sock_sendall(sock, data))
            done, _ = await asyncio.wait([sending], timeout=STALL_S)
            assert not done, "no more than windows and buffers is taken"
            assert await client.ping(server.key.peer_id) > 0
            go_on.set()
            await sending
            sock.shutdown(socket.SHUT_WR)
            assert await received.get() == data


async def test_many_readers_that_stall_do_not_cost_the_connection() -> None:
    """What their windows hold together is more than a connection may buffer of other streams."""
    count, size = 120, 640 * 1024
    async with connected() as (alice, bob, _), asyncio.timeout(50), asyncio.TaskGroup() as tasks:
        go_on = asyncio.Event()
        totals: asyncio.Queue[int] = asyncio.Queue()

        async def late(peer: PeerId, sock: socket.socket) -> None:
            with sock:
                await go_on.wait()
                totals.put_nowait(len(await read_all(sock)))

        bob.serve_sockets(PIPE, late)
        loop = asyncio.get_running_loop()

        async def send(sock: socket.socket) -> None:
            with sock:
                await loop.sock_sendall(sock, bytes(size))
                sock.shutdown(socket.SHUT_WR)
                await read_all(sock)

        for _ in range(count):
            tasks.create_task(send(await alice.open_socket(bob.key.peer_id, PIPE)))
        link = bob._host.connection_to(alice.key.peer_id)
        assert link is not None
        await until(lambda: sum(map(len, [*link._muxed.stream_buffers.values()])) > MAX_BUFFERED, 30)
        assert await alice.ping(bob.key.peer_id) > 0
        go_on.set()
        assert [await totals.get() for _ in range(count)] == [size] * count


async def test_a_protocol_that_is_not_served_gives_no_socket() -> None:
    before = descriptors("socket")
    async with connected() as (alice, bob, _):
        with pytest.raises(StreamError, match="does not serve"):
            await alice.open_socket(bob.key.peer_id, PIPE)
        with pytest.raises(StreamError, match="not connected"):
            await alice.open_socket(IdentityKey.generate().peer_id, PIPE)
    assert opened_since(before, "socket") == []


async def test_a_lost_connection_ends_the_sockets_of_both_sides() -> None:
    async with connected() as (alice, bob, address):
        await alice.disconnect(bob.key.peer_id)
        ends: asyncio.Queue[object] = asyncio.Queue()
        running = asyncio.Event()

        async def serve(peer: PeerId, sock: socket.socket) -> None:
            with sock:
                running.set()
                try:
                    ends.put_nowait(await read_all(sock))
                except (ConnectionError, asyncio.CancelledError) as error:
                    ends.put_nowait(error)
                    raise

        bob.serve_sockets(PIPE, serve)
        async with wired(address) as wire, asyncio.timeout(30):
            await until(lambda: not alice.is_connected(bob.key.peer_id))
            await alice.connect(bob.key.peer_id, [wire.address])
            with await alice.open_socket(bob.key.peer_id, PIPE) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, b"x")
                await running.wait()
                wire.cut()
                assert await read_to_the_end(sock) == b""
            await ends.get()


async def read_to_the_end(sock: socket.socket) -> bytes:
    try:
        return await read_all(sock)
    except ConnectionError:
        return b""


async def test_a_handler_that_raises_resets_the_stream() -> None:
    before = descriptors("socket")
    async with connected() as (alice, bob, _), asyncio.timeout(30):

        async def fail(peer: PeerId, sock: socket.socket) -> None:
            assert peer == alice.key.peer_id
            raise ZeroDivisionError

        bob.serve_sockets(PIPE, fail)
        with await alice.open_socket(bob.key.peer_id, PIPE) as sock:
            assert await read_to_the_end(sock) == b""
        await all_given_back(alice, bob)
        assert await alice.ping(bob.key.peer_id) > 0
    assert opened_since(before, "socket") == []


async def test_a_socket_may_outlive_its_handler() -> None:
    """The gateway hands it to its pump and returns."""
    async with connected() as (alice, bob, _), asyncio.timeout(30):
        kept: asyncio.Queue[socket.socket] = asyncio.Queue()

        async def keep(peer: PeerId, sock: socket.socket) -> None:
            kept.put_nowait(sock)

        bob.serve_sockets(PIPE, keep)
        loop = asyncio.get_running_loop()
        with await alice.open_socket(bob.key.peer_id, PIPE) as near, await kept.get() as far:
            await loop.sock_sendall(near, b"there")
            assert await loop.sock_recv(far, 100) == b"there"
            await loop.sock_sendall(far, b"back")
            assert await loop.sock_recv(near, 100) == b"back"
        await all_given_back(alice, bob)


async def test_a_closed_socket_does_not_wait_for_a_silent_peer_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is only shut down for writing does."""
    monkeypatch.setattr(socket_streams, "LINGER_S", 0.2)
    monkeypatch.setattr(socket_streams, "HANG_UP_CHECK_S", 0.05)
    async with connected() as (alice, bob, _), asyncio.timeout(30):
        ended: asyncio.Queue[int] = asyncio.Queue()
        answer = asyncio.Event()

        async def silent(peer: PeerId, sock: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            with sock:
                assert await read_all(sock) == b""
                await answer.wait()
                try:
                    while True:
                        await loop.sock_sendall(sock, b"late")
                        await asyncio.sleep(0.01)
                except ConnectionError:
                    ended.put_nowait(1)

        bob.serve_sockets(PIPE, silent)
        half = await alice.open_socket(bob.key.peer_id, PIPE)
        half.shutdown(socket.SHUT_WR)
        gone = await alice.open_socket(bob.key.peer_id, PIPE)
        gone.close()

        async def streams() -> int:
            link = alice._host.connection_to(bob.key.peer_id)
            assert link is not None
            return len(link._muxed.streams)

        while await alice._thread.call(streams) != 1:
            await asyncio.sleep(0.01)
        answer.set()
        assert await asyncio.get_running_loop().sock_recv(half, 4) == b"late"
        half.close()
        assert [await ended.get(), await ended.get()] == [1, 1]


async def test_cancelled_opens_leave_no_socket() -> None:
    before = descriptors("socket")
    async with connected() as (alice, bob, _):
        bob.serve_sockets(PIPE, echo)
        moment = random.Random(5)
        for _ in range(60):
            try:
                async with asyncio.timeout(moment.random() * 0.006):
                    sock = await alice.open_socket(bob.key.peer_id, PIPE)
            except TimeoutError:
                continue
            sock.close()
        await all_given_back(alice, bob)
    assert opened_since(before, "socket") == []


async def test_a_stop_closes_all_sockets() -> None:
    before, threads = descriptors("socket"), set(threading.enumerate())
    async with connected() as (alice, bob, _):
        bob.serve_sockets(PIPE, echo)
        sockets = [await alice.open_socket(bob.key.peer_id, PIPE) for _ in range(5)]
    for sock in sockets:
        with sock:
            assert await read_to_the_end(sock) == b""
    assert opened_since(before, "socket") == []
    assert set(threading.enumerate()) <= threads
