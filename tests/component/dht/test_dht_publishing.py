"""Records over time: expiry, renewal, and publishers that start under bad conditions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from lattica.dht import DhtMetrics, PeerInfo
from lattica.dht.keyspace import key_of
from lattica.dht.limits import (
    ADDRESS_CHECK_INTERVAL,
    PROVIDER_ADDRESS_TTL,
    PROVIDER_RECORD_TTL,
    PROVIDER_SWEEP_INTERVAL,
    PUBLISH_MIN_INTERVAL,
    PUBLISH_RETRY_MIN,
    REFRESH_INTERVAL,
    K,
)
from lattica.dht.testing import MemoryNetwork, MemoryNode, in_virtual_time

KEY = b"\x1e\x20" + b"b" * 32  # a BLAKE3 multihash


def nearest_first(running: list[MemoryNode], target: bytes) -> list[MemoryNode]:
    return sorted(running, key=lambda node: key_of(node.peer_id.raw) ^ key_of(target))


@in_virtual_time
async def test_records_outlive_their_expiry_as_long_as_the_provider_runs(network: MemoryNetwork) -> None:
    async with network.nodes(4) as running:
        await running[1].dht.provide(KEY)
        await asyncio.sleep(PROVIDER_RECORD_TTL + 3600)
        assert await running[2].peer.holds(KEY)
        assert await running[2].providers(KEY) == [running[1].peer.info]


@in_virtual_time
async def test_records_of_a_provider_that_left_lose_their_addresses_and_then_expire(network: MemoryNetwork) -> None:
    async with network.nodes(4) as running:
        async with network.node(bootstrap=running[0].peer_id) as publisher:
            await publisher.dht.provide(KEY)
        network.kill(publisher.peer_id)
        await asyncio.sleep(PROVIDER_ADDRESS_TTL + 1)
        assert await running[2].providers(KEY) == [PeerInfo(publisher.peer_id)]
        await asyncio.sleep(PROVIDER_RECORD_TTL - PROVIDER_ADDRESS_TTL)
        assert await running[2].providers(KEY) == []


@in_virtual_time
async def test_expired_records_are_swept_out(network: MemoryNetwork) -> None:
    registry = CollectorRegistry()
    async with network.node(metrics=DhtMetrics(registry)) as holder:
        async with network.node(bootstrap=holder.peer_id) as publisher:
            await publisher.dht.provide(KEY)
        assert registry.get_sample_value("lattica_dht_provider_records") == 1
        await asyncio.sleep(PROVIDER_RECORD_TTL + PROVIDER_SWEEP_INTERVAL)
        assert registry.get_sample_value("lattica_dht_provider_records") == 0


@in_virtual_time
async def test_after_stop_providing_the_records_expire(network: MemoryNetwork) -> None:
    async with network.nodes(4) as running:
        await running[1].dht.provide(KEY)
        running[1].dht.stop_providing(KEY)
        running[1].dht.stop_providing(KEY)
        await asyncio.sleep(PROVIDER_RECORD_TTL - 1)
        assert await running[2].providers(KEY) == [PeerInfo(running[1].peer_id)]
        await asyncio.sleep(10)
        assert await running[2].providers(KEY) == []


@in_virtual_time
async def test_republishing_moves_records_to_the_nodes_that_are_nearest_now(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A day of 35 nodes keeping their tables fresh takes a minute of real time; the schedule itself is tested elsewhere.
    monkeypatch.setattr("lattica.dht.publications.PROVIDER_REPUBLISH_INTERVAL", REFRESH_INTERVAL)
    async with network.nodes(25) as running:
        publisher, *others = running
        await publisher.dht.provide(KEY)
        async with AsyncExitStack() as stack:
            newcomers = [await stack.enter_async_context(network.node(bootstrap=publisher.peer_id)) for _ in range(10)]
            await asyncio.sleep(REFRESH_INTERVAL + 60)
            nearest = nearest_first([*others, *newcomers], KEY)[:K]
            assert any(node in newcomers for node in nearest)
            assert all([await node.peer.holds(KEY) for node in nearest])


@in_virtual_time
async def test_a_publisher_that_starts_before_its_bootstrap_heals_when_it_comes(network: MemoryNetwork) -> None:
    async with network.node() as publisher, network.nodes(5) as running:
        assert await publisher.dht.provide(KEY) == 0
        await asyncio.sleep(1003)  # between two looks at the schedule
        network.connect(publisher.peer_id, running[0].peer_id)
        await asyncio.sleep(2)
        assert await running[3].peer.holds(KEY)
        assert await running[3].providers(KEY) == [publisher.peer.info]


@in_virtual_time
async def test_a_publisher_whose_bootstrap_is_silent_at_first_stores_soon_after(network: MemoryNetwork) -> None:
    async with network.nodes(1) as (bootstrap,), network.node(bootstrap=bootstrap.peer_id) as publisher:
        network.kill(bootstrap.peer_id)
        assert await publisher.dht.provide(KEY) == 0
        network.revive(bootstrap.peer_id)
        await asyncio.sleep(PUBLISH_RETRY_MIN + 1)
        assert await bootstrap.peer.holds(KEY)


@in_virtual_time
async def test_records_are_stored_again_when_the_network_has_grown(network: MemoryNetwork) -> None:
    async with network.nodes(1) as (bootstrap,), network.node(bootstrap=bootstrap.peer_id) as publisher:
        assert await publisher.dht.provide(KEY) == 1
        async with AsyncExitStack() as stack:
            newcomers = [await stack.enter_async_context(network.node(bootstrap=bootstrap.peer_id)) for _ in range(10)]
            await asyncio.sleep(2 * REFRESH_INTERVAL)
            assert all([await node.peer.holds(KEY) for node in newcomers])


@in_virtual_time
async def test_changed_addresses_are_published_soon(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        publisher = running[4]
        await publisher.dht.provide(KEY)
        publisher.peer.info = PeerInfo(publisher.peer_id, (b"\x04\x0a\x09\x09\x09\x06\x0f\xa1",))
        await asyncio.sleep(PUBLISH_MIN_INTERVAL + ADDRESS_CHECK_INTERVAL + 1)
        assert await running[9].providers(KEY) == [publisher.peer.info]


@in_virtual_time
async def test_a_cancelled_provide_is_made_up_for_in_the_background(network: MemoryNetwork) -> None:
    async with network.nodes(12) as running:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await running[4].dht.provide(KEY)
        assert not await running[9].peer.holds(KEY)
        await asyncio.sleep(5)
        assert await running[9].peer.holds(KEY)
