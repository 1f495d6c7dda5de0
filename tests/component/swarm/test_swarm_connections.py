"""Connecting: who proves to be whom, which address wins, and what either side learns about it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import trio
from patience import PATIENCE_S
from swarm_pairs import connected, listening, wired
from waiting import until

from lattica.errors import NetworkError, PeerUnreachableError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm import ConnectionInfo, Direction, PeerInfo, Swarm, dialing, host, open_swarm
from lattica.swarm.connection import Connection
from lattica.swarm.dialing import DIAL_STAGGER_S
from lattica.swarm.host import MAX_CONNECTIONS_PER_PEER

ECHO = "/test/echo/1"


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message


class Watch:
    """What a swarm's listeners were told; `until` waits for something to become true of it."""

    def __init__(self, swarm: Swarm) -> None:
        self.connected: list[ConnectionInfo] = []
        self.disconnected: list[ConnectionInfo] = []
        self.identified: list[PeerInfo] = []
        self._changed = asyncio.Event()
        swarm.subscribe(
            connected=lambda info: self._add(self.connected, info),
            disconnected=lambda info: self._add(self.disconnected, info),
            identified=lambda info: self._add(self.identified, info),
        )

    def _add(self, events: list[object] | list[ConnectionInfo] | list[PeerInfo], info: object) -> None:
        events.append(info)  # type: ignore[arg-type]
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():
                self._changed.clear()
                await self._changed.wait()


async def test_both_sides_learn_who_the_other_is_and_what_it_serves() -> None:
    async with open_swarm(IdentityKey.generate()) as alice, open_swarm(IdentityKey.generate()) as bob:
        bob.serve_requests(ECHO, echo, 100)
        at_alice, at_bob = Watch(alice), Watch(bob)
        async with listening(alice) as alices_address, listening(bob) as address:
            info = await alice.connect(bob.key.peer_id, [address])
            await at_alice.until(lambda: bool(at_alice.identified))
            await at_bob.until(lambda: bool(at_bob.identified))

        assert info == ConnectionInfo(peer_id=bob.key.peer_id, remote=address, direction=Direction.OUTBOUND)
        assert at_alice.connected == alice.connections() == [info]
        (inbound,) = at_bob.connected
        assert (inbound.peer_id, inbound.direction) == (alice.key.peer_id, Direction.INBOUND)
        assert alice.is_connected(bob.key.peer_id)
        assert bob.is_connected(alice.key.peer_id)

        (about_bob,), (about_alice,) = at_alice.identified, at_bob.identified
        assert alice.peer_info(bob.key.peer_id) == about_bob
        assert about_bob.peer_id == bob.key.peer_id
        assert ECHO in about_bob.protocols
        assert ECHO not in about_alice.protocols
        assert about_bob.addresses == (address,)
        assert about_alice.addresses == (alices_address,)
        assert about_bob.agent.startswith("lattica/")
        assert about_bob.observed is not None
        assert about_bob.observed.port == inbound.remote.port, "bob tells alice from which port he sees her"
        assert about_alice.observed == PeerAddress.tcp(address.host, address.port)


async def test_what_a_peer_said_is_remembered_after_it_has_gone() -> None:
    async with connected() as (alice, bob, _):
        watch = Watch(alice)
        await watch.until(lambda: alice.peer_info(bob.key.peer_id) is not None)
        await alice.disconnect(bob.key.peer_id)
        await watch.until(lambda: bool(watch.disconnected))
        assert not alice.is_connected(bob.key.peer_id)
        assert alice.peer_info(bob.key.peer_id) is not None


async def test_an_open_connection_is_used_again() -> None:
    async with connected() as (alice, bob, address):
        first = alice.connections()
        assert [await alice.connect(bob.key.peer_id, [address])] == first
        assert [await alice.connect(bob.key.peer_id)] == first, "no addresses needed then"
        assert [info.direction for info in [await bob.connect(alice.key.peer_id)]] == [Direction.INBOUND]


