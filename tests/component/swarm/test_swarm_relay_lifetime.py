"""What circuits leave behind: no task, no stream, no socket, no thread, whatever ended them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from circuits import Circuits, behind_a_relay, echo
from held import Held
from waiting import until

from lattica.errors import LatticaError
from lattica.identity import PeerId
from lattica.swarm import RelayLimits, Stream, Swarm

ECHO, HOLD = "/test/echo/1", "/test/hold/1"


async def tasks_of(swarm: Swarm) -> int:
    async def count() -> int:
        return len(swarm._thread.nursery.child_tasks)

    return await swarm._thread.call(count)


async def streams_of(swarm: Swarm) -> int:
    """On all its connections, as yamux counts them."""

    async def count() -> int:
        return sum(len(one._muxed.streams) for many in swarm._host._connections.values() for one in many)

    return await swarm._thread.call(count)


async def settle(net: Circuits) -> None:
    """Wait until each swarm has a task for each connection, that which pushes, that which asks here, and no streams."""
    swarms = [net.relay, net.target, net.client]
    async with asyncio.timeout(30):
        while [await tasks_of(one) for one in swarms] != [2 + len(one.connections()) for one in swarms] or any(
            [await streams_of(one) for one in swarms]
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["client", "target", "stopped", "limit", "half a request"])
async def test_an_ended_circuit_leaves_nothing_behind(how: str) -> None:
    async with behind_a_relay(RelayLimits(circuit_data=300_000)) as net:
        net.target.serve_requests(ECHO, echo, 1 << 20)
        peer = net.target.key.peer_id
        for _ in range(3):
            await net.target.reserve(net.relay.key.peer_id)
            await net.client.connect(peer, [net.address])
            assert await net.client.request(peer, ECHO, b"x", 10) == b"x"
            if how == "client":
                await net.client.disconnect(peer)
            elif how == "target":
                await net.target.disconnect(net.client.key.peer_id)
            elif how == "stopped":
                await net.relay.stop_relay()
                await net.relay.serve_relay(RelayLimits())
            elif how == "limit":
                with contextlib.suppress(LatticaError):
                    await net.client.request(peer, ECHO, bytes(400_000), 1 << 20)
            else:
                stream = await net.client.open_stream(peer, ECHO)
                await stream.write(b"\xff")
                await net.client.disconnect(peer)
            await until(lambda: not net.client.is_connected(peer))
            await until(lambda: not net.target.is_connected(net.client.key.peer_id))
            await until(lambda: net.relay.relay_counters().circuits == 0)
        await settle(net)
        assert len(net.relay.connections()) == 2


@pytest.mark.parametrize("busy", [False, True])
async def test_swarms_with_circuits_stop_and_leave_nothing(busy: bool) -> None:
    before = Held()

    async def use() -> None:
        async with behind_a_relay() as net, asyncio.TaskGroup() as tasks:
            running = asyncio.Event()

            async def hold(stream: Stream) -> None:
                running.set()
                await stream.read_message(10)

            async def never(peer: PeerId, message: bytes) -> bytes:
                running.set()
                await asyncio.Event().wait()
                return b""

            net.target.serve_streams(HOLD, hold)
            net.target.serve_requests(ECHO, never, 100)
            peer = net.target.key.peer_id
            await net.client.connect(peer, [net.address])
            stream = await net.client.open_stream(peer, HOLD)
            if busy:
                task = tasks.create_task(net.client.request(peer, ECHO, b"x", 10))
                await running.wait()
                task.cancel()
            else:
                await stream.close()

    async with asyncio.timeout(30):
        for _ in range(2):
            await use()
    assert before.since() == []
