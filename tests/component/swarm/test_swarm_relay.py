"""Circuits through our own relay, from reservation to loss; all over loopback, with three swarms or more."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from circuits import behind_a_relay, echo
from swarm_pairs import connected, listening, wired
from waiting import until

from lattica.errors import PeerUnreachableError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm import ConnectionInfo, Direction, PeerInfo, RelayLimits, dialing, open_swarm
from lattica.swarm.host import MAX_CONNECTIONS_PER_PEER
from lattica.swarm.relay_wire import HOP, STOP

ECHO = "/test/echo/1"


async def test_a_peer_that_does_not_listen_is_reached_through_its_relay() -> None:
    async with behind_a_relay() as net:
        net.target.serve_requests(ECHO, echo, 200_000)
        peer = net.target.key.peer_id
        assert net.address == PeerAddress.circuit(net.at).with_peer(peer)
        info = await net.client.connect(peer, [net.address])
        assert info == ConnectionInfo(
            peer_id=peer, remote=net.address, direction=Direction.OUTBOUND, relay=net.relay.key.peer_id
        )
        message = bytes(150_000)
        assert await net.client.request(peer, ECHO, message, len(message)) == message
        assert await net.client.ping(peer) > 0
        (inbound,) = [one for one in net.target.connections() if one.peer_id == net.client.key.peer_id]
        assert (inbound.direction, inbound.relay) == (Direction.INBOUND, net.relay.key.peer_id)
        assert inbound.remote.is_circuit
        assert inbound.remote.peer_id == net.client.key.peer_id
        net.client.serve_requests(ECHO, echo, 100)
        assert await net.target.request(net.client.key.peer_id, ECHO, b"back", 100) == b"back"
        counters = net.relay.relay_counters()
        assert (counters.reservations, counters.circuits, counters.circuits_total) == (1, 1, 1)
        await until(lambda: net.relay.relay_counters().bytes_total > 2 * len(message))  # counted when they have gone
        assert not counters.refused_total


async def test_who_is_behind_a_circuit_is_identified() -> None:
    async with behind_a_relay() as net:
        said: asyncio.Queue[PeerInfo] = asyncio.Queue()
        net.client.subscribe(identified=said.put_nowait)
        net.target.serve_requests(ECHO, echo, 100)
        await net.client.connect(net.target.key.peer_id, [net.address])
        async with asyncio.timeout(10):
            while (info := await said.get()).peer_id != net.target.key.peer_id:
                pass
        assert {ECHO, STOP} <= info.protocols
        assert HOP not in info.protocols
        assert info.observed is None, "it sees the relay, not us"
        assert net.target.peer_info(net.relay.key.peer_id) is not None
        await until(lambda: HOP in getattr(net.target.peer_info(net.relay.key.peer_id), "protocols", ()))


async def test_a_reservation_says_what_it_is_worth() -> None:
    limits = RelayLimits(circuit_duration=120, circuit_data=1 << 17, reservation_ttl=1800)
    async with behind_a_relay(limits) as net:
        assert net.reservation.relay == net.relay.key.peer_id
        assert net.reservation.expires_in == pytest.approx(1800, abs=60)
        assert (net.reservation.limit_duration, net.reservation.limit_data) == (120, 1 << 17)
        again = await net.target.reserve(net.relay.key.peer_id)
        assert again.addresses == net.reservation.addresses
        counters = net.relay.relay_counters()
        assert (counters.reservations, counters.reservations_total) == (1, 2)


async def test_public_addresses_of_the_relay_are_handed_out_and_private_ones_not() -> None:
    async with behind_a_relay() as net:
        public = PeerAddress.tcp("8.8.8.8", 4001)
        await net.relay.advertise([net.at, public, PeerAddress.parse("/ip4/8.8.8.8/udp/4001/quic-v1")])
        reservation = await net.target.reserve(net.relay.key.peer_id)
        expected = PeerAddress.circuit(public.with_peer(net.relay.key.peer_id)).with_peer(net.target.key.peer_id)
        assert reservation.addresses == (expected,)


async def test_a_relay_that_names_no_address_is_reached_where_it_was_dialled() -> None:
    async with behind_a_relay() as net:
        await net.relay.advertise([])
        reservation = await net.target.reserve(net.relay.key.peer_id)
        assert reservation.addresses == net.reservation.addresses


async def refusal(operation: object) -> str:
    with pytest.raises(StreamError) as caught:
        await operation  # type: ignore[misc]
    return str(caught.value)


async def circuit_refusal(client: object, peer: PeerId, address: PeerAddress) -> str:
    with pytest.raises(PeerUnreachableError) as caught:
        await client.connect(peer, [address])  # type: ignore[attr-defined]
    assert list(caught.value.attempts) == [address.text]
    return caught.value.attempts[address.text]


async def test_reservations_are_limited_in_all_and_for_each_address() -> None:
    for limits in (RelayLimits(reservations=1), RelayLimits(reservations_per_ip=1)):
        async with behind_a_relay(limits) as net:
            await net.client.connect(net.relay.key.peer_id, [net.at])
            assert "RESERVATION_REFUSED" in await refusal(net.client.reserve(net.relay.key.peer_id))
            await net.target.reserve(net.relay.key.peer_id)
            assert net.relay.relay_counters().refused_total == {"reservation_refused": 1}
            await net.target.disconnect(net.relay.key.peer_id)
            await until(lambda net=net: net.relay.relay_counters().reservations == 0)  # type: ignore[misc]
            await net.client.reserve(net.relay.key.peer_id)


async def test_a_reservation_needs_a_connection_and_a_relay() -> None:
    async with connected() as (alice, bob, _):
        assert "does not serve" in await refusal(alice.reserve(bob.key.peer_id))
        assert "not connected" in await refusal(alice.reserve(IdentityKey.generate().peer_id))


async def test_without_a_reservation_there_is_no_circuit() -> None:
    async with behind_a_relay() as net:
        stranger = IdentityKey.generate().peer_id
        address = PeerAddress.circuit(net.at)
        assert "NO_RESERVATION" in await circuit_refusal(net.client, stranger, address)
        await net.client.connect(net.target.key.peer_id, [address])


async def test_a_reservation_ends_with_its_time() -> None:
    async with behind_a_relay() as net:
        relay = net.relay._host.relay
        assert relay is not None
        relay.table.limits = RelayLimits(reservation_ttl=0.5)
        await net.target.reserve(net.relay.key.peer_id)
        relay.table.limits = RelayLimits()
        await asyncio.sleep(0.6)
        assert "NO_RESERVATION" in await circuit_refusal(net.client, net.target.key.peer_id, net.address)
        assert net.relay.relay_counters().reservations == 0
        await net.target.reserve(net.relay.key.peer_id)
        await net.client.connect(net.target.key.peer_id, [net.address])


async def test_a_reservation_ends_with_the_last_connection() -> None:
    async with behind_a_relay() as net:
        await net.target.disconnect(net.relay.key.peer_id)
        await until(lambda: net.relay.relay_counters().reservations == 0)
        await net.target.connect(net.relay.key.peer_id, [net.at])
        assert "NO_RESERVATION" in await circuit_refusal(net.client, net.target.key.peer_id, net.address)


async def test_a_client_over_its_quota_is_refused_and_nobody_else() -> None:
    async with (
        behind_a_relay(RelayLimits(circuits_per_client=1)) as net,
        open_swarm(IdentityKey.generate()) as second,
        open_swarm(IdentityKey.generate()) as bystander,
    ):
        net.target.serve_requests(ECHO, echo, 100)
        await second.connect(net.relay.key.peer_id, [net.at])
        await second.reserve(net.relay.key.peer_id)
        await net.client.connect(net.target.key.peer_id, [net.address])
        to_second = PeerAddress.circuit(net.at)
        assert "RESOURCE_LIMIT_EXCEEDED" in await circuit_refusal(net.client, second.key.peer_id, to_second)
        await bystander.connect(net.target.key.peer_id, [net.address])
        assert await net.client.request(net.target.key.peer_id, ECHO, b"x", 100) == b"x"
        await net.client.disconnect(net.target.key.peer_id)
        await until(lambda: net.relay.relay_counters().circuits == 1)
        await net.client.connect(second.key.peer_id, [to_second])


@pytest.mark.parametrize("limits", [RelayLimits(circuits=1), RelayLimits(circuits_per_target=1)])
async def test_circuits_are_limited_in_all_and_for_each_target(limits: RelayLimits) -> None:
    async with behind_a_relay(limits) as net, open_swarm(IdentityKey.generate()) as other:
        await net.client.connect(net.target.key.peer_id, [net.address])
        assert "RESOURCE_LIMIT_EXCEEDED" in await circuit_refusal(other, net.target.key.peer_id, net.address)


async def test_a_circuit_ends_when_its_bytes_are_used_up() -> None:
    async with behind_a_relay(RelayLimits(circuit_data=100_000)) as net:
        net.target.serve_requests(ECHO, echo, 1 << 20)
        peer = net.target.key.peer_id
        await net.client.connect(peer, [net.address])
        assert len(await net.client.request(peer, ECHO, bytes(10_000), 1 << 20)) == 10_000
        async with asyncio.timeout(20):
            await refusal(net.client.request(peer, ECHO, bytes(200_000), 1 << 20))
        await until(lambda: not net.client.is_connected(peer) and not net.target.is_connected(net.client.key.peer_id))
        await until(lambda: net.relay.relay_counters().circuits == 0)  # it may be the last to know


async def test_a_circuit_ends_when_its_time_is_over() -> None:
    async with behind_a_relay(RelayLimits(circuit_duration=1)) as net:
        with contextlib.suppress(PeerUnreachableError):  # on a machine that stalls, before the handshake is
            await net.client.connect(net.target.key.peer_id, [net.address])
        await until(lambda: not net.client.is_connected(net.target.key.peer_id))
        await until(lambda: not net.target.is_connected(net.client.key.peer_id))
        await until(lambda: net.relay.relay_counters().circuits == 0)
        assert net.relay.relay_counters().circuits_total == 1


@pytest.mark.slow
async def test_a_circuit_keeps_to_its_rate() -> None:
    async with behind_a_relay(RelayLimits(circuit_rate=200_000)) as net:
        net.target.serve_requests(ECHO, echo, 1 << 20)
        await net.client.connect(net.target.key.peer_id, [net.address])
        started = time.monotonic()
        await net.client.request(net.target.key.peer_id, ECHO, bytes(600_000), 1 << 20)
        assert time.monotonic() - started > 2, "0.6 MB each way, a second's worth at once"


async def test_the_relay_cannot_pass_for_the_peer_behind_it() -> None:
    """Noise is between the ends: whom the target's address names has to prove it."""
    async with behind_a_relay() as net, open_swarm(IdentityKey.generate()) as impostor:
        # Whoever holds the reservation under another name is what a relay that lies could offer at best.
        relay = net.relay._host.relay
        assert relay is not None
        await impostor.connect(net.relay.key.peer_id, [net.at])
        await impostor.reserve(net.relay.key.peer_id)
        honest = relay._connection_to
        relay._connection_to = lambda peer: honest(impostor.key.peer_id if peer == net.target.key.peer_id else peer)
        reason = await circuit_refusal(net.client, net.target.key.peer_id, net.address)
        assert reason == "another peer answered there"
        assert not impostor.is_connected(net.client.key.peer_id)