async def test_concurrent_connects_share_one_dial() -> None:
    async with open_swarm(IdentityKey.generate()) as alice, open_swarm(IdentityKey.generate()) as bob:
        async with listening(bob) as address:
            infos = await asyncio.gather(*(alice.connect(bob.key.peer_id, [address]) for _ in range(20)))
        assert len(set(infos)) == len(alice.connections()) == 1


async def test_another_peer_at_the_address_is_not_accepted() -> None:
    async with connected() as (alice, bob, address):
        somebody = IdentityKey.generate().peer_id
        plain = PeerAddress.tcp(address.host, address.port)
        with pytest.raises(PeerUnreachableError, match="another peer answered there") as caught:
            await alice.connect(somebody, [plain])
        assert caught.value.attempts == {plain.text: "another peer answered there"}
        assert not alice.is_connected(somebody)
        assert alice.is_connected(bob.key.peer_id)


async def test_an_address_that_names_another_peer_is_not_even_dialled() -> None:
    async with connected() as (alice, _, address):
        with pytest.raises(PeerUnreachableError, match="not a TCP address of this peer"):
            await alice.connect(IdentityKey.generate().peer_id, [address])


async def test_a_node_does_not_connect_to_itself() -> None:
    async with open_swarm(IdentityKey.generate()) as alice, listening(alice) as address:
        with pytest.raises(PeerUnreachableError, match="this node itself"):
            await alice.connect(alice.key.peer_id, [address])
        with pytest.raises(PeerUnreachableError, match=r"another peer answered|this node's own"):
            await alice.connect(IdentityKey.generate().peer_id, [PeerAddress.tcp(address.host, address.port)])
        assert alice.connections() == []


async def test_a_peer_without_addresses_is_unreachable() -> None:
    async with open_swarm(IdentityKey.generate()) as alice:
        with pytest.raises(PeerUnreachableError, match="no addresses known"):
            await alice.connect(IdentityKey.generate().peer_id)


async def test_every_address_that_failed_is_named_with_its_reason() -> None:
    addresses = [
        PeerAddress.tcp("127.0.0.1", 1),
        PeerAddress.parse("/ip4/127.0.0.1/udp/1/quic-v1"),
        PeerAddress.parse("/dns4/nowhere.invalid/tcp/1"),
    ]
    async with open_swarm(IdentityKey.generate()) as alice:
        with pytest.raises(PeerUnreachableError) as caught:
            await alice.connect(IdentityKey.generate().peer_id, addresses)
    assert set(caught.value.attempts) == {address.text for address in addresses}
    assert caught.value.attempts[addresses[0].text] == "connection refused"


@contextlib.contextmanager
def silent_address() -> Iterator[PeerAddress]:
    """Accepts connections, in the kernel, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield PeerAddress.tcp(*server.getsockname()[:2])


@contextlib.contextmanager
def full_address() -> Iterator[PeerAddress]:
    """Answers no SYN: its queue is full."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = PeerAddress.tcp(*server.getsockname()[:2])
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address.host, address.port))
        yield address


@pytest.mark.parametrize("dead", [silent_address, full_address])
async def test_a_dead_address_delays_a_good_one_by_the_stagger_only(
    dead: Callable[[], AbstractContextManager[PeerAddress]],
) -> None:
    async with (
        open_swarm(IdentityKey.generate()) as alice,
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as good,
    ):
        with dead() as bad:
            started = time.monotonic()
            async with asyncio.timeout(PATIENCE_S - 5):  # sooner than the dead one is given up
                info = await alice.connect(bob.key.peer_id, [bad, good])
            assert time.monotonic() - started >= DIAL_STAGGER_S
    assert info.remote == good


