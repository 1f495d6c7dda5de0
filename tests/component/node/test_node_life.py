"""A node starts, fails to start, and stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from descriptors import open_descriptors
from free_ports import free_port
from waiting import until

import lattica
from lattica.errors import BootstrapError, NodeRunningError, PeerUnreachableError, PortInUseError


def config(home: Path, *bootstrap: lattica.Node, **settings: object) -> lattica.NodeConfig:
    addresses = tuple(str(node.addresses[0]) for node in bootstrap)
    return lattica.NodeConfig.load(home=home, host="127.0.0.1", bootstrap=addresses, **settings)


async def live(home: Path, attempt: int) -> None:
    """What nodes do: start, join, publish, fetch, stop."""
    async with lattica.open_node(config(home / "a")) as a, lattica.open_node(config(home / "b", a)) as b:
        (home / "data").write_bytes(os.urandom(2_000_000))
        published = await a.content.publish(home / "data")
        await b.content.fetch(published.cid, home / f"copy-{attempt}")
        await b.ping(a.peer_id)


def kept_threads() -> list[str]:
    """Threads, but for those of the loop's executor, which grows while work waits."""
    return [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]


def kept_descriptors() -> list[str]:
    """What is open, but for what only wakes somebody: gRPC has one for each of its threads."""
    return [target for target in open_descriptors() if not target.startswith("anon_inode:[event")]


async def test_nothing_is_left_when_a_node_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for attempt in range(2):  # what is made once, for the life of the process, is made now
        await live(tmp_path, attempt)
    threads, descriptors, tasks = len(kept_threads()), len(kept_descriptors()), asyncio.all_tasks()
    for attempt in range(2, 6):
        await live(tmp_path, attempt)
    with contextlib.suppress(TimeoutError):  # gRPC closes some in threads of its own
        await until(
            lambda: (
                len(kept_threads()) <= threads
                and len(kept_descriptors()) <= descriptors
                and asyncio.all_tasks() <= tasks
            )
        )
    assert len(kept_threads()) <= threads, kept_threads()
    assert len(kept_descriptors()) <= descriptors, kept_descriptors()
    assert asyncio.all_tasks() <= tasks
    assert not list(tmp_path.glob("lattica-*"))


async def test_an_error_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lattica.open_node(config(tmp_path)):
            raise ZeroDivisionError
    async with lattica.open_node(config(tmp_path)):
        pass


async def test_an_unreachable_bootstrap_fails_the_start_and_frees_the_home(tmp_path: Path) -> None:
    async with lattica.open_node(config(tmp_path / "gone")) as gone:
        address = gone
    with pytest.raises(BootstrapError, match="connection refused"):
        async with lattica.open_node(config(tmp_path / "node", address)):
            pass
    async with lattica.open_node(config(tmp_path / "node")):
        pass


async def test_a_node_that_may_wait_joins_when_its_bootstrap_appears(tmp_path: Path) -> None:
    port = free_port()
    async with lattica.open_node(config(tmp_path / "first", port=port)) as first:
        pass
    async with lattica.open_node(config(tmp_path / "late", first, require_bootstrap=False)) as late:
        assert late.peers() == []
        async with lattica.open_node(config(tmp_path / "first", port=port)), asyncio.timeout(40):
            while not late.peers() or not late.dht.routing_table_size:
                await asyncio.sleep(0.02)


async def test_a_home_and_a_port_serve_one_node(tmp_path: Path) -> None:
    async with lattica.open_node(config(tmp_path / "a")) as node:
        with pytest.raises(NodeRunningError):
            async with lattica.open_node(config(tmp_path / "a")):
                pass
        with pytest.raises(PortInUseError):
            async with lattica.open_node(config(tmp_path / "b", port=node.mesh.port)):
                pass


async def test_a_peer_is_found_by_its_id_alone(tmp_path: Path) -> None:
    """Two nodes that know only the bootstrap node find each other through the DHT."""
    async with (
        lattica.open_node(config(tmp_path / "boot")) as boot,
        lattica.open_node(config(tmp_path / "a", boot)) as a,
        lattica.open_node(config(tmp_path / "b", boot)) as b,
        asyncio.timeout(40),
    ):
        while not b.dht.routing_table_size or not a.dht.routing_table_size:
            await asyncio.sleep(0.02)
        pong = await b.ping(a.peer_id)
        assert pong.path == "lan"


async def test_a_peer_that_nobody_knows_is_unreachable(tmp_path: Path) -> None:
    stranger = lattica.PeerId.parse("12D3KooWEDofx2WNUbNLzNy4kx1XNXuEDYfGdFBPB2DyDXXXyjE6")
    async with lattica.open_node(config(tmp_path / "a")) as a, lattica.open_node(config(tmp_path / "b", a)) as b:
        with pytest.raises(PeerUnreachableError) as caught:
            await b.ping(stranger)
        assert caught.value.peer_id == str(stranger)
        assert "dht" in caught.value.attempts


async def test_garbage_on_the_port_does_not_stop_the_node(tmp_path: Path) -> None:
    """Random bytes, half a TLS hello, and 200 silent connections, while others are served."""
    async with lattica.open_node(config(tmp_path / "a")) as a, lattica.open_node(config(tmp_path / "b", a)) as b:
        junk = [
            os.urandom(4000),
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\x13/multistream/1.0.0\n" + b"\xff" * 100,
            b"L" * 50,
        ]
        sockets = [socket.create_connection(("127.0.0.1", a.mesh.port)) for _ in range(200)]
        try:
            for index, one in enumerate(sockets[:100]):
                try:
                    one.sendall(junk[index % len(junk)])
                except OSError:
                    continue  # the node has had enough of this host's silent connections
            async with asyncio.timeout(45):
                for _ in range(20):
                    await b.ping(a.peer_id)
                (tmp_path / "data").write_bytes(os.urandom(1_000_000))
                published = await a.content.publish(tmp_path / "data")
                await b.content.fetch(published.cid, tmp_path / "copy")
        finally:
            for one in sockets:
                one.close()
