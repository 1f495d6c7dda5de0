"""One port that listens and dials: how often, and whom it lets in. On loopback, without NATs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from black_hole import refusing_address
from waiting import until

from lattica.background import background_tasks
from lattica.identity import PeerAddress
from lattica.mesh import punch_port
from lattica.mesh.accepting import accept
from lattica.mesh.listener import open_listener
from lattica.mesh.punch_candidates import PunchPlan
from lattica.mesh.punch_port import (
    MAX_CONNECTIONS,
    MAX_DIALS,
    MAX_PAUSE_S,
    PAUSE_GROWTH_S,
    HandOver,
    PunchPort,
    open_punch_port,
)
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


@contextlib.asynccontextmanager
async def running(
    port: PunchPort, plan: PunchPlan, hand_over: HandOver, *, after: float = 0.0
) -> AsyncIterator[dict[str, str]]:
    """A round that begins ``after`` so many seconds and ends with the block; what becomes of its targets."""
    attempts: dict[str, str] = {}
    at = time.monotonic() + after
    async with background_tasks() as tasks:
        tasks.start(port.run_round(plan, at, at + 1000, hand_over, attempts))
        yield attempts


async def test_a_target_that_refuses_is_dialled_again_for_a_second_but_not_a_thousand_times(
    port: PunchPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials: list[float] = []

    def counting(host: str, number: int) -> socket.socket:
        dials.append(time.monotonic())
        return bind_shared(host, number)

    monkeypatch.setattr(punch_port, "bind_shared", counting)
    with refusing_address() as target:
        async with running(port, a_plan(Endpoint(target.host, target.port)), Taken().take) as attempts:
            await until(lambda: len(dials) == MAX_DIALS)
            await asyncio.sleep(2 * MAX_PAUSE_S)
            assert attempts == {target.text: "connection refused"}
    assert len(dials) == MAX_DIALS
    shortest = 0.2 * PAUSE_GROWTH_S * sum(range(1, MAX_DIALS))  # a second on average
    assert dials[-1] - dials[0] > shortest


async def test_a_target_that_connects_is_handed_over_once(port: PunchPort) -> None:
    taken = Taken()
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Endpoint(*server.getsockname())
        async with running(port, a_plan(target), taken.take) as attempts:
            await until(lambda: taken.remotes)
            await asyncio.sleep(0.2)  # it is not dialled again
            assert attempts == {PeerAddress.tcp(*target).text: "connected"}
        sock, source = server.accept()
        sock.close()
    assert taken.remotes == [target]
    assert source[1] == port.offer.mapped.port


@pytest.mark.parametrize("counted", [True, False])
async def test_where_the_order_of_dials_counts_one_does_not_leave_with_another(
    port: PunchPort, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_port, "STAGGER_S", 1000.0)
    taken = Taken()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        targets = [Endpoint(*server.getsockname()) for server in (one, two)]
        async with running(port, replace(a_plan(*targets), is_counted=counted), taken.take) as attempts:
            await until(lambda: len(taken.remotes) == (1 if counted else 2))
            await asyncio.sleep(0.1)
    names = [PeerAddress.tcp(*target).text for target in targets]
    assert list(attempts) == (names[:1] if counted else names)


async def test_nobody_is_dialled_before_the_time(port: PunchPort) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        now = time.monotonic()
        async with running(port, a_plan(Endpoint(*server.getsockname())), Taken().take, after=0.4):
            sock, _ = await accept(server)
            assert time.monotonic() >= now + 0.4
            sock.close()


def connect_from(host: str, port: PunchPort) -> socket.socket:
    sock = socket.socket()
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", port.offer.mapped.port))
    return sock


async def test_the_peers_hosts_may_connect_from_any_port_and_strangers_may_not(port: PunchPort) -> None:
    taken = Taken()
    with connect_from("127.0.0.2", port) as friend, connect_from("127.0.0.3", port) as stranger:
        stranger.setblocking(False)
        async with running(port, a_plan(hosts=frozenset({"127.0.0.2"})), taken.take):
            async with asyncio.timeout(20):
                assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
            await until(lambda: taken.remotes)
        assert taken.remotes == [Endpoint(*friend.getsockname())]


async def test_there_is_an_end_to_how_many_connections_are_looked_at(port: PunchPort) -> None:
    taken = Taken()
    socks = [connect_from("127.0.0.2", port) for _ in range(MAX_CONNECTIONS)]
    async with running(port, a_plan(hosts=frozenset({"127.0.0.2"})), taken.hold):
        await until(lambda: len(taken.remotes) == MAX_CONNECTIONS)
        with connect_from("127.0.0.2", port) as one_too_many:
            one_too_many.setblocking(False)
            async with asyncio.timeout(20):
                assert await asyncio.get_running_loop().sock_recv(one_too_many, 1) == b""
        for sock in socks:
            sock.close()
    assert len(taken.remotes) == MAX_CONNECTIONS


async def test_a_round_that_is_cancelled_closes_what_it_has_not_handed_over(port: PunchPort) -> None:
    taken = Taken()
    with connect_from("127.0.0.2", port) as sock:
        async with running(port, a_plan(hosts=frozenset({"127.0.0.2"})), taken.hold):
            await until(lambda: taken.remotes)
        sock.settimeout(20)
        assert sock.recv(1) == b""


async def test_an_offer_names_no_loopback_address(port: PunchPort) -> None:
    assert not any(host.host.startswith("127.") for host in port.offer.hosts)
    assert {host.port for host in port.offer.hosts} <= {port.offer.mapped.port}


@pytest.mark.parametrize("turns", range(5))
async def test_a_round_cancelled_while_somebody_connects_loses_no_socket(port: PunchPort, turns: int) -> None:
    """At whatever turn of the loop the cancellation comes; what nobody closes is a warning, and so an error."""
    async with running(port, a_plan(hosts=frozenset({"127.0.0.2"})), Taken().take):
        for _ in range(5):
            await asyncio.sleep(0)  # it waits for connections
        with connect_from("127.0.0.2", port):
            for _ in range(turns):
                await asyncio.sleep(0)
    gc.collect()