async def test_refused_addresses_do_not_delay_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "DIAL_STAGGER_S", 1000.0)
    refused = [PeerAddress.tcp("127.0.0.1", port) for port in range(1, 8)]
    async with (
        open_swarm(IdentityKey.generate()) as alice,
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as good,
    ):
        async with asyncio.timeout(20):
            await alice.connect(bob.key.peer_id, [*refused, good])


async def test_connecting_from_both_sides_at_once_works() -> None:
    async with open_swarm(IdentityKey.generate()) as alice, open_swarm(IdentityKey.generate()) as bob:
        for swarm in (alice, bob):
            swarm.serve_requests(ECHO, echo, 100)
        watch = Watch(alice)
        async with listening(alice) as at_alice, listening(bob) as at_bob:
            for turn in range(10):
                await asyncio.gather(
                    alice.connect(bob.key.peer_id, [at_bob]), bob.connect(alice.key.peer_id, [at_alice])
                )
                requests = [
                    asker.request(answerer.key.peer_id, ECHO, b"hello", 100)
                    for asker, answerer in ((alice, bob), (bob, alice))
                    for _ in range(5)
                ]
                assert await asyncio.gather(*requests) == [b"hello"] * 10
                await until(lambda: len(alice.connections()) == len(bob.connections()))  # a dial may be late at one
                await alice.disconnect(bob.key.peer_id)
                await bob.disconnect(alice.key.peer_id)
                await until(lambda: alice.connections() == bob.connections() == [])
                assert len(watch.connected) == len(watch.disconnected) > turn


async def test_a_connection_can_be_made_again_right_after_a_disconnect() -> None:
    """Not the dying one: it would fail the next request."""
    async with connected() as (alice, bob, address):
        bob.serve_requests(ECHO, echo, 100)
        for _ in range(10):
            await alice.disconnect(bob.key.peer_id)
            await alice.connect(bob.key.peer_id, [address])
            assert await alice.request(bob.key.peer_id, ECHO, b"x", 100) == b"x"


async def test_a_newer_connection_displaces_the_oldest_of_the_same_peer() -> None:
    """Seven processes with one key: the peer keeps the newest few and uses the newest."""
    key = IdentityKey.generate()
    async with open_swarm(IdentityKey.generate()) as bob, contextlib.AsyncExitStack() as stack:
        watch = Watch(bob)
        address = await stack.enter_async_context(listening(bob))

        async def connect_once_more() -> Swarm:
            twin = await stack.enter_async_context(open_swarm(key))
            twin.serve_requests(ECHO, echo, 100)
            await twin.connect(bob.key.peer_id, [address])
            return twin

        twins = []
        for number in range(1, MAX_CONNECTIONS_PER_PEER + 4):
            twins.append(await connect_once_more())
            await until(lambda number=number: len(watch.connected) == number)  # type: ignore[misc]
            await until(lambda: len(bob.connections()) <= MAX_CONNECTIONS_PER_PEER)
        await until(lambda: len(watch.disconnected) == 3)
        assert watch.disconnected == watch.connected[:3], "the oldest go first"
        assert bob.connections() == watch.connected[3:]
        assert await bob.request(key.peer_id, ECHO, b"x", 100) == b"x"
        assert [twin.is_connected(bob.key.peer_id) for twin in twins[3:]] == [True] * MAX_CONNECTIONS_PER_PEER