async def test_a_lost_relay_ends_its_circuits_at_once() -> None:
    async with behind_a_relay() as net, wired(net.at) as wire:
        running = asyncio.Event()

        async def never(peer: PeerId, message: bytes) -> bytes:
            running.set()
            await asyncio.Event().wait()
            return b""

        net.target.serve_requests(ECHO, never, 100)
        await net.client.connect(net.relay.key.peer_id, [wire.address])
        peer = net.target.key.peer_id
        await net.client.connect(peer, [net.address])
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(refusal(net.client.request(peer, ECHO, b"", 100)))
            async with asyncio.timeout(10):
                await running.wait()
            wire.cut()
            async with asyncio.timeout(20):  # the handler has more time
                await waiting
        await until(lambda: not net.client.is_connected(peer))
        await until(lambda: not net.target.is_connected(net.client.key.peer_id))
        assert net.target.is_connected(net.relay.key.peer_id)
        await net.client.connect(peer, [net.address])
        await until(lambda: net.relay.relay_counters().circuits == 1)


async def test_a_relay_that_stops_ends_its_circuits_and_says_so() -> None:
    async with behind_a_relay() as net:
        peer = net.target.key.peer_id
        await net.client.connect(peer, [net.address])
        await net.relay.stop_relay()
        await until(lambda: not net.client.is_connected(peer))
        assert "does not serve" in await circuit_refusal(net.client, peer, net.address)
        assert net.relay.relay_counters().reservations == 0
        assert net.target.is_connected(net.relay.key.peer_id)
        await net.relay.serve_relay(RelayLimits())
        assert "NO_RESERVATION" in await circuit_refusal(net.client, peer, net.address)
        await net.target.reserve(net.relay.key.peer_id)
        await net.client.connect(peer, [net.address])


