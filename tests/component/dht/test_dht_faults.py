"""Peers that are dead, silent or hostile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any

import pytest

from lattica.dht import DhtMode, PeerInfo
from lattica.dht.keyspace import key_of
from lattica.dht.limits import (
    LOOKUP_TIMEOUT,
    MAX_CONCURRENT_REQUESTS,
    REQUEST_TIMEOUT,
    STALL_TIMEOUT,
)
from lattica.dht.messages import Message, MessageType, decode_request, encode
from lattica.dht.testing import MemoryNetwork, MemoryTransport, in_virtual_time
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId

KEY = b"\x1e\x20" + b"b" * 32  # a BLAKE3 multihash


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_lookups_succeed_with_a_fifth_of_the_nodes_gone_silently(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        await running[4].dht.provide(KEY)
        for node in running[10:16]:
            network.kill(node.peer_id, silently=True)
        alive = [node for node in running if node not in running[10:16]]
        for node in alive:
            if node is not running[4]:
                started = now()
                assert await node.providers(KEY, limit=1) == [running[4].peer.info]
                assert now() - started < REQUEST_TIMEOUT, "what is found is not held up by those who do not answer"
                assert (await node.dht.find_peer(alive[7].peer_id)).addresses == alive[7].peer.info.addresses


@in_virtual_time
async def test_a_silent_network_does_not_hang_a_lookup(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        for node in running[1:]:
            network.kill(node.peer_id, silently=True)
        started = now()
        with pytest.raises(PeerUnreachableError, match=rf"no answer within {REQUEST_TIMEOUT:g} s"):
            await running[0].dht.find_peer(PeerId(b"\x12\x20" + b"?" * 32))
        assert now() - started <= LOOKUP_TIMEOUT


@in_virtual_time
async def test_a_second_lookup_does_not_wait_for_the_same_silent_peer(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        for node in running[10:13]:
            network.kill(node.peer_id, silently=True)
        seconds = []
        for _ in range(2):
            started = now()
            await running[0].providers(KEY)
            seconds.append(now() - started)
        assert seconds[0] > STALL_TIMEOUT > seconds[1]


@in_virtual_time
async def test_lost_requests_are_made_up_for_by_others(network: MemoryNetwork) -> None:
    lossy = MemoryNetwork(random.Random(6), loss=0.1)
    async with lossy.nodes(20) as running:
        await running[4].dht.provide(KEY)
        assert await running[9].providers(KEY, limit=1) == [running[4].peer.info]


@in_virtual_time
async def test_requests_under_way_are_bounded_over_all_lookups(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        for node in running[1:]:
            network.kill(node.peer_id, silently=True)
        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(running[0].dht.provide(b"\x1e\x20" + bytes([number]) * 32))
            await asyncio.sleep(5)
            assert network.most_under_way == MAX_CONCURRENT_REQUESTS


@in_virtual_time
async def test_accomplices_that_answer_slowly_and_name_more_of_them_cannot_hold_a_lookup(
    network: MemoryNetwork,
) -> None:
    wanted = PeerId(b"\x12\x20" + b"?" * 32)
    accomplices = [network[network.add().local_peer] for _ in range(400)]
    accomplices.sort(key=lambda peer: key_of(peer.info.peer_id.raw) ^ key_of(wanted.raw), reverse=True)
    ever_nearer = iter(accomplices[1:])

    async def drag_on(sender: PeerId, data: bytes) -> bytes:
        request = decode_request(data, sender)
        await asyncio.sleep(STALL_TIMEOUT - 0.2)
        return encode(Message(type=request.type, closer_peers=tuple(peer.info for peer in islice(ever_nearer, 3))))

    for accomplice in accomplices:
        accomplice.handler = drag_on
    async with network.node(mode=DhtMode.CLIENT) as node:
        node.dht.peer_seen(accomplices[0].info.peer_id, accomplices[0].info.addresses)
        started = now()
        with pytest.raises(PeerUnreachableError):
            await node.dht.find_peer(wanted)
        assert now() - started == pytest.approx(LOOKUP_TIMEOUT, abs=1)


async def say_garbage(_: PeerId, __: bytes) -> bytes:
    return b"\xff" * 100


async def flood(sender: PeerId, data: bytes) -> bytes:
    request = decode_request(data, sender)
    crowd = (PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), (b"a",)) for number in range(10_000))
    return encode(Message(type=request.type, closer_peers=tuple(crowd)))


async def answer_for_another_key(sender: PeerId, data: bytes) -> bytes:
    return encode(Message(type=decode_request(data, sender).type, key=b"another"))


async def answer_too_much(_: PeerId, __: bytes) -> bytes:
    return bytes(2_000_000)


@pytest.mark.parametrize("behave", [say_garbage, flood, answer_for_another_key, answer_too_much])
@in_virtual_time
async def test_a_responder_that_breaks_the_protocol_is_dropped_and_the_search_goes_on(
    network: MemoryNetwork, behave: Callable[[PeerId, bytes], Coroutine[Any, Any, bytes]]
) -> None:
    async with network.nodes(12) as running:
        await running[4].dht.provide(KEY)
        asker, hostile = running[0], running[7]
        hostile.peer.handler = behave
        before = asker.dht.routing_table_size
        assert await asker.providers(KEY) == [running[4].peer.info]
        assert asker.dht.routing_table_size == before - 1
        requests = network.requests
        assert await asker.providers(KEY) == [running[4].peer.info]
        assert network.requests - requests == 10, "everybody but itself and the hostile one"


@in_virtual_time
async def test_a_hostile_request_is_refused_and_its_sender_dropped(network: MemoryNetwork) -> None:
    async with network.nodes(3) as (node, hostile, _):
        assert node.peer.handler is not None
        before = node.dht.routing_table_size
        spoofed = Message(type=MessageType.ADD_PROVIDER, key=KEY, provider_peers=(PeerInfo(node.peer_id, (b"a",)),))
        transport = MemoryTransport(network, hostile.peer)
        with pytest.raises(Exception, match="reset"):
            await transport.send(node.peer_id, node.peer.info.addresses, encode(spoofed))
        assert node.dht.routing_table_size == before - 1
        assert not await node.peer.holds(KEY)