async def test_each_connection_reports_its_own_observed_address() -> None:
    """With several connections to one peer: a NAT's mapping is learned from this."""
    key = IdentityKey.generate()
    async with (
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as address,
        open_swarm(key) as first,
        open_swarm(key) as second,
    ):
        watches = [Watch(first), Watch(second)]
        for swarm in (first, second):
            await swarm.connect(bob.key.peer_id, [address])
        for watch in watches:
            await watch.until(lambda watch=watch: bool(watch.identified))  # type: ignore[misc]
        seen = [info.observed.port for watch in watches for info in watch.identified if info.observed is not None]
        assert sorted(seen) == sorted(info.remote.port for info in bob.connections())


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_three_hundred_inbound_connections_one_after_the_other() -> None:
    """py-libp2p's own host stops accepting after about 250: its inbound slots leak."""
    count = 300
    async with connected() as (alice, bob, address):
        bob.serve_requests(ECHO, echo, 100)
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 100) == b"x"  # bob knows of the first one now
        watch = Watch(bob)
        for _ in range(count):
            await alice.disconnect(bob.key.peer_id)
            await alice.connect(bob.key.peer_id, [address])
            await alice.ping(bob.key.peer_id)  # she counts it as open a round trip before he does
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 100) == b"x"
        await watch.until(lambda: len(watch.connected) == len(watch.disconnected) == count)
        assert len(bob.connections()) == 1


