"""Calls that leave the gateways out: how they come to a peer's native port, and back when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from append_log import Log, log_process
from black_hole import black_hole
from call_services import Services, Two, count_to, echo, echo_stub, lost, open_two
from descriptors import count_descriptors
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey, PeerId
from lattica.mesh import PathEventKind, PathKind, native, path_watch
from lattica.mesh.links import LINK_PROTOCOL
from lattica.mesh.tcp_info import TcpInfo, tcp_info
from lattica.rpc import channel, native_session, server
from lattica.rpc.options import NATIVE_SERVER_OPTIONS

HOST = "127.0.0.1"
STILL_S = 0.5
"""Seconds in which what should not happen would."""


def ports(alice: Rooms, peer: PeerId) -> list[int]:
    """Where Alice's connections to a peer lead."""
    return [pipe.path.remote.port for pipe in alice.mesh.paths(peer) if pipe.path is not None]


async def native_only(alice: Rooms, bob: Rooms) -> None:
    """Wait until calls go to the native port, and nothing is left of the way that they took before."""
    await until(lambda: ports(alice, bob.peer_id) == [bob.rpc.native_port])


async def say(two: Two, timeout: float = 30.0) -> bytes:
    return (await two.echo.Echo(echo("hello"), timeout=timeout)).payload


def cut(alice: Rooms, peer: PeerId) -> None:
    for pipe in alice.mesh._table.of(peer):
        alice.mesh._table.drop(pipe)


