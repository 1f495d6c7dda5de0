"""The Lattica relay over loopback: what goes through it, how much, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import time
from collections.abc import AsyncIterator

import pytest
from black_hole import black_hole
from prometheus_client import CollectorRegistry, generate_latest
from pump_clock import PumpClock
from relay_rooms import (
    CLIENT,
    OTHER,
    leaving_no_descriptors,
    open_relay,
    open_target,
    receive_all,
    receive_some,
    refusal,
    send_all,
)
from waiting import until

from lattica._proto import relay_pb2
from lattica.background import background_tasks
from lattica.errors import NetworkError, StreamError
from lattica.identity import IdentityKey, PeerId
from lattica.mesh import pipes, relay_server
from lattica.mesh.movers import BURST_S, LIMITED_MOVE
from lattica.mesh.pipes import NoAnswerError, accept_pipe, receive_exactly
from lattica.mesh.preface import ANSWER_BYTES, NONCE_BYTES, TicketOffice, check_answer, encode_preface
from lattica.mesh.relay_client import dial_through, dial_through_again, request_lease
from lattica.mesh.relay_limits import SpliceLimits
from lattica.mesh.relay_metrics import RelayMetrics
from lattica.mesh.relay_session import RELAY_ACCEPT_PROTOCOL
from lattica.mesh.relay_wire import RelayStatus
from lattica.swarm import open_swarm

pytestmark = pytest.mark.usefixtures("nothing_leaks")
MB = 1_000_000


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    """A whole relay and its peers come and go: no descriptor of theirs stays."""
    async with leaving_no_descriptors():
        yield


async def test_bytes_pass_both_ways_and_each_side_ends_its_own() -> None:
    there, back = random.Random(1).randbytes(5 * MB), random.Random(2).randbytes(3 * MB)
    async with open_relay() as relay, open_target(relay) as target:
        near, far = await target.open_pipe()
        with near:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send_all(near, there))
                arrived = tasks.create_task(receive_all(far))
            assert hashlib.sha256(arrived.result()).digest() == hashlib.sha256(there).digest()
            async with asyncio.TaskGroup() as tasks:  # the other direction is still open
                tasks.create_task(send_all(far, back))
                arrived = tasks.create_task(receive_all(near))
            assert hashlib.sha256(arrived.result()).digest() == hashlib.sha256(back).digest()
            assert target.origins == [(relay.address, relay.peer_id)]
        await until(lambda: relay.server.counts().pipes == 0)
        counts = relay.server.counts()
    assert (counts.joined, counts.relayed, counts.leases, counts.refused) == (1, 8 * MB, 1, {})


async def test_a_pipes_own_preface_proves_who_is_at_its_ends() -> None:
    """What the relay's token does not: it only leads to the target."""
    office, (server, grpc) = TicketOffice(b"the target's key"), socket.socketpair()
    ticket, nonce = office.issue(CLIENT, int(time.time()) + 60), bytes(NONCE_BYTES)

    async def connect_server(peer: PeerId) -> socket.socket:
        return server

    async with open_relay() as relay, open_target(relay) as target:
        near, far = await target.open_pipe()
        with near, server, grpc:
            async with asyncio.TaskGroup() as tasks:
                accepted = tasks.create_task(accept_pipe(far, office, connect_server))
                await send_all(near, encode_preface(ticket, nonce), then_end=False)
                check_answer(ticket, nonce, await receive_exactly(near, ANSWER_BYTES))
            assert accepted.result() == (CLIENT, server)


