"""Metrics of relays and of their clients that several nodes of one process share."""

from __future__ import annotations

import asyncio

from circuits import behind_a_relay
from prometheus_client import REGISTRY, CollectorRegistry
from relay_rooms import open_relay, open_target
from swarm_pairs import connected
from waiting import until

from lattica.background import background_tasks
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.reachability import Reachability
from lattica.mesh.relay_client import request_lease
from lattica.mesh.relay_keeper import RelayKeeper
from lattica.mesh.relay_metrics import RelayMetrics
from lattica.mesh.relay_role import RelayRole, RelaySettings
from lattica.swarm import RelayLimits

HELD = "lattica_mesh_reservations"


def sample(name: str, registry: CollectorRegistry = REGISTRY) -> float:
    return registry.get_sample_value(name) or 0.0


async def test_what_relays_of_one_process_carry_is_added_and_ends_with_them() -> None:
    registry = CollectorRegistry()
    metrics = RelayMetrics(registry)

    def gauges() -> list[float]:
        return [sample(f"lattica_mesh_relay_{name}", registry) for name in ("leases", "pipes", "waiting")]

    async with open_relay(metrics=metrics) as one, open_target(one) as near:
        async with open_relay(metrics=metrics) as two, open_target(two) as far:
            pipes = [await near.open_pipe(), await far.open_pipe()]
            assert gauges() == [2, 2, 0]
            for sock in pipes[1]:
                sock.close()
            await until(lambda: gauges() == [2, 1, 0])
        assert gauges() == [1, 1, 0]
    assert gauges() == [0, 0, 0]
    for sock in pipes[0]:
        sock.close()


async def test_the_relay_of_a_node_is_counted_in_the_default_registry() -> None:
    granted = "lattica_mesh_relay_lease_requests_total"
    before = REGISTRY.get_sample_value(granted, {"outcome": "granted"}) or 0.0
    table = PipeTable(asyncio.get_running_loop())
    try:
        async with connected() as (client, relay, _), background_tasks() as tasks:
            role = RelayRole(relay.key, relay, table, RelaySettings(), tasks)
            await role.start(Reachability.PUBLIC)
            await request_lease(client, relay.key.peer_id)
            role.close()
    finally:
        table.close()
    assert REGISTRY.get_sample_value(granted, {"outcome": "granted"}) == before + 1


async def test_reservations_that_a_client_holds_are_counted_until_it_ends() -> None:
    before = sample(HELD)
    async with behind_a_relay() as net:
        async with background_tasks() as tasks:
            keeper = RelayKeeper(net.client, lambda: None)
            keeper.add(net.relay.key.peer_id, [net.at])
            keeper.set_wanted(True)
            tasks.start(keeper.run())
            await until(lambda: sample(HELD) == before + 1)
            await net.relay.stop_relay()
            await net.client.disconnect(net.relay.key.peer_id)
            await until(lambda: sample(HELD) == before)
            await net.relay.serve_relay(RelayLimits())
            keeper.plan.retry_now()
            keeper.set_wanted(True)
            await until(lambda: sample(HELD) == before + 1)
        assert sample(HELD) == before
    assert sample(HELD) == before
