"""Sessions over time: peers restart, links are renewed, nodes drain and close, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import grpc
import pytest
import uvloop
from call_services import Services, Two, count_to, echo, echo_stub, lost, open_two, stream_stub
from descriptors import count_descriptors
from grpc.aio import AioRpcError
from mesh_rooms import StaticFinder, open_rooms
from rooms_process import rooms_process
from waiting import until

from lattica._proto import content_pb2
from lattica.errors import NetworkError, PeerUnreachableError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.identity.authority import LINK_CERTIFICATE_S
from lattica.mesh import Mesh, gateway, links
from lattica.mesh.links import Link
from lattica.mesh.pipes import has_ended
from lattica.rpc import PeerChannel, breaker, channel, rpc, server, session

PATIENCE_S = 30.0
"""Seconds for a call that should not need them; gRPC's own pauses grow to two minutes."""


class CountingOpener:
    """The mesh, counting the attempts to reach a peer."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.opened = 0

    async def open_route(self, peer: PeerId, **options: Any) -> Any:
        self.opened += 1
        return await self._mesh.open_route(peer, **options)


async def say(two: Two, text: str = "hello", timeout: float | None = PATIENCE_S) -> bytes:
    return (await two.echo.Echo(echo(text), timeout=timeout)).payload


async def test_a_peer_that_restarts_at_its_port_is_called_on_with_the_old_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PAUSE_MIN_S", 60.0)  # however long it takes to restart here
    monkeypatch.setattr(channel, "BREAKER_PAUSE_MAX_S", 60.0)
    key = IdentityKey.generate()
    async with open_rooms() as alice:
        async with open_rooms(key=key) as bob:
            Services(bob.rpc)
            stub = echo_stub(alice.knows(bob))
            await stub.Echo(echo("before"))
            port = bob.mesh.port
            link = alice.mesh._link_table.get(key.peer_id)
            # Who loses its native port has it asked for a new link, since that may tell another port: not needed here.
            monkeypatch.setattr(alice.mesh._link_table._links, "request", refused)
        await lost(alice.rpc.channel(key.peer_id))
        for _ in range(3):
            with pytest.raises(PeerUnreachableError, match="connection refused"):
                await stub.Echo(echo("meanwhile"), timeout=PATIENCE_S)
        async with open_rooms(key=key, port=port) as bob:
            Services(bob.rpc)
            with pytest.raises(PeerUnreachableError, match="circuit breaker: 2 attempts in a row failed"):
                await stub.Echo(echo("too soon"), timeout=PATIENCE_S)
            alice.rpc.heard_of(key.peer_id)
            assert (await stub.Echo(echo("after"), timeout=PATIENCE_S)).payload == b"after"
            assert alice.mesh._link_table.get(key.peer_id) is link


async def refused(peer: PeerId) -> Link:
    """A link request that fails."""
    raise NetworkError(f"no link to {peer}")


@pytest.mark.slow
async def test_a_peer_that_cannot_be_reached_is_looked_for_only_now_and_then() -> None:
    """Calls meanwhile fail at once, with the reason; and when it is back the next attempt finds it."""
    key = IdentityKey.generate()
    async with open_rooms() as alice:
        opener = CountingOpener(alice.mesh)
        alice.rpc._opener = opener
        async with open_rooms(key=key) as bob:
            Services(bob.rpc)
            port = bob.mesh.port
            stub = echo_stub(alice.knows(bob))
            await stub.Echo(echo("before"))
        await lost(alice.rpc.channel(key.peer_id))
        opener.opened = failed = 0
        async with asyncio.timeout(PATIENCE_S):
            while opener.opened < 4:
                with pytest.raises(PeerUnreachableError, match="connection refused"):
                    await stub.Echo(echo("meanwhile"), timeout=PATIENCE_S)
                failed += 1
                await asyncio.sleep(0)
        assert failed > 10 * opener.opened
        async with open_rooms(key=key, port=port) as bob, asyncio.timeout(PATIENCE_S):
            Services(bob.rpc)
            while True:
                try:
                    answer = await stub.Echo(echo("after"), timeout=PATIENCE_S)
                    break
                except PeerUnreachableError:
                    await asyncio.sleep(0.05)
            assert answer.payload == b"after"


async def test_a_peer_that_restarts_elsewhere_is_found_again() -> None:
    key = IdentityKey.generate()
    finder = StaticFinder()
    async with open_rooms() as alice:
        alice.mesh.finder = finder
        async with open_rooms(key=key) as bob:
            Services(bob.rpc)
            finder.known[key.peer_id] = [bob.address]
            stub = echo_stub(alice.rpc.channel(key.peer_id))
            await stub.Echo(echo("before"))
        await lost(alice.rpc.channel(key.peer_id))
        with pytest.raises(PeerUnreachableError, match="connection refused"):
            await stub.Echo(echo("meanwhile"), timeout=PATIENCE_S)
        async with open_rooms(key=key) as bob:
            Services(bob.rpc)
            finder.known[key.peer_id] = [bob.address]
            assert (await stub.Echo(echo("after"), timeout=PATIENCE_S)).payload == b"after"


@pytest.mark.slow
async def test_a_peer_that_is_killed_in_the_middle_of_a_stream_and_comes_back() -> None:
    key = IdentityKey.generate()
    async with open_rooms() as alice:
        async with rooms_process(key) as process:
            alice.mesh.add_addresses(key.peer_id, [process.address])
            peer = alice.rpc.channel(key.peer_id)
            stream = aiter(stream_stub(peer).GetManifest(count_to(1_000_000)))
            for expected in range(5):
                assert (await anext(stream)).total == expected
            await process.kill()
            with pytest.raises(AioRpcError) as caught:
                await asyncio.wait_for(_exhaust(stream), PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(PeerUnreachableError, match="connection refused"):
                await echo_stub(peer).Echo(echo("meanwhile"), timeout=PATIENCE_S)
        async with rooms_process(key, process.address.port):
            assert (await echo_stub(peer).Echo(echo("after"), timeout=PATIENCE_S)).payload == b"after"


async def _exhaust(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_a_lost_pipe_is_replaced_by_the_next_call() -> None:
    async with open_two(native_port=None) as two:
        await say(two)
        for _ in range(5):
            for pipe in two.alice.mesh._table.of(two.bob.peer_id):
                two.alice.mesh._table.drop(pipe)
            await until(lambda: not two.alice.mesh.paths(two.bob.peer_id))
            await lost(two.channel)
            assert await say(two) == b"hello"
        assert len(two.alice.mesh.paths(two.bob.peer_id)) == 1


async def test_a_pipe_that_waited_too_long_for_its_first_call_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's gRPC server closes what does not shake hands."""
    monkeypatch.setattr(gateway, "FIRST_PIPE_S", 0.0)
    async with open_two() as two:
        assert await say(two) == b"hello"