async def test_a_direct_connection_is_preferred_and_can_be_asked_for() -> None:
    async with behind_a_relay() as net, listening(net.target) as at_target:
        peer = net.target.key.peer_id
        relayed = await net.client.connect(peer, [net.address])
        assert await net.client.connect(peer, [at_target]) == relayed, "an open one is used again"
        with pytest.raises(PeerUnreachableError, match="not a TCP address"):
            await net.client.connect(peer, [net.address], direct=True)
        direct = await net.client.connect(peer, [at_target, net.address], direct=True)
        assert (direct.relay, direct.remote) == (None, at_target)
        assert await net.client.connect(peer) == direct
        assert net.client.connections()[-2:] == [relayed, direct]
        await net.relay.stop_relay()
        await until(lambda: relayed not in net.client.connections())
        assert await net.client.connect(peer) == direct


async def test_addresses_are_tried_in_order_and_a_circuit_starts_when_those_before_it_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialing, "DIAL_STAGGER_S", 1000.0)
    async with behind_a_relay() as net:
        refused = PeerAddress.tcp("127.0.0.1", 1)
        info = await net.client.connect(net.target.key.peer_id, [refused, net.address])
        assert info.relay == net.relay.key.peer_id
    async with behind_a_relay() as net, listening(net.target) as at_target:
        info = await net.client.connect(net.target.key.peer_id, [at_target, net.address])
        assert info.relay is None


