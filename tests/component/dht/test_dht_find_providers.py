"""Finding who provides a key."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, aclosing

import pytest

from lattica.dht import DhtMode
from lattica.dht.keyspace import key_of
from lattica.dht.limits import (
    K,
)
from lattica.dht.testing import MemoryNetwork, MemoryNode, in_virtual_time

KEY = b"\x1e\x20" + b"b" * 32  # a BLAKE3 multihash


def client_of(network: MemoryNetwork, server: MemoryNode) -> AbstractAsyncContextManager[MemoryNode]:
    return network.node(mode=DhtMode.CLIENT, bootstrap=server.peer_id)


def nearest_first(running: list[MemoryNode], target: bytes) -> list[MemoryNode]:
    return sorted(running, key=lambda node: key_of(node.peer_id.raw) ^ key_of(target))


def now() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_provider_is_found_by_everybody(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        publisher = running[4]
        assert await publisher.dht.provide(KEY) == K
        for node in running:
            if node is not publisher:
                assert await node.providers(KEY) == [publisher.peer.info]


@in_virtual_time
async def test_a_record_is_stored_at_the_nearest_nodes(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        publisher, *others = running
        await publisher.dht.provide(KEY)
        nearest = nearest_first(others, KEY)[:K]
        with_record = [node for node in others if await node.peer.holds(KEY)]
        assert {node.peer_id for node in with_record} == {node.peer_id for node in nearest}


@in_virtual_time
async def test_a_clients_content_is_found_though_it_serves_no_dht(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running, client_of(network, running[0]) as client:
        assert await client.dht.provide(KEY) == K
        assert await running[9].providers(KEY) == [client.peer.info]


@in_virtual_time
async def test_each_of_several_providers_is_yielded_once_and_never_the_asker(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        for publisher in running[5:10]:
            await publisher.dht.provide(KEY)
        found = [provider.peer_id for provider in await running[5].providers(KEY)]
        assert sorted(found) == sorted(publisher.peer_id for publisher in running[6:10])


@in_virtual_time
async def test_local_records_do_not_hide_those_of_the_network(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        asker, early, late = running[0], running[1], running[2]
        await early.dht.provide(KEY)
        assert await asker.peer.holds(KEY)
        network.kill(asker.peer_id)
        await late.dht.provide(KEY)
        network.revive(asker.peer_id)
        assert {provider.peer_id for provider in await asker.providers(KEY)} == {early.peer_id, late.peer_id}


@in_virtual_time
async def test_local_records_are_found_when_the_network_is_away(network: MemoryNetwork) -> None:
    async with network.nodes(3) as (holder, publisher, other):
        await publisher.dht.provide(KEY)
        for node in (publisher, other):
            network.kill(node.peer_id)
        assert await holder.providers(KEY) == [publisher.peer.info]


@in_virtual_time
async def test_providers_come_as_soon_as_they_are_known(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        await running[4].dht.provide(KEY)
        started = now()
        async with aclosing(running[9].dht.find_providers(KEY, limit=20)) as search:
            await anext(search)
            first = now() - started
            assert [provider async for provider in search] == []
        assert first < (now() - started) / 2


@in_virtual_time
async def test_the_search_stops_at_the_limit(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running, client_of(network, running[0]) as asker:
        for publisher in running[5:10]:
            await publisher.dht.provide(KEY)
        await asker.dht.bootstrap()
        await asyncio.sleep(1)
        before = network.requests
        assert len(await asker.providers(KEY, limit=2)) == 2
        assert 0 < network.requests - before <= 6


@in_virtual_time
async def test_ending_the_iteration_early_cancels_the_requests(network: MemoryNetwork) -> None:
    async with network.nodes(30) as running:
        await running[4].dht.provide(KEY)
        tasks = asyncio.all_tasks()
        async for _ in running[9].dht.find_providers(KEY, limit=20):
            assert len(asyncio.all_tasks() - tasks) > 1, "the search and its requests"
            break
        await asyncio.sleep(0.001)  # less than any request takes
        assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_key_that_nobody_provides_ends_without_providers(network: MemoryNetwork) -> None:
    async with network.nodes(10) as running:
        assert await running[3].providers(KEY) == []


@in_virtual_time
async def test_only_multihashes_are_keys(network: MemoryNetwork) -> None:
    async with network.node() as node:
        with pytest.raises(ValueError, match="multihash"):
            await node.dht.provide(b"model")
        with pytest.raises(ValueError, match="multihash"):
            node.dht.find_providers(b"model", limit=1)
        with pytest.raises(ValueError, match="positive limit"):
            node.dht.find_providers(KEY, limit=0)