async def test_nor_is_one_that_has_ended_before_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the peer restarts between: gRPC's handshake on it would fail, and the call with it."""
    async with open_two(native_port=None) as two:
        bob, open_route = two.bob.mesh, two.alice.mesh.open_route
        ended: list[bool] = []

        async def lose(peer: PeerId, **options: Any) -> gateway.GatewayRoute:
            route = await open_route(peer, **options)
            assert isinstance(route, gateway.GatewayRoute)
            first = route._first
            assert first is not None
            await until(lambda: bool(bob.paths(two.alice.peer_id)))
            for pipe in bob._table.of(two.alice.peer_id):
                bob._table.drop(pipe)
            await until(lambda: has_ended(first))
            ended.append(True)
            return route

        monkeypatch.setattr(two.alice.mesh, "open_route", lose)
        assert await say(two) == b"hello"
        assert ended == [True]


async def test_a_draining_server_ends_what_runs_and_takes_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (server, channel):
        monkeypatch.setattr(room, "DRAIN_S", 600.0)
    async with open_rooms() as alice:
        async with contextlib.AsyncExitStack() as stack:
            bob = await stack.enter_async_context(open_rooms())
            services, peer = Services(bob.rpc), alice.knows(bob)
            stub = echo_stub(peer)
            running = stub.Echo(echo("running"), metadata=(("do", "wait"),))
            await until(lambda: services.echo.waiting == 1)
            async with asyncio.TaskGroup() as tasks:
                closing = tasks.create_task(stack.aclose())
                await lost(peer)
                with pytest.raises(AioRpcError) as caught:
                    await stub.Echo(echo("new"), timeout=PATIENCE_S)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert not closing.done()
                services.echo.go.set()
                assert (await running).payload == b"running"
        with pytest.raises(PeerUnreachableError, match="connection refused"):
            await stub.Echo(echo("later"), timeout=PATIENCE_S)


async def test_a_server_does_not_wait_for_ever_for_a_call_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DRAIN_S", 0.1)
    async with open_rooms() as alice:
        async with open_rooms() as bob:
            services = Services(bob.rpc)
            hanging = echo_stub(alice.knows(bob)).Echo(echo("x"), metadata=(("do", "wait"),))
            await until(lambda: services.echo.waiting == 1)
        with pytest.raises(AioRpcError):
            await hanging
        await until(lambda: services.echo.cancelled == 1)