class Ahead:
    """The relay's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(relay_server, "time", self)

    def time(self) -> float:
        return time.time() + self.seconds


async def test_a_token_opens_several_pipes_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = Ahead(monkeypatch)
    async with open_relay() as relay, open_target(relay) as target:
        token = target.token(valid_s=600.0)
        with await dial_through(relay.address, token), await dial_through(relay.address, token):
            assert relay.server.counts().pipes == 2
            ahead.seconds = 602.0  # the token counts whole seconds
            assert await refusal(relay.address, token) is RelayStatus.EXPIRED
            assert relay.server.counts().pipes == 2


async def test_a_relay_that_gives_no_answer_is_dialled_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "CONNECT_TIMEOUT_S", 0.2)
    with black_hole() as address:
        dialling = asyncio.ensure_future(dial_through_again(address, b"token"))
        await asyncio.wait([dialling], timeout=1.0)
        assert not dialling.done()
    with pytest.raises((NetworkError, OSError)) as caught:  # nobody listens there any more, and that is an answer
        await dialling
    assert not isinstance(caught.value, NoAnswerError)


async def test_the_lease_says_what_is_allowed() -> None:
    limits = SpliceLimits(pipes_per_target=7, pipes_per_client=3, target_bytes_s=1000, lease_s=100)
    async with open_relay(limits) as relay, open_target(relay) as target:
        lease, now = target.lease, time.monotonic()
        assert lease.is_fresh(now)
        assert not lease.is_fresh(now + 50)
        assert (lease.max_pipes, lease.max_pipes_per_client, lease.bytes_s) == (7, 3, 1000)
        assert 50 < lease.expires_at - time.monotonic() <= 100
        assert (lease.relay, lease.peer_id) == (relay.peer_id, target.peer_id)
        assert [str(address) for address in lease.addresses] == [str(relay.address)]
        assert lease.key.hex() not in repr(lease)
        assert repr(lease.key) not in repr(lease)


async def test_a_lease_that_is_over_mints_nothing_and_its_tokens_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = Ahead(monkeypatch)
    async with open_relay(SpliceLimits(lease_s=100)) as relay, open_target(relay) as target:
        token = target.token(valid_s=3600)
        (await dial_through(relay.address, token)).close()
        ahead.seconds = 101.1  # whole seconds, and a token counts to its last
        assert await refusal(relay.address, token) is RelayStatus.EXPIRED
        with pytest.raises(NetworkError, match="expired"):
            target.lease.mint(CLIENT, time.monotonic() + ahead.seconds)
        assert relay.server.counts().leases == 0


async def test_leases_outlive_a_restart_of_the_relay() -> None:
    key = IdentityKey.generate()
    async with open_relay(key=key) as relay, open_target(relay) as target:
        token, port = target.token(), relay.address.port
        await target.swarm.disconnect(relay.peer_id)
        async with open_relay(key=key) as again:
            assert again.address.port != port
            assert await refusal(again.address, token) is RelayStatus.TARGET_GONE
            await until(lambda: not target.swarm.is_connected(relay.peer_id))
            await target.swarm.connect(again.peer_id, [again.address])
            await until(lambda: again.swarm.is_connected(target.peer_id))
            with await dial_through(again.address, token):
                assert again.server.counts().pipes == 1


async def test_a_client_over_its_quota_waits_for_one_of_its_pipes_to_end() -> None:
    async with open_relay(SpliceLimits(pipes_per_client=2)) as relay, open_target(relay) as target:
        first, _ = await target.open_pipe()
        second, far = await target.open_pipe()
        with first, second:
            assert await refusal(relay.address, target.token()) is RelayStatus.CLIENT_OVER_LIMIT
            with (await target.open_pipe(OTHER))[0]:  # another client is not concerned
                assert relay.server.counts().pipes == 3
            second.close()
            far.close()
            await until(lambda: relay.server.counts().pipes <= 2)
            with (await target.open_pipe())[0]:
                assert await refusal(relay.address, target.token()) is RelayStatus.CLIENT_OVER_LIMIT


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (SpliceLimits(pipes_per_target=1), RelayStatus.TARGET_OVER_LIMIT),
        (SpliceLimits(pipes_per_host=1), RelayStatus.HOST_OVER_LIMIT),
        (SpliceLimits(pipes=1), RelayStatus.RELAY_FULL),
    ],
)
async def test_what_exceeds_another_limit_is_told_which(limits: SpliceLimits, status: RelayStatus) -> None:
    async with open_relay(limits) as relay, open_target(relay) as target:
        with (await target.open_pipe())[0]:
            assert await refusal(relay.address, target.token(OTHER)) is status


async def test_who_is_no_relay_gives_no_lease() -> None:
    async with open_relay() as relay, open_target(relay) as target:
        relay.server.stop_serving()
        with pytest.raises(StreamError):
            await request_lease(target.swarm, relay.peer_id)
        assert await refusal(relay.address, target.token()) is RelayStatus.CLOSING


async def test_leases_are_limited_and_those_of_peers_that_left_make_room() -> None:
    async with open_relay(SpliceLimits(leases=2)) as relay, open_target(relay):
        async with open_target(relay) as second, open_swarm(IdentityKey.generate()) as third:
            await third.connect(relay.peer_id, [relay.address])
            with pytest.raises(NetworkError, match="refuses a lease: it has given out all"):
                await request_lease(third, relay.peer_id)
            assert (await request_lease(second.swarm, relay.peer_id)).key  # a new one for an old
        await until(lambda: len(relay.swarm.connections()) == 1)
        async with open_target(relay) as fourth:
            assert fourth.lease.key


async def test_half_of_a_hundred_pipes_leave_and_the_others_carry_on() -> None:
    async with open_relay(SpliceLimits(pipes_per_client=100)) as relay, open_target(relay) as target:
        pipes = [await target.open_pipe((CLIENT, OTHER)[number % 2]) for number in range(100)]
        assert relay.server.counts().pipes == 100
        for number, (near, far) in enumerate(pipes):
            if number % 2:
                near.close()
                if number % 4 == 1:  # the others' targets notice by themselves
                    far.close()
        for number, (_, far) in enumerate(pipes):
            if number % 4 == 3:
                assert await receive_all(far) == b""
                far.close()
        await until(lambda: relay.server.counts().pipes == 50)
        for number, (near, far) in enumerate(pipes[::2]):
            word = f"still here {number}".encode()
            await send_all(near, word, then_end=False)
            assert await receive_some(far) == word
            await send_all(far, word * 2, then_end=False)
            assert await receive_some(near) == word * 2
        for near, _ in pipes:
            near.close()


async def test_a_client_opens_all_its_pipes_at_once() -> None:
    async with open_relay() as relay, open_target(relay) as target:
        token = target.token()
        async with asyncio.TaskGroup() as tasks:
            dials = [tasks.create_task(dial_through(relay.address, token)) for _ in range(40)]
        assert relay.server.counts().pipes == 40
        for dial in dials:
            dial.result().close()


async def test_a_relay_that_closes_ends_its_pipes_and_tells_who_waits() -> None:
    async with open_relay() as relay, open_target(relay) as target, open_target(relay, acceptor=False) as silent:

        async def never_comes(_: PeerId, __: bytes) -> bytes:
            return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_COMING).SerializeToString()

        silent.swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, never_comes, 1000)
        near, far = await target.open_pipe()
        with near:
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(refusal(relay.address, silent.token()))
                await until(lambda: relay.server.counts().waiting == 1)
                relay.server.close()
            assert waiting.result() is RelayStatus.CLOSING
            assert await receive_all(near) == b""
            assert await receive_all(far) == b""
        await until(lambda: relay.server.counts().pipes == 0)


async def test_a_node_that_closes_leaves_nobody_waiting() -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with open_relay() as relay:
            target = await stack.enter_async_context(open_target(relay))
            near, far = await target.open_pipe()
            stack.enter_context(near)
        assert await receive_all(near) == b""
        assert await receive_all(far) == b""
        with pytest.raises(ConnectionRefusedError):
            await dial_through(relay.address, target.token())


async def flood(sock: socket.socket) -> None:
    """Send as much as goes."""
    while True:
        await asyncio.get_running_loop().sock_sendall(sock, bytes(32 * 1024))


async def drain(sock: socket.socket) -> None:
    """Take all that comes."""
    while await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        pass


async def test_all_pipes_to_a_target_share_its_rate_and_another_target_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rate, clock = 4 * MB, PumpClock(monkeypatch)
    async with (
        open_relay(SpliceLimits(target_bytes_s=rate)) as relay,
        open_target(relay) as busy,
        open_target(relay) as other,
    ):
        ends = [await busy.open_pipe(), await busy.open_pipe(OTHER), await other.open_pipe()]
        first, second, third = relay.server._pairs
        async with background_tasks() as tasks:
            for near, far in ends:
                tasks.start(flood(near))
                tasks.start(drain(far))
            await until(lambda: first.sent + second.sent > rate * BURST_S - LIMITED_MOVE)
            await until(lambda: third.sent > rate * BURST_S - LIMITED_MOVE)
            before = first.sent, second.sent

            async def is_shared() -> bool:
                clock.now += BURST_S / 2
                allowed = rate * (BURST_S + clock.passed)
                await until(lambda: first.sent + second.sent > allowed - LIMITED_MOVE)
                await until(lambda: third.sent > allowed - LIMITED_MOVE)
                assert max(first.sent + second.sent, third.sent) <= allowed + 1
                parts = first.sent - before[0], second.sent - before[1]
                return clock.passed > 1.0 and min(parts) > max(parts) / 3

            async with asyncio.timeout(40):
                while not await is_shared():  # who had nothing to send for a while gets its part from then on
                    pass
        for pipe in ends:
            for sock in pipe:
                sock.close()

        def are_forgotten() -> bool:
            clock.now += BURST_S  # what is still on its way needs budget
            return not relay.server._budgets

        await until(are_forgotten)


async def test_the_relays_metrics_tell_what_happened_without_naming_anybody() -> None:
    registry = CollectorRegistry()
    async with open_relay(metrics=RelayMetrics(registry)) as relay, open_target(relay) as target:
        near, far = await target.open_pipe()
        await send_all(near, bytes(1000))
        await receive_all(far)
        await send_all(far, bytes(10))
        await receive_all(near)
        near.close()
        assert await refusal(relay.address, b"forged") is RelayStatus.FORGED
        await until(lambda: relay.server.counts().pipes == 0)
        text = generate_latest(registry).decode()
        assert str(target.peer_id) not in text
    for line in (
        'lattica_mesh_relay_prefaces_total{kind="dial",outcome="joined"} 1.0',
        'lattica_mesh_relay_prefaces_total{kind="accept",outcome="joined"} 1.0',
        'lattica_mesh_relay_prefaces_total{kind="dial",outcome="forged"} 1.0',
        'lattica_mesh_relay_lease_requests_total{outcome="granted"} 1.0',
        'lattica_mesh_relay_bytes_total{direction="to_target"} 1000.0',
        'lattica_mesh_relay_bytes_total{direction="to_client"} 10.0',
        "lattica_mesh_relay_pipes 0.0",
        "lattica_mesh_relay_waiting 0.0",
        "lattica_mesh_relay_leases 1.0",
    ):
        assert line in text
