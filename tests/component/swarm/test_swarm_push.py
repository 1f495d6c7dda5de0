"""Identify push: what changes is told to those who are connected; who tells too often is not listened to."""

from __future__ import annotations

import pytest
from circuits import behind_a_relay
from swarm_pairs import connected
from waiting import until

from lattica._proto import identify_pb2
from lattica.errors import StreamError
from lattica.identity import PeerAddress
from lattica.swarm import PeerInfo, Swarm, identify_service
from lattica.swarm.identify import PUSH
from lattica.swarm.identify_service import PUSH_BURST

ELSEWHERE = PeerAddress.tcp("192.0.2.1", 4001)


def knows(swarm: Swarm, other: Swarm, *addresses: PeerAddress) -> bool:
    info = swarm.peer_info(other.key.peer_id)
    return info is not None and [one.text for one in info.addresses] == [one.text for one in addresses]


async def test_a_new_address_is_pushed_to_connected_peers() -> None:
    async with connected() as (alice, bob, address):
        await until(lambda: knows(alice, bob, address))
        said: list[PeerInfo] = []
        alice.subscribe(identified=said.append)
        before = alice.peer_info(bob.key.peer_id)
        await bob.advertise([address, ELSEWHERE])
        await until(lambda: knows(alice, bob, address, ELSEWHERE))
        assert said == [alice.peer_info(bob.key.peer_id)]
        assert before is not None
        assert (said[0].agent, said[0].protocols) == (before.agent, before.protocols)
        await bob.advertise([])
        await until(lambda: knows(alice, bob))


async def test_of_many_changes_the_last_arrives() -> None:
    """Pushed at the pace at which a peer may push."""
    async with connected() as (alice, bob, _):
        for port in range(1, 50):
            await bob.advertise([PeerAddress.tcp("192.0.2.1", port)])
        await until(lambda: knows(alice, bob, PeerAddress.tcp("192.0.2.1", 49)))


async def test_who_is_connected_through_a_relay_is_told_too() -> None:
    async with behind_a_relay() as net:
        await net.client.connect(net.target.key.peer_id, [net.address])
        await until(lambda: knows(net.client, net.target))
        await net.target.advertise([net.address])
        await until(lambda: knows(net.client, net.target, net.address))


async def push(alice: Swarm, bob: Swarm, message: bytes) -> None:
    stream = await alice.open_stream(bob.key.peer_id, PUSH)
    await stream.write_message(message)
    await stream.close()
    assert await stream.read_some(1) == b""


async def test_what_a_push_leaves_out_stays_as_it_was() -> None:
    """js-libp2p sends no agent version with it."""
    async with connected() as (alice, bob, _):
        await until(lambda: bob.peer_info(alice.key.peer_id) is not None)
        before = bob.peer_info(alice.key.peer_id)
        await push(alice, bob, identify_pb2.Identify(listen_addrs=[ELSEWHERE.to_bytes()]).SerializeToString())
        await until(lambda: knows(bob, alice, ELSEWHERE))
        after = bob.peer_info(alice.key.peer_id)
        assert before is not None
        assert after is not None
        assert (after.agent, after.protocols, after.observed) == (before.agent, before.protocols, before.observed)


async def test_a_malformed_push_costs_the_stream() -> None:
    async with connected() as (alice, bob, _):
        await until(lambda: bob.peer_info(alice.key.peer_id) is not None)
        before = bob.peer_info(alice.key.peer_id)
        with pytest.raises(StreamError):
            await push(alice, bob, b"\xff\xff")
        with pytest.raises(StreamError):
            await push(alice, bob, bytes(70_000))
        assert bob.peer_info(alice.key.peer_id) == before
        assert await alice.ping(bob.key.peer_id) > 0


async def test_a_peer_may_push_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify_service, "PUSH_INTERVAL_S", 60.0)
    async with connected() as (alice, bob, _):
        heard: list[PeerInfo] = []
        await until(lambda: bob.peer_info(alice.key.peer_id) is not None)
        bob.subscribe(identified=heard.append)
        refused = 0
        for port in range(1, 2 * PUSH_BURST + 1):
            address = PeerAddress.tcp("192.0.2.1", port)
            try:
                await push(alice, bob, identify_pb2.Identify(listen_addrs=[address.to_bytes()]).SerializeToString())
            except StreamError:
                refused += 1
        assert refused == PUSH_BURST
        await until(lambda: len(heard) == PUSH_BURST)
        assert knows(bob, alice, PeerAddress.tcp("192.0.2.1", PUSH_BURST))
        assert alice.is_connected(bob.key.peer_id)
