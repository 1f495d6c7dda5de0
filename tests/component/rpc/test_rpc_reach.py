"""Calls to peers that can be reached, and what is said of those that cannot, within the caller's deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import grpc
import pytest
from black_hole import black_hole
from call_services import Services, echo, echo_stub, lost, open_two
from mesh_rooms import Rooms, StaticFinder, open_rooms
from slow_path import slow_path
from waiting import until

from lattica.errors import NetworkError, PeerUnreachableError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh import Candidate, CandidateKind, PathKind, inbound, link_table, pipes
from lattica.mesh.links import LINK_PROTOCOL
from lattica.swarm import Direction, dialing

GHOST = IdentityKey.from_seed(bytes(32)).peer_id
PATIENCE_S = 30.0
"""Seconds for a call that should not need them."""


@contextlib.contextmanager
def closed_port() -> Iterator[PeerAddress]:
    """An address that refuses connections, and that nobody else is given meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield PeerAddress.tcp(*sock.getsockname())


async def call(rooms: Rooms, peer: PeerId, timeout: float | None = PATIENCE_S) -> bytes:
    return (await echo_stub(rooms.rpc.channel(peer)).Echo(echo("hello"), timeout=timeout)).payload


async def answer_or_error(rooms: Rooms, peer: PeerId) -> bytes | PeerUnreachableError:
    try:
        return await call(rooms, peer)
    except PeerUnreachableError as error:
        return error


async def failure(rooms: Rooms, peer: PeerId, timeout: float | None = PATIENCE_S) -> PeerUnreachableError:
    with pytest.raises(PeerUnreachableError) as caught:
        await call(rooms, peer, timeout)
    assert isinstance(caught.value, grpc.aio.AioRpcError)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value


async def test_a_path_says_how_a_peer_was_reached() -> None:
    async with open_two(native_port=None) as two:
        await two.echo.Echo(echo("hello"))
        path = two.alice.mesh.path_to(two.bob.peer_id)
        assert path is not None
        assert (path.peer_id, path.kind, path.remote.text) == (two.bob.peer_id, PathKind.LAN, two.bob.address.text)
        [outbound] = two.alice.mesh.paths(two.bob.peer_id)
        [inbound] = two.bob.mesh.paths(two.alice.peer_id)
        assert inbound.path is None
        assert outbound.path == path
        assert outbound.sent > 1000
        assert outbound.received > 1000
        assert two.bob.mesh.path_to(two.alice.peer_id) is None


@pytest.mark.slow
async def test_a_path_with_a_long_round_trip_is_a_path() -> None:
    """0.3 seconds: another continent, or a busy home uplink. TLS takes two of them."""
    async with open_two(native_port=None) as two, slow_path(two.bob.address, 0.15) as address:
        two.alice.mesh.book._book.clear()
        two.alice.mesh.add_addresses(two.bob.peer_id, [address])
        two.bob.mesh.candidates[:] = [Candidate(address.host, address.port, CandidateKind.HOST)]
        for _ in range(2):
            assert await call(two.alice, two.bob.peer_id) == b"hello"
        assert len(two.alice.mesh.paths(two.bob.peer_id)) == 1


async def test_the_other_direction_is_another_link() -> None:
    async with open_two() as two:
        services = Services(two.alice.rpc)
        assert await call(two.alice, two.bob.peer_id) == b"hello"
        assert await call(two.bob, two.alice.peer_id) == b"hello"
        assert services.echo.calls == 1
        assert two.bob.mesh.path_to(two.alice.peer_id) is not None


async def test_a_refusing_address_is_named_at_once() -> None:
    async with open_rooms() as alice:
        with closed_port() as address:
            alice.mesh.add_addresses(GHOST, [address])
            error = await failure(alice, GHOST, None)
        assert error.attempts == {address.text: "connection refused"}
        assert str(GHOST) in str(error)


async def test_an_address_that_does_not_answer_is_named_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "CONNECT_TIMEOUT_S", 600.0)
    async with open_rooms() as alice:
        with black_hole() as hole, closed_port() as closed:
            alice.mesh.add_addresses(GHOST, [hole, closed])
            while not (error := await failure(alice, GHOST, 0.6)).attempts:
                continue  # the deadline came before the first dial
            assert error.attempts[hole.text] == "no answer yet"


async def test_a_peer_that_nobody_knows_is_said_to_be_that() -> None:
    async with open_rooms() as alice:
        assert "no addresses known" in str(await failure(alice, GHOST))
        alice.mesh.finder = StaticFinder()
        assert (await failure(alice, GHOST)).attempts == {"dht": "nobody knows it"}