async def test_calls_in_flight_when_their_node_closes_fail_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by a cancellation that nobody asked for, which would end a caller's task without a word."""
    monkeypatch.setattr(rpc, "DRAIN_S", 0.1)
    async with open_rooms() as bob, asyncio.TaskGroup() as tasks:
        services = Services(bob.rpc)
        services.streams.pause = 0.001
        async with open_rooms() as alice:
            peer = alice.knows(bob)

            async def one() -> None:
                await echo_stub(peer).Echo(echo("x"), metadata=(("do", "wait"),))

            async def many() -> None:
                await _exhaust(aiter(stream_stub(peer).GetManifest(count_to(1_000_000))))

            async def not_yet_started() -> None:
                await echo_stub(alice.rpc.channel(IdentityKey.generate().peer_id)).Echo(echo("x"))

            alice.mesh.finder = _NeverFinds()
            running = [tasks.create_task(_outcome(run())) for run in (one, many, not_yet_started)]
            await until(lambda: services.echo.waiting == 1)
        assert [await done for done in running] == ["node: it is closing"] * 3


class _NeverFinds:
    async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
        await asyncio.Event().wait()
        raise AssertionError


async def _outcome(call: Awaitable[None]) -> str:
    try:
        await call
    except PeerUnreachableError as error:
        return "; ".join(f"{what}: {reason}" for what, reason in error.attempts.items())
    return "done"


async def test_a_closing_node_lets_running_calls_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "DRAIN_S", 600.0)
    async with open_rooms() as bob, asyncio.TaskGroup() as tasks:
        services = Services(bob.rpc)
        async with open_rooms() as alice:
            call = echo_stub(alice.knows(bob)).Echo(echo("x"), metadata=(("do", "wait"),))
            await until(lambda: services.echo.waiting == 1)
            tasks.create_task(_set_soon(services.echo.go))
        assert (await call).payload == b"x"


async def _set_soon(event: asyncio.Event) -> None:
    await asyncio.sleep(0.1)
    event.set()


async def test_calls_on_a_closed_node_fail_with_a_reason() -> None:
    async with open_two() as two:
        await say(two)
    for peer in (two.channel, two.alice.rpc.channel(IdentityKey.generate().peer_id)):
        with pytest.raises(PeerUnreachableError, match="it is closing"):
            await echo_stub(peer).Echo(echo("x"))


async def test_a_channel_that_somebody_closed_is_made_anew() -> None:
    async with open_two() as two:
        await say(two)
        await two.channel.close()
        assert two.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(PeerUnreachableError, match="it is closing"):
            await say(two)
        assert (await echo_stub(two.alice.rpc.channel(two.bob.peer_id)).Echo(echo("y"))).payload == b"y"


async def test_a_channel_is_shared_and_so_no_context_manager() -> None:
    async with open_two() as two:
        assert two.alice.rpc.channel(two.bob.peer_id) is two.channel
        with pytest.raises(TypeError, match="shared"):
            await two.channel.__aenter__()


def _session(peer: PeerChannel) -> Any:
    return peer._session


async def test_an_ageing_session_is_replaced_while_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RENEW_BEFORE_S", 10 * LINK_CERTIFICATE_S)
    monkeypatch.setattr(channel, "RENEW_PAUSE_S", 0.0)
    async with open_two() as two:
        two.services.streams.pause = 0.002
        stream = two.streams.GetManifest(count_to(200))
        sessions: set[object] = set()
        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(_count(stream))
            while not counting.done():
                assert await say(two) == b"hello"
                sessions.add(_session(two.channel))
            assert counting.result() == list(range(200)), "a stream of a replaced session runs to its end"
        assert len(sessions) > 1
        await until(lambda: len(two.alice.mesh.paths(two.bob.peer_id)) <= 2)


async def _count(stream: grpc.aio.UnaryStreamCall[Any, content_pb2.ManifestPart]) -> list[int]:
    return [part.total async for part in stream]


async def test_an_ageing_session_serves_on_while_it_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RENEW_BEFORE_S", 10 * LINK_CERTIFICATE_S)
    monkeypatch.setattr(channel, "RENEW_PAUSE_S", 0.0)
    async with open_two(native_port=None) as two:
        await say(two)
        first = _session(two.channel)
        two.alice.mesh._link_table.forget()
        two.bob.swarm.stop_serving(links.LINK_PROTOCOL)
        for _ in range(20):
            assert await say(two) == b"hello"
            await asyncio.sleep(0.005)
        assert _session(two.channel) is first


