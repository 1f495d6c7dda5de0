"""A node's second STUN port on loopback: when it is open, what it answers, and whose places its clients take."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from waiting import until

from lattica.background import background_tasks
from lattica.errors import RemoteProtocolError
from lattica.identity import PeerAddress
from lattica.mesh import listener as listener_module
from lattica.mesh.listener import Unproven
from lattica.mesh.reachability import Reachability
from lattica.mesh.stun_client import learn_mapping
from lattica.mesh.stun_second import SecondStunPort

PUBLIC, PRIVATE, UNKNOWN = Reachability.PUBLIC, Reachability.PRIVATE, Reachability.UNKNOWN
HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def second_port(port: int = 0, unproven: Unproven | None = None) -> AsyncIterator[SecondStunPort]:
    async with background_tasks() as tasks:
        yield SecondStunPort(HOST, port, unproven or Unproven(), tasks)


async def opened(second: SecondStunPort) -> PeerAddress:
    await until(lambda: second.number is not None)
    assert second.number is not None
    return PeerAddress.tcp(HOST, second.number)


async def closed(second: SecondStunPort, address: PeerAddress) -> None:
    async with asyncio.timeout(20):
        while second.number is not None or not await refused(address):
            await asyncio.sleep(0)


async def refused(address: PeerAddress) -> bool:
    """Whether nobody listens; a connection that was made in the last moment is reset."""
    try:
        (await learn_mapping(address, 0, local_host=HOST)).close()
    except ConnectionRefusedError:
        return True
    except (ConnectionError, RemoteProtocolError):
        pass
    return False


async def test_it_answers_while_the_node_can_be_dialled() -> None:
    async with second_port() as second:
        second.changed(PUBLIC)
        address = await opened(second)
        with contextlib.closing(await learn_mapping(address, 0, local_host=HOST)) as held:
            assert held.mapped == held.local
            assert held.second_port is None
        second.changed(PRIVATE)
        await closed(second, address)


@pytest.mark.parametrize("state", [UNKNOWN, PRIVATE])
async def test_it_is_not_open_unless_the_node_can_be_dialled(state: Reachability) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    async with second_port(port) as second:
        second.changed(state)
        for _ in range(10):
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await learn_mapping(PeerAddress.tcp(HOST, port), 0, local_host=HOST)


async def test_it_opens_again_at_once_where_it_was_named() -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    async with second_port(port) as second:
        second.changed(PUBLIC)
        with contextlib.closing(await learn_mapping(await opened(second), 0, local_host=HOST)):
            for state in (PRIVATE, PUBLIC, PRIVATE, PUBLIC):
                second.changed(state)
            await asyncio.sleep(0)
        (await learn_mapping(await opened(second), 0, local_host=HOST)).close()
        assert second.number == port


async def test_a_port_that_somebody_has_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server((HOST, 0)) as taken:
        async with second_port(taken.getsockname()[1]) as second:
            second.changed(PUBLIC)
            await until(lambda: caplog.records)
            assert second.number is None
            second.changed(PRIVATE)
    assert ["no second stun port" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("first", [b"L", b"\x13", b"R", b"D"])
async def test_nothing_but_stun_is_answered(first: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with second_port() as second:
        second.changed(PUBLIC)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, (await opened(second)).port))
            await loop.sock_sendall(sock, first)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(sock, 1) == b""


async def test_a_stranger_has_no_more_places_at_both_ports_than_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes to the second displaces its own oldest connection to the first."""
    monkeypatch.setattr(listener_module, "MAX_UNPROVEN_PER_HOST", 3)
    loop, unproven = asyncio.get_running_loop(), Unproven()
    async with (
        listener_module.open_listener(HOST, 0, {}, unproven=unproven) as first,
        second_port(unproven=unproven) as second,
    ):
        first.start()
        second.changed(PUBLIC)
        port = (await opened(second)).port
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.socket()) for _ in range(4)]
            for sock, where in zip(socks, (first.port, first.port, port, port), strict=True):
                sock.setblocking(False)
                await loop.sock_connect(sock, (HOST, where))
            async with asyncio.timeout(10):
                assert await loop.sock_recv(socks[0], 1) == b""
            for sock in socks[1:]:
                with pytest.raises(BlockingIOError):
                    sock.recv(1)


async def test_its_end_leaves_nothing_open() -> None:
    async with second_port() as second:
        second.changed(PUBLIC)
        address = await opened(second)
        held = await learn_mapping(address, 0, local_host=HOST)
    with contextlib.closing(held):
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(held.sock, 1) == b""
    assert await refused(address)
