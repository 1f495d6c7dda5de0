"""One port that listens and dials: how often, and whom it lets in. On loopback, without NATs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from lattica.identity import PeerAddress
from lattica.mesh import punch_port
from lattica.mesh.listener import open_listener
from lattica.mesh.punch_candidates import PunchPlan
from lattica.mesh.punch_port import MAX_CONNECTIONS, MAX_DIALS, PunchPort, open_punch_port
from lattica.mesh.stun import STUN_FIRST_BYTE, Endpoint
from lattica.mesh.stun_client import bind_shared
from lattica.mesh.stun_server import answer_stun


@pytest.fixture
async def port() -> AsyncIterator[PunchPort]:
    async with open_listener("127.0.0.1", 0, {STUN_FIRST_BYTE: answer_stun}) as listener:
        listener.start()
        server = PeerAddress.tcp("127.0.0.1", listener.port)
        async with open_punch_port([server], "0.0.0.0", {}) as opened:
            yield opened


class Taken:
    """Sockets that were handed over."""

    def __init__(self) -> None:
        self.remotes: list[Endpoint] = []

    async def take(self, sock: socket.socket, remote: Endpoint) -> None:
        self.remotes.append(remote)
        sock.close()

    async def hold(self, sock: socket.socket, remote: Endpoint) -> None:
        self.remotes.append(remote)
        with sock:
            await asyncio.get_running_loop().sock_recv(sock, 1)


def a_plan(*targets: Endpoint, hosts: frozenset[str] = frozenset()) -> PunchPlan:
    return PunchPlan(targets=targets, hosts=hosts or frozenset(target.host for target in targets), is_late=False)


async def run_for(port: PunchPort, plan: PunchPlan, seconds: float, taken: Taken) -> dict[str, str]:
    now, attempts = time.monotonic(), dict[str, str]()
    await port.run_round(plan, now, now + seconds, taken.take, attempts)
    return attempts


def refused() -> Endpoint:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return Endpoint(*closed.getsockname())


@pytest.mark.slow
async def test_a_target_that_refuses_is_dialled_again_for_a_second_but_not_a_thousand_times(
    port: PunchPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials: list[float] = []

    def counting(host: str, number: int) -> socket.socket:
        dials.append(time.monotonic())
        return bind_shared(host, number)

    monkeypatch.setattr(punch_port, "bind_shared", counting)
    target = refused()
    attempts = await run_for(port, a_plan(target), 2.5, Taken())
    assert attempts == {PeerAddress.tcp(*target).text: "connection refused"}
    assert 10 < len(dials) <= MAX_DIALS
    assert dials[-1] - dials[0] > 0.4


async def test_a_target_that_connects_is_handed_over_once(port: PunchPort) -> None:
    taken = Taken()
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Endpoint(*server.getsockname())
        assert await run_for(port, a_plan(target), 1.0, taken) == {PeerAddress.tcp(*target).text: "connected"}
        sock, source = server.accept()
        sock.close()
    assert taken.remotes == [target]
    assert source[1] == port.offer.mapped.port


@pytest.mark.parametrize("counted", [True, False])
async def test_where_the_order_of_dials_counts_one_does_not_leave_with_another(
    port: PunchPort, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_port, "STAGGER_S", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        targets = [Endpoint(*server.getsockname()) for server in (one, two)]
        attempts = await run_for(port, replace(a_plan(*targets), is_counted=counted), 0.5, Taken())
    names = [PeerAddress.tcp(*target).text for target in targets]
    assert list(attempts) == (names[:1] if counted else names)


async def test_nobody_is_dialled_before_the_time(port: PunchPort) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        now, taken = time.monotonic(), Taken()
        running = asyncio.ensure_future(
            port.run_round(a_plan(Endpoint(*server.getsockname())), now + 0.4, now + 0.6, taken.take, {})
        )
        sock, _ = await asyncio.get_running_loop().sock_accept(server)
        assert time.monotonic() >= now + 0.4
        sock.close()
        await running


def connect_from(host: str, port: PunchPort) -> socket.socket:
    sock = socket.socket()
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", port.offer.mapped.port))
    return sock


async def test_the_peers_hosts_may_connect_from_any_port_and_strangers_may_not(port: PunchPort) -> None:
    taken = Taken()
    with connect_from("127.0.0.2", port) as friend, connect_from("127.0.0.3", port) as stranger:
        await run_for(port, a_plan(hosts=frozenset({"127.0.0.2"})), 1.0, taken)
        assert taken.remotes == [Endpoint(*friend.getsockname())]
        stranger.settimeout(5)
        assert stranger.recv(1) == b""


async def test_there_is_an_end_to_how_many_connections_are_looked_at(port: PunchPort) -> None:
    taken = Taken()
    socks = [connect_from("127.0.0.2", port) for _ in range(MAX_CONNECTIONS)]
    now = time.monotonic()
    running = asyncio.ensure_future(
        port.run_round(a_plan(hosts=frozenset({"127.0.0.2"})), now, now + 1, taken.hold, {})
    )
    async with asyncio.timeout(5):
        while len(taken.remotes) < MAX_CONNECTIONS:
            await asyncio.sleep(0.01)
    with connect_from("127.0.0.2", port) as one_too_many:
        one_too_many.setblocking(False)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(one_too_many, 1) == b""
    for sock in socks:
        sock.close()
    await running
    assert len(taken.remotes) == MAX_CONNECTIONS


async def test_a_round_that_is_cancelled_closes_what_it_has_not_handed_over(port: PunchPort) -> None:
    taken, now = Taken(), time.monotonic()
    with connect_from("127.0.0.2", port) as sock:
        running = asyncio.ensure_future(
            port.run_round(a_plan(hosts=frozenset({"127.0.0.2"})), now, now + 60, taken.hold, {})
        )
        async with asyncio.timeout(5):
            while not taken.remotes:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        sock.settimeout(5)
        assert sock.recv(1) == b""


async def test_an_offer_names_no_loopback_address(port: PunchPort) -> None:
    assert not any(host.host.startswith("127.") for host in port.offer.hosts)
    assert {host.port for host in port.offer.hosts} <= {port.offer.mapped.port}
