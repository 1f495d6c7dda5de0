"""Keeping the routing table full and alive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest

from lattica.background import background_tasks
from lattica.dht import DhtMetrics, DhtMode, PeerInfo
from lattica.dht.keyspace import common_prefix_length, key_of
from lattica.dht.limits import (
    LIVENESS_GRACE,
    REFRESH_INTERVAL,
    REQUEST_TIMEOUT,
    K,
)
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, MessageType, decode_request, encode
from lattica.dht.requester import Requester
from lattica.dht.testing import MemoryNetwork, MemoryNode, MemoryPeer, in_virtual_time
from lattica.dht.upkeep import Upkeep
from lattica.identity import PeerId

KEY = b"\x1e\x20" + b"b" * 32  # a BLAKE3 multihash


def client_of(network: MemoryNetwork, server: MemoryNode) -> AbstractAsyncContextManager[MemoryNode]:
    return network.node(mode=DhtMode.CLIENT, bootstrap=server.peer_id)


@in_virtual_time
async def test_nodes_that_join_at_the_same_moment_learn_of_each_other(network: MemoryNetwork) -> None:
    async with network.node() as bootstrap, AsyncExitStack() as stack:
        running = [await stack.enter_async_context(network.node(bootstrap=bootstrap.peer_id)) for _ in range(8)]
        await asyncio.sleep(30)
        assert [node.dht.routing_table_size for node in running] == [8] * 8


@in_virtual_time
async def test_a_start_on_a_bad_line_is_made_up_for_soon(network: MemoryNetwork) -> None:
    async with network.node() as bootstrap, AsyncExitStack() as stack:
        network.loss = 0.9
        running = [await stack.enter_async_context(network.node(bootstrap=bootstrap.peer_id)) for _ in range(8)]
        await asyncio.sleep(2)
        assert [node.dht.routing_table_size for node in running] != [8] * 8
        network.loss = 0.0
        await asyncio.sleep(60)
        assert [node.dht.routing_table_size for node in running] == [8] * 8


@in_virtual_time
async def test_bootstrap_returns_how_many_peers_are_known_then(network: MemoryNetwork) -> None:
    async with network.nodes(10) as running, network.node() as node:
        assert await node.dht.bootstrap() == 0
        network.connect(node.peer_id, running[0].peer_id)
        assert await node.dht.bootstrap() == 10


@in_virtual_time
async def test_clients_are_in_nobodys_table(network: MemoryNetwork) -> None:
    async with network.nodes(8) as running, client_of(network, running[0]) as client:
        assert await client.dht.bootstrap() == 8
        assert len(network.connections_of(client.peer_id)) == 8
        await asyncio.sleep(REFRESH_INTERVAL)
        assert [node.dht.routing_table_size for node in running] == [7] * 8


@in_virtual_time
async def test_dead_nodes_leave_the_tables(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        for node in running[6:]:
            network.kill(node.peer_id, silently=True)
        await asyncio.sleep(6 * REFRESH_INTERVAL)
        assert [node.dht.routing_table_size for node in running[:6]] == [5] * 6


@in_virtual_time
async def test_an_outage_of_our_own_does_not_empty_the_table(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        network.kill(running[3].peer_id)
        for _ in range(10):
            assert await running[3].providers(KEY) == []
        network.revive(running[3].peer_id)
        assert running[3].dht.routing_table_size == 11
        await running[4].dht.provide(KEY)
        assert await running[3].providers(KEY) == [running[4].peer.info]


async def fill_a_bucket(network: MemoryNetwork, node: MemoryNode) -> list[MemoryPeer]:
    """K contacts that fill a bucket of the node, and one more for whom there is no place."""
    strangers: list[MemoryPeer] = []
    while len(strangers) < K + 1:
        stranger = network[network.add().local_peer]
        if common_prefix_length(key_of(node.peer_id.raw), key_of(stranger.info.peer_id.raw)) == 0:
            stranger.handler = answer_nothing
            strangers.append(stranger)
    for stranger in strangers[:K]:
        node.dht.peer_seen(stranger.info.peer_id, stranger.info.addresses)
    return strangers


async def answer_nothing(sender: PeerId, data: bytes) -> bytes:
    """A server that knows nobody."""
    return encode(Message(type=decode_request(data, sender).type))


async def names_of_contacts(node: MemoryNode) -> set[PeerId]:
    """The contacts that a node recommends, if they are few."""
    answer = await node.peer.answer(Message(type=MessageType.FIND_NODE, key=b"?"))
    return {peer.peer_id for peer in answer.closer_peers}


async def meet_by_connecting(node: MemoryNode, _: list[MemoryPeer], newcomer: MemoryPeer) -> None:
    node.dht.peer_seen(newcomer.info.peer_id, newcomer.info.addresses)


async def meet_in_a_lookup(node: MemoryNode, others: list[MemoryPeer], newcomer: MemoryPeer) -> None:
    async def name_it(sender: PeerId, data: bytes) -> bytes:
        return encode(Message(type=decode_request(data, sender).type, closer_peers=(newcomer.info,)))

    node.peer.on_peer = None  # identify is slow today
    for other in others:
        other.handler = name_it
    await node.dht.find_peer(newcomer.info.peer_id)


@pytest.mark.parametrize("meet", [meet_by_connecting, meet_in_a_lookup])
@in_virtual_time
async def test_a_newcomer_replaces_the_oldest_contact_if_that_does_not_answer(
    network: MemoryNetwork, meet: Callable[[MemoryNode, list[MemoryPeer], MemoryPeer], Coroutine[Any, Any, None]]
) -> None:
    async with network.node() as node:
        oldest, *others, newcomer = await fill_a_bucket(network, node)
        await asyncio.sleep(LIVENESS_GRACE + 1)
        for stranger in others:
            node.dht.peer_seen(stranger.info.peer_id, stranger.info.addresses)
        network.kill(oldest.info.peer_id, silently=True)
        await meet(node, others, newcomer)
        await asyncio.sleep(REQUEST_TIMEOUT + 1)
        assert await names_of_contacts(node) == {s.info.peer_id for s in (*others, newcomer)}


@in_virtual_time
async def test_a_contact_that_passed_one_check_can_fail_the_next(network: MemoryNetwork) -> None:
    async with network.node() as node:
        oldest, *others, newcomer = await fill_a_bucket(network, node)
        for alive in (True, False):
            if not alive:
                network.kill(oldest.info.peer_id)
            await asyncio.sleep(LIVENESS_GRACE + 1)
            for stranger in (*others, newcomer):
                node.dht.peer_seen(stranger.info.peer_id, stranger.info.addresses)
            await asyncio.sleep(1)
            assert (oldest.info.peer_id in await names_of_contacts(node)) == alive
            assert (newcomer.info.peer_id in await names_of_contacts(node)) != alive


@in_virtual_time
async def test_many_newcomers_at_once_cause_one_check(network: MemoryNetwork) -> None:
    async with network.node() as node:
        oldest, *others, newcomer = await fill_a_bucket(network, node)
        await asyncio.sleep(LIVENESS_GRACE + 1)
        for stranger in others:
            node.dht.peer_seen(stranger.info.peer_id, stranger.info.addresses)
        before = network.requests
        for _ in range(5):
            node.dht.peer_seen(newcomer.info.peer_id, newcomer.info.addresses)
        await asyncio.sleep(1)
        assert network.requests == before + 1
        assert oldest.info.peer_id in await names_of_contacts(node)


@in_virtual_time
async def test_contacts_that_were_silent_for_a_refresh_interval_are_asked(network: MemoryNetwork) -> None:
    """Without any lookup: those would ask many of them anyway."""
    transport, silent = network.add(), network[network.add().local_peer]
    clock = asyncio.get_running_loop().time
    unexpected: list[PeerInfo] = []
    machine = KadMachine(transport.local_peer, rng=random.Random(1), local_addresses=transport.local_addresses)
    requester = Requester(transport, machine, clock=clock, metrics=DhtMetrics(), on_check=unexpected.append)

    async def look_nothing_up(_: bytes) -> None:
        return

    upkeep = Upkeep(machine, requester, look_up=look_nothing_up, clock=clock)
    machine.peer_seen(silent.info, clock())
    async with background_tasks() as tasks:
        for loop in upkeep.loops():
            tasks.start(loop)
        await asyncio.sleep(REFRESH_INTERVAL - 1)
        assert not machine.backoff.is_suspect(silent.info.peer_id)
        await asyncio.sleep(REFRESH_INTERVAL)
        assert machine.backoff.is_suspect(silent.info.peer_id)
    assert unexpected == []
