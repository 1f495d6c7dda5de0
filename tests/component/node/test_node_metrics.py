"""What the nodes of a process export to Prometheus without being asked."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import REGISTRY, generate_latest
from waiting import until

import lattica


async def test_nodes_export_the_metrics_of_all_their_rooms(tmp_path: Path) -> None:
    before = REGISTRY.get_sample_value("lattica_dht_table_peers") or 0.0
    async with lattica.open_node(lattica.NodeConfig(home=tmp_path / "one", host="127.0.0.1")) as one:
        config = lattica.NodeConfig(home=tmp_path / "two", host="127.0.0.1", bootstrap=(str(one.addresses[0]),))
        async with lattica.open_node(config) as two:
            await two.ping(one.peer_id)
            exported = generate_latest(REGISTRY).decode()
            await until(lambda: (REGISTRY.get_sample_value("lattica_dht_table_peers") or 0.0) > before)
    for room in ("dht_requests", "mesh_reservations", "swarm_relay", "rpc_calls", "store_"):
        assert f"\nlattica_{room}" in exported, room
    assert REGISTRY.get_sample_value("lattica_dht_table_peers") == before
