"""Opening, closing and watching a DHT."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry

from lattica.dht import DhtMetrics, DhtMode, open_dht
from lattica.dht.limits import (
    PROVIDER_RECORD_TTL,
)
from lattica.dht.testing import MemoryNetwork, in_virtual_time
from lattica.identity import PeerId

KEY = b"\x1e\x20" + b"b" * 32  # a BLAKE3 multihash


@in_virtual_time
async def test_waiting_until_ready_ends_with_the_first_peer(network: MemoryNetwork) -> None:
    async with network.node() as node, network.node() as other, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(node.dht.wait_ready())
        await asyncio.sleep(100)
        assert not waiting.done()
        network.connect(node.peer_id, other.peer_id)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done()
        await node.dht.wait_ready()
        node.dht.peer_lost(other.peer_id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await node.dht.wait_ready()


@in_virtual_time
async def test_a_client_answers_nobody(network: MemoryNetwork) -> None:
    async with network.node(mode=DhtMode.CLIENT) as client, network.node() as server:
        assert client.peer.handler is None
        assert server.peer.handler is not None


@in_virtual_time
async def test_after_the_end_no_task_is_left_and_nothing_is_served(network: MemoryNetwork) -> None:
    tasks = asyncio.all_tasks()
    async with network.nodes(5) as running:
        await running[1].dht.provide(KEY)
        search = running[2].dht.find_providers(KEY, limit=20)
        await anext(search)
    assert asyncio.all_tasks() == tasks
    assert all(node.peer.handler is None for node in running)
    assert [provider async for provider in search] == [], "a search that was open just ends"
    with pytest.raises(RuntimeError, match="closed"):
        await running[2].providers(KEY)


@in_virtual_time
async def test_an_error_in_the_block_comes_out_as_it_is(network: MemoryNetwork) -> None:
    with pytest.raises(ZeroDivisionError):
        async with network.node():
            raise ZeroDivisionError
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), network.node():
            await asyncio.sleep(10)


@in_virtual_time
async def test_a_cancelled_lookup_leaves_no_task(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        await asyncio.sleep(1)
        tasks = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await running[4].dht.find_peer(PeerId(b"\x12\x20" + b"?" * 32))
        assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_metrics_tell_what_happened(network: MemoryNetwork) -> None:
    registry = CollectorRegistry()
    async with (
        network.nodes(5) as running,
        network.node(bootstrap=running[0].peer_id, metrics=DhtMetrics(registry)) as node,
    ):
        await node.dht.bootstrap()
        await running[1].dht.provide(KEY)
        await node.dht.provide(b"\x1e\x20" + b"c" * 32)
        await node.providers(KEY)

        def value(name: str, **labels: str) -> float:
            return registry.get_sample_value(f"lattica_dht_{name}", labels) or 0.0

        assert value("table_peers") == 5
        assert value("provider_records") == 1
        assert value("published_keys") == 1
        assert value("requests_total", type="get_providers", outcome="ok") == 5
        assert value("requests_total", type="add_provider", outcome="ok") == 5
        assert value("served_requests_total", type="add_provider", outcome="ok") == 1
        assert value("lookups_total", kind="find_providers", outcome="ok") == 1
        assert value("lookup_rounds_count", kind="provide") == 1
        assert value("lookup_seconds_count", kind="refresh") >= 1


@in_virtual_time
async def test_nodes_that_share_metrics_add_up_and_take_their_part_away(network: MemoryNetwork) -> None:
    registry = CollectorRegistry()
    metrics = DhtMetrics(registry)

    def contacts() -> float | None:
        return registry.get_sample_value("lattica_dht_table_peers")

    async with network.nodes(4) as running, network.node(bootstrap=running[0].peer_id, metrics=metrics) as one:
        await one.dht.bootstrap()
        alone = contacts()
        assert alone
        async with network.node(bootstrap=running[0].peer_id, metrics=metrics) as two:
            await two.dht.bootstrap()
            assert contacts() == one.dht.routing_table_size + two.dht.routing_table_size > alone
        assert contacts() == one.dht.routing_table_size
    assert contacts() == 0


async def test_it_runs_on_an_ordinary_event_loop(network: MemoryNetwork) -> None:
    quick = MemoryNetwork(random.Random(5), latency=(0.0, 0.001))
    async with quick.nodes(8) as running:
        await running[1].dht.provide(KEY)
        assert await running[7].providers(KEY) == [running[1].peer.info]


@in_virtual_time
async def test_the_clock_can_be_given(network: MemoryNetwork) -> None:
    """By another clock two days pass at once: the record is there, and then it is not."""
    seconds = 0.0
    transport = network.add()
    async with open_dht(transport, mode=DhtMode.SERVER, clock=lambda: seconds):
        holder = network[transport.local_peer]
        async with network.node(bootstrap=holder.info.peer_id) as publisher:
            await publisher.dht.provide(KEY)
        assert await holder.holds(KEY)
        seconds = PROVIDER_RECORD_TTL + 1
        assert not await holder.holds(KEY)