async def test_a_direct_connection_is_not_displaced_by_relayed_ones() -> None:
    key = IdentityKey.generate()
    async with behind_a_relay() as net, listening(net.target) as at_target:
        twins = []
        async with open_swarm(key) as direct:
            await direct.connect(net.target.key.peer_id, [at_target])
            stack = [open_swarm(key) for _ in range(MAX_CONNECTIONS_PER_PEER + 2)]
            for one in stack:
                twin = await one.__aenter__()
                await twin.connect(net.target.key.peer_id, [net.address])
                twins.append(twin)
            try:
                kept = [info for info in net.target.connections() if info.peer_id == key.peer_id]
                await until(
                    lambda: (
                        len([i for i in net.target.connections() if i.peer_id == key.peer_id])
                        == MAX_CONNECTIONS_PER_PEER
                    )
                )
                assert kept[0].relay is None
                assert direct.is_connected(net.target.key.peer_id)
            finally:
                for one in reversed(stack):
                    await one.__aexit__(None, None, None)


async def test_a_circuit_does_not_lead_through_circuits() -> None:
    """Neither a reservation nor a connection may be asked for over one."""
    async with behind_a_relay() as net:
        await net.target.serve_relay(RelayLimits())
        peer = net.target.key.peer_id
        await net.client.connect(peer, [net.address])
        assert "not connected" in await refusal(net.client.reserve(peer))
        stream = await net.client.open_stream(peer, HOP)
        await stream.write_message(b"\x08\x00")
        answer = await stream.read_message(100)
        assert answer is not None
        assert answer.endswith(b"\x28\xca\x01"), "PERMISSION_DENIED"
        nested = PeerAddress.parse(f"{net.address}/p2p-circuit")
        with pytest.raises(PeerUnreachableError, match="nor a circuit"):
            await net.client.connect(IdentityKey.generate().peer_id, [nested])


async def test_two_peers_that_are_each_others_relay_do_not_wait_for_each_other() -> None:
    alice, bob = IdentityKey.generate().peer_id, IdentityKey.generate().peer_id
    nowhere = "/ip4/127.0.0.1/tcp/1/p2p"
    async with open_swarm(IdentityKey.generate()) as client, asyncio.timeout(20):
        results = await asyncio.gather(
            client.connect(alice, [PeerAddress.parse(f"{nowhere}/{bob}/p2p-circuit")]),
            client.connect(bob, [PeerAddress.parse(f"{nowhere}/{alice}/p2p-circuit")]),
            return_exceptions=True,
        )
    assert all(isinstance(result, PeerUnreachableError) for result in results)