async def test_a_peer_that_disappears_is_reported_and_its_streams_fail() -> None:
    """In flight: a request that waits for its answer, a stream that reads. Neither may look like a clean end."""
    async with connected() as (alice, bob, address):
        await alice.disconnect(bob.key.peer_id)
        handler_running, handler_cancelled = asyncio.Event(), asyncio.Event()

        async def never(peer: PeerId, message: bytes) -> bytes:
            handler_running.set()
            try:
                await asyncio.Event().wait()
            finally:
                handler_cancelled.set()
            return b""

        bob.serve_requests("/test/never/1", never, 100)
        bob.serve_streams("/test/silent/1", lambda stream: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
        at_alice, at_bob = Watch(alice), Watch(bob)
        async with wired(address) as wire, asyncio.TaskGroup() as tasks:
            await alice.connect(bob.key.peer_id, [wire.address])
            stream = await alice.open_stream(bob.key.peer_id, "/test/silent/1")
            other = await alice.open_stream(bob.key.peer_id, "/test/silent/1")
            failures = [
                tasks.create_task(stream_error(alice.request(bob.key.peer_id, "/test/never/1", b"", 100))),
                tasks.create_task(stream_error(stream.read_message(100))),
                tasks.create_task(stream_error(other.read_some(100))),
            ]
            await handler_running.wait()
            wire.cut()
            async with asyncio.timeout(20):
                await asyncio.gather(*failures)
                await handler_cancelled.wait()
            await at_alice.until(lambda: not alice.is_connected(bob.key.peer_id))
            await at_bob.until(lambda: not bob.is_connected(alice.key.peer_id))
            await stream_error(stream.write(b"x"))
            await stream_error(alice.request(bob.key.peer_id, "/test/never/1", b"", 100))

            await alice.connect(bob.key.peer_id, [wire.address])
            assert await alice.ping(bob.key.peer_id) > 0
        assert len(at_alice.connected) == 2


async def stream_error(operation: object) -> None:
    with pytest.raises(StreamError):
        await operation  # type: ignore[misc]


async def test_a_ping_measures_and_an_absent_peer_does_not_answer() -> None:
    async with connected() as (alice, bob, _):
        assert await alice.ping(bob.key.peer_id) > 0
        assert await bob.ping(alice.key.peer_id) > 0
        with pytest.raises(StreamError, match="not connected"):
            await alice.ping(IdentityKey.generate().peer_id)


async def test_a_listener_that_fails_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """A subscriber's bug is reported by asyncio and stops neither the swarm nor the connection."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(info: ConnectionInfo) -> None:
        raise ZeroDivisionError

    async with open_swarm(IdentityKey.generate()) as alice, open_swarm(IdentityKey.generate()) as bob:
        alice.subscribe(connected=broken)
        async with listening(bob) as address:
            await alice.connect(bob.key.peer_id, [address])
            assert await alice.ping(bob.key.peer_id) > 0
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


@contextlib.asynccontextmanager
async def cancelled_dial(alice: Swarm, address: PeerAddress, after: float) -> AsyncIterator[None]:
    with contextlib.suppress(TimeoutError, NetworkError):
        async with asyncio.timeout(after):
            assert address.peer_id is not None
            await alice.connect(address.peer_id, [address])
    yield


async def test_a_dial_cancelled_at_any_moment_leaves_a_working_swarm() -> None:
    """Either there is a connection afterwards, whole, or there is none."""
    async with connected() as (alice, bob, address):
        bob.serve_requests(ECHO, echo, 100)
        for step in range(40):
            await alice.disconnect(bob.key.peer_id)
            async with cancelled_dial(alice, address, step * 0.0003):
                await alice.connect(bob.key.peer_id, [address])
                assert await alice.request(bob.key.peer_id, ECHO, b"x", 100) == b"x"
        assert await bob.ping(alice.key.peer_id) > 0


async def test_a_connection_whose_dial_is_cancelled_when_it_is_made_is_none_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made but not known yet, `Swarm.disconnect` would not find it, and it would stay."""
    made, ended = threading.Event(), threading.Event()
    run = Connection.run

    async def wait_for_cancellation(connection: Connection, on_ready: Callable[[], None]) -> None:
        if connection.info.direction is Direction.OUTBOUND and not ended.is_set():
            made.set()
            while not connection._closing:
                await trio.sleep(0.001)
            await run(connection, on_ready)
            ended.set()
        else:
            await run(connection, on_ready)

    async with open_swarm(IdentityKey.generate()) as alice, open_swarm(IdentityKey.generate()) as bob:
        monkeypatch.setattr(Connection, "run", wait_for_cancellation)
        watch = Watch(alice)
        async with listening(bob) as address:
            dial = asyncio.ensure_future(alice.connect(bob.key.peer_id, [address]))
            await until(made.is_set)
            dial.cancel()
            await asyncio.wait([dial])
            await alice.disconnect(bob.key.peer_id)
            await until(ended.is_set)
            await until(lambda: not bob.is_connected(alice.key.peer_id))
            assert not watch.connected
            await alice.connect(bob.key.peer_id, [address])
            assert await alice.ping(bob.key.peer_id) > 0


async def test_a_connection_that_its_peer_has_replaced_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its NAT has forgotten it, say; what waits for it would wait for half a minute."""
    monkeypatch.setattr(host, "PROVE_TIMEOUT_S", 0.2)
    key = IdentityKey.generate()
    async with open_swarm(key) as before, open_swarm(key) as after, open_swarm(IdentityKey.generate()) as bob:
        watch = Watch(bob)
        before.serve_requests(ECHO, silent, 10)
        async with listening(bob) as address, wired(address) as wire:
            await before.connect(bob.key.peer_id, [wire.address])
            await watch.until(lambda: len(watch.identified) == 1)
            asking = asyncio.ensure_future(bob.request(key.peer_id, ECHO, b"x", 10))
            wire.freeze()
            await after.connect(bob.key.peer_id, [address])
            with pytest.raises(StreamError):
                await asking
            await watch.until(lambda: watch.disconnected == watch.connected[:1])
            assert bob.is_connected(key.peer_id)


async def test_a_second_connection_of_a_peer_that_still_answers_on_the_first_costs_it_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proven: list[ConnectionInfo] = []
    ping = host._ping

    async def pinging(connection: Connection) -> float:
        took = await ping(connection)
        proven.append(connection.info)
        return took

    monkeypatch.setattr(host, "_ping", pinging)
    key = IdentityKey.generate()
    async with (
        open_swarm(key) as before,
        open_swarm(key) as after,
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as address,
    ):
        await before.connect(bob.key.peer_id, [address])
        await until(lambda: len(bob.connections()) == 1)
        (first,) = bob.connections()
        await after.connect(bob.key.peer_id, [address])
        await until(lambda: first in proven)
        assert len(bob.connections()) == 2
        assert await before.ping(bob.key.peer_id) > 0


async def silent(_: PeerId, __: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""