@pytest.mark.slow
async def test_links_that_live_for_seconds_cost_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticket and session expire again and again under a caller who notices nothing."""
    monkeypatch.setattr(links, "LINK_CERTIFICATE_S", 7.0)
    monkeypatch.setattr(links, "RENEW_BEFORE_S", 6.4)
    monkeypatch.setattr(session, "RENEW_BEFORE_S", 6.3)
    monkeypatch.setattr(channel, "RENEW_PAUSE_S", 0.05)
    async with open_two() as two:
        sessions: set[object] = set()
        end = time.monotonic() + 8.0
        while time.monotonic() < end or len(sessions) < 3:
            assert await say(two) == b"hello"
            sessions.add(_session(two.channel))
            await asyncio.sleep(0.005)


async def test_a_link_that_has_expired_while_nobody_called_is_made_anew() -> None:
    async with open_two(native_port=None) as two:
        await say(two)
        first, now = two.alice.mesh._link_table.get(two.bob.peer_id), time.monotonic()
        assert first is not None
        two.alice.mesh._link_table._table[two.bob.peer_id] = dataclasses.replace(first, expires_at=now)
        _session(two.channel).route.expires_at = now
        assert await say(two) == b"hello"
        anew = two.alice.mesh._link_table.get(two.bob.peer_id)
        assert anew is not None
        assert anew.ticket != first.ticket


async def test_a_peer_that_forgot_the_link_is_asked_for_another() -> None:
    """A restart with the same key remembers; a server whose clock has jumped over the expiry does not."""
    async with open_two(native_port=None) as two:
        await say(two)
        first = two.alice.mesh._link_table.get(two.bob.peer_id)
        links = two.bob.mesh.links
        links.office = two.bob.mesh._inbound._office = type(links.office)(b"another")
        for pipe in two.alice.mesh._table.of(two.bob.peer_id):
            two.alice.mesh._table.drop(pipe)
        await lost(two.channel)
        assert await say(two) == b"hello"
        assert two.alice.mesh._link_table.get(two.bob.peer_id) is not first


@pytest.mark.slow
async def test_nothing_is_left_of_nodes_that_called_each_other() -> None:
    """Rounds of the whole life; grpc keeps a few descriptors of its own from the first on."""
    counts: list[int] = []
    for _ in range(4):
        async with open_two() as two:
            Services(two.alice.rpc)
            back = echo_stub(two.bob.knows(two.alice))
            await asyncio.gather(*(say(two) for _ in range(10)), *(back.Echo(echo("y")) for _ in range(10)))
            assert [part.total async for part in two.streams.GetManifest(count_to(10))] == list(range(10))
            with contextlib.suppress(PeerUnreachableError):
                await echo_stub(two.alice.rpc.channel(IdentityKey.generate().peer_id)).Echo(echo("nobody"))
        with contextlib.suppress(TimeoutError):  # what grpc closes in a thread of its own
            await until(lambda: bool(counts) and count_descriptors() <= counts[0], 10.0 if counts else 1.0)
        counts.append(count_descriptors())
    assert max(counts[1:]) <= counts[0]


def test_calls_work_on_uvloop_as_well() -> None:
    async def main() -> None:
        async with open_two(native_port=None) as two:
            assert await say(two) == b"hello"
            assert [part.total async for part in two.streams.GetManifest(count_to(100))] == list(range(100))
            for pipe in two.alice.mesh._table.of(two.bob.peer_id):
                two.alice.mesh._table.drop(pipe)
            await lost(two.channel)
            assert await say(two) == b"hello"
            with pytest.raises(PeerUnreachableError):
                await echo_stub(two.alice.rpc.channel(IdentityKey.generate().peer_id)).Echo(echo("x"), timeout=1)

    uvloop.run(main())


class _NoRoute:
    """An opener that finds nothing, and goes on looking."""

    def __init__(self) -> None:
        self.asked = 0

    async def open_route(
        self, peer: PeerId, *, timeout: float | None = None, attempts: dict[str, str] | None = None
    ) -> gateway.GatewayRoute:
        self.asked += 1
        if attempts is not None:
            attempts["everything"] = "no answer yet"
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_call_waits_while_nothing_gets_through_until_the_path_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stalled = True
    async with open_two(native_port=None) as two:
        await say(two)
        monkeypatch.setattr(gateway.GatewayRoute, "is_stalled", property(lambda _: stalled))
        monkeypatch.setattr(two.channel, "_opener", opener := _NoRoute())
        with pytest.raises(PeerUnreachableError, match="everything: no answer yet"):
            await say(two, timeout=0.2)
        calling = asyncio.ensure_future(say(two))
        done, _ = await asyncio.wait([calling], timeout=0.2)
        assert not done
        assert opener.asked == 1, "calls that wait share one attempt"
        stalled = False
        for route in two.alice.mesh._routes[two.bob.peer_id]:
            route.recovered()
        assert await calling == b"hello"
        assert two.services.echo.calls == 2


async def test_a_call_takes_another_path_while_nothing_gets_through_on_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_two(native_port=None) as two:
        await say(two)
        (first,) = two.alice.mesh._routes[two.bob.peer_id]
        monkeypatch.setattr(gateway.GatewayRoute, "is_stalled", property(lambda route: route is first))
        assert await say(two) == b"hello"
        await until(lambda: first not in two.alice.mesh._routes[two.bob.peer_id])
