"""Two hundred circuits to one target through one relay; half of their clients leave, the others carry on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from descriptors import descriptors, wait_closed_since
from swarm_pairs import listening
from waiting import until

from lattica.identity import IdentityKey, PeerAddress
from lattica.swarm import RelayLimits, Stream, Swarm, open_swarm
from lattica.swarm.bridge import TrioThread, open_trio_thread

COUNT = 200
HOLD = "/test/hold/1"


@contextlib.asynccontextmanager
async def many_clients(count: int) -> AsyncIterator[list[Swarm]]:
    """Swarms that share one trio thread: two hundred of them would be slow to start and stop."""
    async with open_trio_thread() as thread:

        async def start(thread: TrioThread) -> Swarm:
            swarm = Swarm(IdentityKey.generate(), thread)
            await swarm._start()
            return swarm

        yield [await start(thread) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_two_hundred_circuits_to_one_target_of_which_half_leave() -> None:
    sockets = descriptors("socket")
    async with (
        open_swarm(IdentityKey.generate()) as relay,
        open_swarm(IdentityKey.generate()) as target,
        listening(relay) as at,
        many_clients(COUNT) as clients,
    ):
        await relay.serve_relay(RelayLimits())
        await target.connect(relay.key.peer_id, [at])
        (address,) = (await target.reserve(relay.key.peer_id)).addresses
        peer = target.key.peer_id

        async def answer(stream: Stream) -> None:
            while (message := await stream.read_message(100)) is not None:
                await stream.write_message(message[::-1])

        target.serve_streams(HOLD, answer)
        started = time.monotonic()
        turns = asyncio.Semaphore(20)

        async def arrive(client: Swarm) -> Stream:
            async with turns:
                info = await client.connect(peer, [address])
                assert info.relay == relay.key.peer_id
                return await client.open_stream(peer, HOLD)

        streams = await asyncio.gather(*map(arrive, clients))
        await ask_all(streams)
        print(f"{COUNT} circuits, each with a stream, in {time.monotonic() - started:.1f} s")
        assert relay.relay_counters().circuits == COUNT
        assert len([info for info in target.connections() if info.relay == relay.key.peer_id]) == COUNT

        leaving, staying = clients[::2], clients[1::2]
        staying_streams = streams[1::2]
        lost: list[object] = []
        for client in staying:
            client.subscribe(disconnected=lost.append)
        async with asyncio.TaskGroup() as tasks:
            talk = tasks.create_task(keep_asking(staying_streams))
            for number, client in enumerate(leaving):
                # Some say goodbye to the target, some drop the relay under it.
                await client.disconnect(peer if number % 2 else relay.key.peer_id)
            await until(lambda: relay.relay_counters().circuits == COUNT // 2, 60)
            talk.cancel()
        await until(lambda: sum(info.relay is not None for info in target.connections()) == COUNT // 2, 60)
        await ask_all(staying_streams)
        assert not lost
        assert not relay.relay_counters().refused_total

        info = await leaving[0].connect(peer, [address])
        assert info.relay == relay.key.peer_id, "whoever left may come back"
        for client in clients:
            await client.disconnect(peer)
        await until(lambda: relay.relay_counters().circuits == 0, 60)
        assert await slots(relay, target) == await slots(target, relay) == (0, 0, 0)
    await wait_closed_since(sockets, "socket")


async def ask_all(streams: list[Stream]) -> None:
    async def ask(stream: Stream, number: int) -> None:
        question = b"question %d" % number
        await stream.write_message(question)
        assert await stream.read_message(100) == question[::-1]

    async with asyncio.timeout(60):
        await asyncio.gather(*(ask(stream, number) for number, stream in enumerate(streams)))


async def keep_asking(streams: list[Stream]) -> None:
    while True:
        await ask_all(streams)


async def slots(one: Swarm, other: Swarm) -> tuple[int, int, int]:
    """Streams that ``one`` still counts on its connection to ``other``: inbound, inbound circuits, bulk."""

    async def count() -> tuple[int, int, int]:
        link = one._host.direct_connection_to(other.key.peer_id)
        assert link is not None
        return link._inbound, link._inbound_circuits, link._muxed.bulk

    async with asyncio.timeout(30):
        while any(found := await one._thread.call(count)):
            await asyncio.sleep(0.05)
    return found


async def test_the_clients_of_one_connection_do_not_use_up_its_streams() -> None:
    """Circuits are counted apart: with dozens of them from one client, its requests to the relay still go through."""
    async with (
        open_swarm(IdentityKey.generate()) as relay,
        open_swarm(IdentityKey.generate()) as client,
        listening(relay) as at,
        many_clients(40) as targets,
    ):
        await relay.serve_relay(RelayLimits())

        async def be_reached(target: Swarm) -> PeerAddress:
            await target.connect(relay.key.peer_id, [at])
            return (await target.reserve(relay.key.peer_id)).addresses[0]

        addresses = await asyncio.gather(*map(be_reached, targets))
        await client.connect(relay.key.peer_id, [at])
        await asyncio.gather(
            *(client.connect(one.key.peer_id, [address]) for one, address in zip(targets, addresses, strict=True))
        )
        link = client._host.direct_connection_to(relay.key.peer_id)
        assert link is not None
        await until(lambda: link._outbound.value == link._outbound.max_value or link._outbound.value == 128)
        assert link._muxed.bulk == len(targets)
        assert relay.relay_counters().circuits == len(targets)
        assert await client.ping(relay.key.peer_id) > 0