async def test_a_search_that_fails_otherwise_is_told_as_well() -> None:
    class Broken:
        async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
            raise NetworkError("the network is down")

    async with open_rooms() as alice:
        alice.mesh.finder = Broken()
        assert (await failure(alice, GHOST)).attempts == {"dht": "the network is down"}


async def test_a_call_to_oneself_is_refused_with_a_reason() -> None:
    async with open_rooms() as alice:
        assert "this node itself" in str(await failure(alice, alice.peer_id))


async def test_the_finder_is_asked_when_no_known_address_answers() -> None:
    async with open_two() as two, open_rooms() as carol:
        finder = carol.mesh.finder = StaticFinder({two.bob.peer_id: [two.bob.address]})
        with closed_port() as closed:
            carol.mesh.add_addresses(two.bob.peer_id, [closed])
            assert await call(carol, two.bob.peer_id) == b"hello"
        assert await call(carol, two.bob.peer_id) == b"hello"
        assert finder.asked == [two.bob.peer_id]


class SlowFinder(StaticFinder):
    """Answers when told to."""

    go: asyncio.Event

    async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
        self.asked.append(peer)
        await self.go.wait()
        return self.known[peer]


async def test_calls_that_wait_for_a_peer_share_one_attempt() -> None:
    async with open_two(native_port=None) as two:
        finder = two.alice.mesh.finder = SlowFinder({two.bob.peer_id: [two.bob.address]})
        finder.go = asyncio.Event()
        two.alice.mesh.book._book.clear()
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(call(two.alice, two.bob.peer_id)) for _ in range(100)]
            await until(lambda: bool(finder.asked))
            finder.go.set()
        assert {done.result() for done in calls} == {b"hello"}
        assert len(finder.asked) == 1
        assert len(two.alice.mesh.paths(two.bob.peer_id)) == 1


async def test_each_of_them_keeps_its_own_deadline_and_hears_what_is_tried() -> None:
    async with open_two() as two:
        finder = two.alice.mesh.finder = SlowFinder({two.bob.peer_id: [two.bob.address]})
        finder.go = asyncio.Event()
        two.alice.mesh.book._book.clear()
        async with asyncio.TaskGroup() as tasks:
            patient = tasks.create_task(call(two.alice, two.bob.peer_id))
            await until(lambda: bool(finder.asked))
            for timeout in (0.0, 0.05, 0.2):
                error = await failure(two.alice, two.bob.peer_id, timeout)
                assert error.attempts == {"dht": "no answer yet"}
            finder.go.set()
        assert patient.result() == b"hello"


async def test_an_attempt_outlives_the_call_that_started_it() -> None:
    """Or a peer that takes a second to find could never be called with deadlines of half a second."""
    async with open_two() as two:
        finder = two.alice.mesh.finder = SlowFinder({two.bob.peer_id: [two.bob.address]})
        finder.go = asyncio.Event()
        two.alice.mesh.book._book.clear()
        await failure(two.alice, two.bob.peer_id, 0.1)
        finder.go.set()
        assert await call(two.alice, two.bob.peer_id) == b"hello"
        assert len(finder.asked) == 1


async def test_calls_without_a_deadline_fail_together_when_the_attempt_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "CONNECT_TIMEOUT_S", 0.5)
    async with open_rooms() as alice:
        with black_hole() as hole:
            alice.mesh.add_addresses(GHOST, [hole])
            errors = await asyncio.gather(*(failure(alice, GHOST, None) for _ in range(20)))
            assert {error.attempts[hole.text] for error in errors} == {"no answer within 0 s"}


async def test_a_peer_that_comes_back_is_called_when_the_breaker_allows() -> None:
    """No other pause, of ours or of gRPC's, is in the way: each call fails at the breaker, until one gets through."""
    async with open_rooms() as alice:
        key = IdentityKey.generate()
        with closed_port() as closed:
            alice.mesh.add_addresses(key.peer_id, [closed])
            for _ in range(20):
                await failure(alice, key.peer_id)
        async with open_rooms(key=key, port=closed.port) as bob:
            Services(bob.rpc)
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await answer_or_error(alice, key.peer_id)) != b"hello":
                    assert isinstance(answer, PeerUnreachableError)
                    assert answer.attempts["circuit breaker"]
                    await asyncio.sleep(0.01)
            assert alice.rpc.channel(key.peer_id)._breaker.is_closed


