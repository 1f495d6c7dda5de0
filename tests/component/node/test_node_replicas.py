"""Services by name between nodes that know only their bootstrap node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import lattica
from lattica.errors import NoReplicaError


def config(home: Path, *bootstrap: lattica.Node) -> lattica.NodeConfig:
    addresses = tuple(str(node.addresses[0]) for node in bootstrap)
    return lattica.NodeConfig.load(home=home, host="127.0.0.1", bootstrap=addresses)


async def test_replicas_are_announced_found_withdrawn_and_lost(tmp_path: Path) -> None:
    async with (
        lattica.open_node(config(tmp_path / "boot")) as boot,
        lattica.open_node(config(tmp_path / "user", boot)) as user,
        lattica.open_node(config(tmp_path / "a", boot)) as a,
        asyncio.timeout(40),
    ):
        replicas = user.rpc.replicas.replica_set("llm/layers-0-7")
        waiting = asyncio.create_task(replicas.pick(timeout=30))
        a.rpc.replicas.announce("llm/layers-0-7", capacity=2)
        assert await waiting == a.peer_id
        async with lattica.open_node(config(tmp_path / "b", boot)) as b:
            b.rpc.replicas.announce("llm/layers-0-7")
            # b asks a, so a knows it, and whoever asks a does; the DHT says so as well
            while b.peer_id not in {one.peer_id for one in a.rpc.replicas.replica_set("llm/layers-0-7").status()}:
                await asyncio.sleep(0.02)
            newcomer = boot.rpc.replicas.replica_set("llm/layers-0-7")
            while {one.peer_id for one in newcomer.status() if one.is_confirmed} != {a.peer_id, b.peer_id}:
                await newcomer.pick(timeout=30)
                await asyncio.sleep(0.02)
            home = await newcomer.pick(key="session", timeout=10)
            assert {newcomer.choose(key="session") for _ in range(20)} == {home}
        while b.peer_id in {one.peer_id for one in newcomer.status()}:  # it said goodbye when it stopped
            await asyncio.sleep(0.02)
        await a.rpc.replicas.withdraw("llm/layers-0-7")
        while newcomer.status():
            await asyncio.sleep(0.02)
        with pytest.raises(NoReplicaError):
            await newcomer.pick(timeout=0.1)