class Door:
    """A port that counts who comes, and shuts the door at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.port = int(sock.getsockname()[1])
        self.came = 0

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        writer.close()


@contextlib.asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    sock = socket.create_server((HOST, 0))
    door = Door(sock)
    async with await asyncio.start_server(door.serve, sock=sock):
        yield door


async def test_calls_leave_the_gateways_out_once_the_peer_is_known_to_be_there() -> None:
    async with open_two() as two:
        with two.alice.mesh.watch_paths() as events:
            first = two.echo.Echo(echo("hello"), metadata=(("do", "wait"),))
            await until(lambda: two.services.echo.waiting == 1)
            assert two.bob.mesh.port in ports(two.alice, two.bob.peer_id), "the first call goes by a pipe"
            two.services.echo.go.set()
            assert (await first).payload == b"hello"
            await native_only(two.alice, two.bob)
            assert await say(two) == b"hello"
            seen = [(event.kind, event.path.remote.port) async for event in _some(events, 3) if event.path]
        assert seen == [
            (PathEventKind.OPENED, two.bob.mesh.port),
            (PathEventKind.OPENED, two.bob.rpc.native_port),
            (PathEventKind.CLOSED, two.bob.mesh.port),
        ]
        path = two.alice.mesh.path_to(two.bob.peer_id)
        assert path is not None
        assert (path.kind, two.channel.path_kind) == (PathKind.LAN, "lan")
        [pipe] = two.alice.mesh.paths(two.bob.peer_id)
        before = pipe.sent, pipe.received
        await two.echo.Echo(echo("x" * 100_000))
        [pipe] = two.alice.mesh.paths(two.bob.peer_id)
        assert pipe.received - before[1] > 100_000
        await until(lambda: two.alice.mesh.paths(two.bob.peer_id)[0].sent - before[0] > 100_000)
        assert pipe.rtt
        assert not two.bob.mesh.paths(two.alice.peer_id), "who is called sees pipes only"


async def _some(events: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    for _ in range(count):
        yield await anext(events)


async def test_no_call_notices_the_change() -> None:
    async with open_two() as two, asyncio.timeout(60):
        two.services.streams.pause = 0.001
        stream = two.streams.GetManifest(count_to(400))
        answered = 0
        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(_numbers(stream))
            while answered < 3000 or ports(two.alice, two.bob.peer_id)[-1] != two.bob.rpc.native_port:
                payloads = [str(answered + number) for number in range(50)]
                answers = await asyncio.gather(*(two.echo.Echo(echo(payload)) for payload in payloads))
                assert [answer.payload.decode() for answer in answers] == payloads
                answered += 50
        assert counting.result() == list(range(400)), "a stream ends where it began"
        assert two.services.echo.calls == answered
        await native_only(two.alice, two.bob)


async def _numbers(stream: Any) -> list[int]:
    return [part.total async for part in stream]


async def test_small_calls_move_and_each_runs_once(tmp_path: Path) -> None:
    key, path = IdentityKey.generate(), tmp_path / "log"
    async with open_rooms() as alice, log_process(key, path) as process:
        alice.mesh.add_addresses(key.peer_id, [process.address])
        log = alice.rpc.stub(Log, key.peer_id, timeout=30.0)
        numbers = await asyncio.gather(*(log.append(number, b"") for number in range(5000)))
        await until(lambda: len(set(ports(alice, key.peer_id)) - {process.address.port}) == 1)
        numbers += await asyncio.gather(*(log.append(number, b"") for number in range(5000, 6000)))
        assert numbers == list(range(6000))
        assert sorted(map(int, path.read_text().split())) == list(range(6000))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_native_connection_that_is_cut_costs_no_call_and_none_runs_twice(tmp_path: Path, seed: int) -> None:
    rng, key, path, calls = random.Random(seed), IdentityKey.generate(), tmp_path / "log", 3000
    async with open_rooms() as alice, log_process(key, path) as process:
        alice.mesh.add_addresses(key.peer_id, [process.address])
        log = alice.rpc.stub(Log, key.peer_id, timeout=45.0)
        await log.read(0)
        await until(lambda: bool(set(ports(alice, key.peer_id)) - {process.address.port}))
        await until(lambda: len(ports(alice, key.peer_id)) == 1)
        [native_port] = ports(alice, key.peer_id)
        calling = asyncio.gather(*(log.append(number, b"") for number in range(calls)))
        await until(lambda: path.stat().st_size > 0)
        await asyncio.sleep(rng.random() * 0.02)
        cut(alice, key.peer_id)
        assert await calling == list(range(calls))
        assert sorted(map(int, path.read_text().split())) == list(range(calls))
        await until(lambda: native_port not in ports(alice, key.peer_id))
        assert await log.read(0) == 0
        assert ports(alice, key.peer_id) == [process.address.port], "back at the gateway, for a while"


async def test_calls_that_run_on_a_connection_that_is_cut_fail_and_the_next_goes_by_the_gateway() -> None:
    async with open_two() as two:
        await say(two)
        await native_only(two.alice, two.bob)
        running = two.echo.Echo(echo("running"), metadata=(("do", "wait"),))
        await until(lambda: two.services.echo.waiting == 1)
        cut(two.alice, two.bob.peer_id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for _ in range(10):
            assert await say(two) == b"hello"
        await until(lambda: ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port])
        assert not two.alice.mesh._native._sockets._held


async def test_calls_come_back_to_a_port_whose_connection_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LOST_PAUSE_S", 0.3)
    async with open_two() as two:
        for _ in range(3):
            await say(two)
            await native_only(two.alice, two.bob)
            cut(two.alice, two.bob.peer_id)
            await until(lambda: not ports(two.alice, two.bob.peer_id))
            await lost(two.channel)


async def test_a_server_that_has_restarted_is_called_at_its_new_port() -> None:
    key = IdentityKey.generate()
    async with open_rooms() as alice:
        async with open_rooms(key=key) as bob:
            Services(bob.rpc)
            stub = echo_stub(alice.knows(bob))
            await stub.Echo(echo("before"))
            await native_only(alice, bob)
            port = bob.mesh.port
        await lost(alice.rpc.channel(key.peer_id))
        with pytest.raises(PeerUnreachableError):
            await stub.Echo(echo("meanwhile"), timeout=30)
        async with open_rooms(key=key, port=port) as bob:
            Services(bob.rpc)
            assert (await stub.Echo(echo("after"), timeout=30)).payload == b"after"
            await native_only(alice, bob)
            assert (await stub.Echo(echo("after"), timeout=30)).payload == b"after"


async def test_a_draining_server_ends_what_runs_on_its_native_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (server, channel):
        monkeypatch.setattr(room, "DRAIN_S", 600.0)
    async with open_rooms() as alice, contextlib.AsyncExitStack() as stack:
        bob = await stack.enter_async_context(open_rooms())
        services, stub = Services(bob.rpc), echo_stub(alice.knows(bob))
        await stub.Echo(echo("x"))
        await native_only(alice, bob)
        running = stub.Echo(echo("running"), metadata=(("do", "wait"),))
        await until(lambda: services.echo.waiting == 1)
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(stack.aclose())
            await lost(alice.rpc.channel(bob.peer_id))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Echo(echo("new"), timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not closing.done()
            services.echo.go.set()
            assert (await running).payload == b"running"


async def test_a_port_that_cannot_be_used_is_tried_once_and_calls_stay_at_the_gateway() -> None:
    async with open_two() as two, open_door() as door:
        two.bob.mesh.reach.native_port = door.port
        await say(two)
        await until(lambda: bool(two.alice.mesh._native._retry_at))
        assert door.came == 1
        again = echo_stub(two.alice.rpc.channel(two.bob.peer_id, interceptors=[_Nothing()]))
        await again.Echo(echo("another channel"))
        until_s = time.monotonic() + STILL_S
        while time.monotonic() < until_s:
            assert await say(two) == b"hello"
        assert door.came == 1
        assert ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port] * 2


class _Nothing(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc,unused-ignore]
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


async def test_a_firewall_that_drops_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_session, "CONNECT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(native, "REFUSED_PAUSE_S", 0.2)
    async with open_two() as two:
        native_port = two.bob.rpc.native_port
        with black_hole() as nowhere:
            two.bob.mesh.reach.native_port = nowhere.port
            await say(two)
            await until(lambda: bool(two.alice.mesh._native._retry_at))
            assert await say(two) == b"hello"
            assert ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port]
        two.bob.mesh.reach.native_port = native_port  # which it says when it is asked again
        await native_only(two.alice, two.bob)
        assert await say(two) == b"hello"


async def test_another_node_at_that_port_gets_no_call() -> None:
    async with open_two() as two, open_rooms() as carol:
        others = Services(carol.rpc)
        two.bob.mesh.reach.native_port = carol.rpc.native_port
        for _ in range(20):
            assert await say(two) == b"hello"
        await until(lambda: bool(two.alice.mesh._native._retry_at))
        assert await say(two) == b"hello"
        assert others.echo.calls == 0
        assert ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port]


@pytest.fixture
def strangers() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = []
        yield held
        for sock in held:
            stack.enter_context(sock)


async def test_strangers_who_fill_the_native_port_take_nothing_from_the_pipes(
    monkeypatch: pytest.MonkeyPatch, strangers: list[socket.socket]
) -> None:
    limit = 5
    patient = {"grpc.max_allowed_incoming_connections": limit, "grpc.server_handshake_timeout_ms": 600_000}
    monkeypatch.setattr(server, "NATIVE_SERVER_OPTIONS", list((dict(NATIVE_SERVER_OPTIONS) | patient).items()))
    monkeypatch.setattr(native, "REFUSED_PAUSE_S", 0.2)
    async with open_two() as two:
        strangers += [await _dialled(two.bob.rpc.native_port) for _ in range(limit)]
        assert await _is_turned_away(two.bob.rpc.native_port)
        channels = [two.alice.rpc.channel(two.bob.peer_id, interceptors=[_Nothing()]) for _ in range(2 * limit)]
        stubs = [echo_stub(one) for one in channels]
        for _ in range(3):
            await asyncio.gather(*(stub.Echo(echo("x"), timeout=30) for stub in stubs))
        await until(lambda: bool(two.alice.mesh._native._retry_at))
        assert ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port] * 2 * limit
        for stranger in strangers:
            stranger.close()
        strangers.clear()
        await until(lambda: two.bob.rpc.native_port in ports(two.alice, two.bob.peer_id))


async def _dialled(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    return sock


async def _is_turned_away(port: int) -> bool:
    with await _dialled(port) as sock:
        try:
            async with asyncio.timeout(20.0):
                return not await asyncio.get_running_loop().sock_recv(sock, 1)
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


async def test_who_has_no_certificate_of_the_nodes_gets_no_call_through() -> None:
    async with open_two() as two, open_rooms() as carol:
        Services(carol.rpc)
        await say(two)
        await echo_stub(two.alice.knows(carol)).Echo(echo("x"))
        for_bob, for_carol = (two.alice.mesh._link_table.get(peer.peer_id) for peer in (two.bob, carol))
        assert for_bob is not None
        assert for_carol is not None
        strange = [
            grpc.ssl_channel_credentials(for_bob.tls.authority),
            grpc.ssl_channel_credentials(for_bob.tls.authority, for_carol.tls.private_key, for_carol.tls.certificate),
        ]
        target, options = (
            f"{HOST}:{two.bob.rpc.native_port}",
            [("grpc.ssl_target_name_override", two.bob.peer_id.dns_label)],
        )
        before = two.services.echo.calls
        for credentials in strange:
            async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await echo_stub(channel).Echo(echo("x"), timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert two.services.echo.calls == before


@pytest.mark.parametrize("reason", ["the peer has no native port", "it is of an older version", "no Linux"])
async def test_without_a_native_port_calls_stay_at_the_gateway(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "no Linux":
        monkeypatch.setattr(native, "CAN_FIND", False)
    async with open_two(native_port=None if reason == "the peer has no native port" else 0) as two:
        if reason == "it is of an older version":
            two.bob.mesh.reach.native_port = 0
        assert await say(two) == b"hello"
        (session,) = [two.channel._session]
        assert session is not None
        async with asyncio.timeout(30):
            await asyncio.wait(session.watches, return_when=asyncio.FIRST_COMPLETED)  # it has given that up
        assert await say(two) == b"hello"
        assert ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port]
        assert bool(two.bob.rpc.native_port) == (reason != "the peer has no native port")


async def test_channels_to_one_peer_have_a_native_connection_each() -> None:
    async with open_two() as two:
        channels = [two.alice.rpc.channel(two.bob.peer_id, interceptors=[_Nothing()]) for _ in range(5)]
        await asyncio.gather(*(echo_stub(one).Echo(echo("x")) for one in channels))
        await until(lambda: ports(two.alice, two.bob.peer_id) == [two.bob.rpc.native_port] * 5)
        assert len(set(two.alice.mesh._native._sockets._held.values())) == 5
        await channels[0].close()
        await until(lambda: len(ports(two.alice, two.bob.peer_id)) == 4)
        for one in channels[1:]:
            assert (await echo_stub(one).Echo(echo("y"))).payload == b"y"


def _pretend_stalls(monkeypatch: pytest.MonkeyPatch, port: int) -> asyncio.Event:
    """While it is set, nothing seems to arrive on connections to a port."""
    stalls = asyncio.Event()

    def told(sock: socket.socket) -> TcpInfo | None:
        info = tcp_info(sock)
        with contextlib.suppress(OSError):  # it has ended
            if stalls.is_set() and sock.getpeername()[1] == port:
                return TcpInfo(retransmits=5, unacked=1, rtt=0.1)
        return info

    monkeypatch.setattr(path_watch, "tcp_info", told)
    return stalls


async def test_calls_go_by_the_gateway_while_nothing_gets_through_on_the_native_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(path_watch, "LOOK_S", 0.05)
    monkeypatch.setattr(path_watch, "DROP_AFTER_S", 600.0)
    async with open_two() as two:
        stalls = _pretend_stalls(monkeypatch, two.bob.rpc.native_port)
        await say(two)
        await native_only(two.alice, two.bob)
        running = two.echo.Echo(echo("running"), metadata=(("do", "wait"),))
        await until(lambda: two.services.echo.waiting == 1)
        stalls.set()
        await until(lambda: any(pipe.is_stalled for pipe in two.alice.mesh.paths(two.bob.peer_id)))
        assert await say(two) == b"hello"
        assert two.bob.mesh.port in ports(two.alice, two.bob.peer_id)
        assert [pipe.is_stalled for pipe in two.alice.mesh.paths(two.bob.peer_id)] == [True, False]
        stalls.clear()
        await until(lambda: not any(pipe.is_stalled for pipe in two.alice.mesh.paths(two.bob.peer_id)))
        two.services.echo.go.set()
        assert (await running).payload == b"running", "a call ends where it began, if it can"
        await until(lambda: ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port])


async def test_a_native_connection_that_stays_stalled_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_watch, "LOOK_S", 0.05)
    monkeypatch.setattr(path_watch, "DROP_AFTER_S", 0.3)
    async with open_two() as two:
        await say(two)
        await native_only(two.alice, two.bob)
        running = two.echo.Echo(echo("running"), metadata=(("do", "wait"),))
        await until(lambda: two.services.echo.waiting == 1)
        _pretend_stalls(monkeypatch, two.bob.rpc.native_port).set()
        await until(lambda: any(pipe.is_stalled for pipe in two.alice.mesh.paths(two.bob.peer_id)))
        assert await say(two) == b"hello"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await say(two) == b"hello"
        await until(lambda: ports(two.alice, two.bob.peer_id) == [two.bob.mesh.port])


async def test_a_peer_that_grants_no_new_link_is_called_on_by_the_gateway() -> None:
    """It is asked where its native port is when that is lost."""
    async with open_two() as two:
        await say(two)
        await native_only(two.alice, two.bob)
        two.bob.swarm.stop_serving(LINK_PROTOCOL)
        cut(two.alice, two.bob.peer_id)
        await until(lambda: not ports(two.alice, two.bob.peer_id))
        await lost(two.channel)
        for _ in range(10):
            assert await say(two) == b"hello"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["idle", "used", "cut", "dialling"])
async def test_nothing_is_left_of_native_connections(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    dialling, connect = asyncio.Event(), native_session.NativeSession.connect

    async def noted(session: native_session.NativeSession) -> None:
        dialling.set()
        await connect(session)

    monkeypatch.setattr(native_session.NativeSession, "connect", noted)
    for _ in range(4):
        dialling.clear()
        async with open_two() as two:
            await say(two)
            if ending == "dialling":
                await dialling.wait()
            else:
                await native_only(two.alice, two.bob)
            if ending == "used":
                running = two.echo.Echo(echo("x"), metadata=(("do", "wait"),))
                await until(lambda: two.services.echo.waiting == 1)
                two.services.echo.go.set()
                await running
            elif ending == "cut":
                cut(two.alice, two.bob.peer_id)
        with contextlib.suppress(TimeoutError):  # what grpc closes in a thread of its own
            await until(lambda: bool(counts) and count_descriptors() <= counts[0], 10.0 if counts else 1.0)
        counts.append(count_descriptors())
    assert max(counts[1:]) <= counts[0]


async def test_a_service_called_by_two_channels_moves_with_its_streams() -> None:
    @rpc.service("counting")
    class Counting:
        @rpc.method
        async def up_to(self, number: int) -> AsyncIterator[int]:
            for one in range(number):
                yield one
                await asyncio.sleep(0)

    async with open_rooms() as alice, open_rooms() as bob:
        bob.rpc.serve(Counting())
        alice.knows(bob)
        stub = alice.rpc.stub(Counting, bob.peer_id, timeout=30.0)
        results: Sequence[list[int]] = await asyncio.gather(*(_all(stub.up_to(500)) for _ in range(20)))
        assert all(result == list(range(500)) for result in results)
        await native_only(alice, bob)
        assert await _all(stub.up_to(500)) == list(range(500))


async def _all(stream: AsyncIterator[int]) -> list[int]:
    return [one async for one in stream]


def test_calls_leave_the_gateways_out_on_uvloop_as_well() -> None:
    async def main() -> None:
        async with open_two() as two:
            for _ in range(2):
                assert await say(two) == b"hello"
                await until(lambda: len(ports(two.alice, two.bob.peer_id)) == 1)
            await native_only(two.alice, two.bob)
            cut(two.alice, two.bob.peer_id)
            await until(lambda: not ports(two.alice, two.bob.peer_id))
            await lost(two.channel)
            assert await say(two) == b"hello"

    uvloop.run(main())