async def test_an_address_of_another_node_is_not_mistaken_for_the_peer() -> None:
    async with open_two() as two, open_rooms() as carol:
        two.alice.mesh.add_addresses(two.bob.peer_id, [PeerAddress.tcp("127.0.0.1", carol.mesh.port)])
        assert await call(two.alice, two.bob.peer_id) == b"hello"
        carol.mesh.add_addresses(two.bob.peer_id, [PeerAddress.tcp("127.0.0.1", two.alice.mesh.port)])
        error = await failure(carol, two.bob.peer_id)
        assert list(error.attempts.values()) == ["another peer answered there"]


async def test_a_candidate_that_belongs_to_another_node_is_skipped() -> None:
    """As when two home networks use the same private addresses."""
    async with open_two(native_port=None) as two, open_rooms() as carol:
        wrong = Candidate("127.0.0.1", carol.mesh.port, CandidateKind.HOST)
        two.bob.mesh.candidates.insert(0, wrong)
        two.bob.mesh.add_addresses(two.alice.peer_id, [two.alice.address])
        await two.bob.mesh.connect(two.alice.peer_id)
        await until(lambda: two.alice.swarm.is_connected(two.bob.peer_id))
        [info] = two.alice.swarm.connections()
        assert info.direction is Direction.INBOUND  # so that nothing but his candidates tells where Bob listens
        assert await call(two.alice, two.bob.peer_id) == b"hello"
        path = two.alice.mesh.path_to(two.bob.peer_id)
        assert path is not None
        assert path.remote.port == two.bob.mesh.port


async def test_a_peer_that_grants_no_links_is_told_from_one_that_is_gone() -> None:
    async with open_two() as two:
        two.bob.swarm.stop_serving(LINK_PROTOCOL)
        error = await failure(two.alice, two.bob.peer_id)
        assert list(error.attempts) == ["link"]
        assert "does not serve" in error.attempts["link"]


async def test_a_connection_on_which_no_link_comes_is_not_trusted_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lead to a machine that is gone, which its keep-alive finds out after half a minute."""
    monkeypatch.setattr(link_table, "LINK_TIMEOUT_S", 0.2)
    async with open_two() as two:
        stuck = asyncio.Event()

        async def never(peer: PeerId, message: bytes) -> bytes | None:
            await stuck.wait()
            return None

        two.bob.swarm.serve_requests(LINK_PROTOCOL, never, 65536)
        error = await failure(two.alice, two.bob.peer_id)
        assert error.attempts == {"link": "no answer within 0 s"}
        monkeypatch.undo()
        await until(lambda: not two.alice.swarm.is_connected(two.bob.peer_id))
        two.bob.mesh.links.serve()
        assert await call(two.alice, two.bob.peer_id) == b"hello"
        stuck.set()


async def test_a_peer_with_too_many_pipes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "MAX_PIPES_PER_PEER", 0)
    async with open_two() as two:
        error = await failure(two.alice, two.bob.peer_id)
        assert error.attempts[two.bob.address.text] == "the peer takes no more pipes now"


async def test_a_deadline_that_ends_while_a_lost_peer_is_dialled_again_tells_what_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not gRPC's own account, which knows a unix socket that accepts."""
    for room in (dialing, pipes):
        monkeypatch.setattr(room, "CONNECT_TIMEOUT_S", 600.0)
    async with open_rooms() as alice:
        async with open_rooms(native_port=None) as bob:
            Services(bob.rpc)
            channel = alice.knows(bob)
            assert await call(alice, bob.peer_id) == b"hello"
            port, session = bob.mesh.port, channel._session
            assert session is not None
        await lost(channel)
        with black_hole(port) as hole:
            patient = asyncio.create_task(call(alice, bob.peer_id))
            await until(lambda: hole.text in (session.route.attempts or {}))
            errors = [await failure(alice, bob.peer_id, 0.5) for _ in range(3)]
            assert all(error.attempts[hole.text] == "no answer yet" for error in errors)
            patient.cancel()
            await asyncio.wait([patient])


async def test_a_channel_can_be_waited_for_and_says_its_state() -> None:
    async with open_two() as two:
        assert two.channel.get_state() is grpc.ChannelConnectivity.IDLE
        async with asyncio.timeout(PATIENCE_S):
            await two.channel.channel_ready()
        assert two.channel.get_state() is grpc.ChannelConnectivity.READY
        with pytest.raises(PeerUnreachableError):
            await two.alice.rpc.channel(GHOST).channel_ready()
