"""js-libp2p as the relay for two of our swarms, and our swarm as the relay for two js-libp2p peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

import pytest
from circuits import echo
from js_libp2p import START_S, js_command, needs_js_libp2p
from swarm_pairs import listening
from waiting import until

from lattica.errors import StreamError
from lattica.identity import IdentityKey, PeerAddress
from lattica.swarm import RelayLimits, open_swarm
from lattica.swarm.relay_wire import HOP

ECHO = "/test/echo/1"

pytestmark = [pytest.mark.slow, needs_js_libp2p]


@contextlib.asynccontextmanager
async def js_peer(*arguments: str) -> AsyncIterator[dict[str, Any]]:
    """A js-libp2p host in a process of its own; yields the line that it says. Reaped in any case."""
    process = await asyncio.create_subprocess_exec(*js_command(*arguments), stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
            assert line, f"js-libp2p ended: {await process.wait()}"
        yield json.loads(line)
        process.stdin.close()
        async with asyncio.timeout(START_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.stdout.read()
        await process.wait()


@pytest.mark.parametrize("limits", ["default", "unlimited"])
async def test_js_libp2p_relays_for_two_of_our_swarms(limits: str) -> None:
    async with (
        js_peer("relay", limits) as relay,
        open_swarm(IdentityKey.generate()) as target,
        open_swarm(IdentityKey.generate()) as client,
    ):
        at = PeerAddress.parse(relay["address"])
        assert at.peer_id is not None
        await target.connect(at.peer_id, [at])
        await until(lambda: HOP in getattr(target.peer_info(at.peer_id or target.key.peer_id), "protocols", ()))
        reservation = await target.reserve(at.peer_id)
        assert reservation.expires_in == pytest.approx(7200, abs=60)
        said = (reservation.limit_duration, reservation.limit_data)
        # Two minutes: js-libp2p says milliseconds where the specification wants seconds.
        assert said == ((120_000, 1 << 17) if limits == "default" else (0, 0))
        address = PeerAddress.circuit(at).with_peer(target.key.peer_id)
        assert address in reservation.addresses

        target.serve_requests(ECHO, echo, 1 << 20)
        info = await client.connect(target.key.peer_id, [address])
        assert info.relay == at.peer_id
        answers = await asyncio.gather(
            *(client.request(target.key.peer_id, ECHO, b"%d" % number, 100) for number in range(20))
        )
        assert answers == [b"%d" % number for number in range(20)]
        await client.ping(target.key.peer_id)
        (inbound,) = [one for one in target.connections() if one.peer_id == client.key.peer_id]
        assert inbound.relay == at.peer_id
        message = bytes(700_000)
        if limits == "unlimited":
            assert await client.request(target.key.peer_id, ECHO, message, len(message)) == message
        else:
            with pytest.raises(StreamError):
                await client.request(target.key.peer_id, ECHO, message, len(message))
            await until(lambda: not client.is_connected(target.key.peer_id))
            await until(lambda: not target.is_connected(client.key.peer_id))


@pytest.mark.parametrize("limits", [RelayLimits(), RelayLimits(circuit_data=0, circuit_duration=0)])
async def test_our_swarm_relays_for_two_js_libp2p_peers(limits: RelayLimits) -> None:
    async with open_swarm(IdentityKey.generate()) as relay, listening(relay) as at:
        await relay.serve_relay(limits)
        async with js_peer("listen", str(at)) as target:
            address = PeerAddress.parse(target["address"])
            assert address.relay == at
            assert relay.relay_counters().reservations == 1
            async with js_peer("ping", target["address"]) as pinged:
                assert pinged["rtt_ms"] >= 0
                assert pinged["over"].startswith(PeerAddress.circuit(at).text)
                assert pinged["limits"] == bool(limits.circuit_data)
                counters = relay.relay_counters()
                assert (counters.circuits, counters.circuits_total) == (1, 1)
                assert counters.bytes_total > 500
            await until(lambda: relay.relay_counters().circuits == 0)
        await until(lambda: relay.relay_counters().reservations == 0)


async def test_a_js_libp2p_peer_reaches_our_swarm_through_ours() -> None:
    async with (
        open_swarm(IdentityKey.generate()) as relay,
        open_swarm(IdentityKey.generate()) as target,
        listening(relay) as at,
    ):
        await relay.serve_relay(RelayLimits())
        await target.connect(relay.key.peer_id, [at])
        reservation = await target.reserve(relay.key.peer_id)
        async with js_peer("ping", str(reservation.addresses[0])) as pinged:
            assert pinged["rtt_ms"] >= 0
            relayed = [info for info in target.connections() if info.relay == relay.key.peer_id]
            assert len(relayed) == 1
            await until(lambda: target.peer_info(relayed[0].peer_id) is not None)
