"""Two of our nodes behind home NATs, with nothing between them but js-libp2p's relay: calls go through it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator

import pytest
from js_libp2p import START_S, js_command, needs_js_libp2p
from lab_nodes import HOME, LINK, LabNodes, wait_relays

from netlab import Host, Lab

pytestmark = [pytest.mark.slow, needs_js_libp2p]

PINGS = 20


@contextlib.asynccontextmanager
async def js_relay(host: Host, limits: str) -> AsyncIterator[str]:
    """js-libp2p's relay on a host of the lab; its address."""
    command = js_command("relay", limits, f"/ip4/{host.ipv4}/tcp/4001")
    with host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await asyncio.to_thread(process.stdout.readline)
        assert line, f"js-libp2p ended: {process.wait()}"
        try:
            yield str(json.loads(line)["address"])
        finally:
            process.stdin.close()  # that ends it
            await asyncio.to_thread(process.wait, START_S)


@pytest.mark.parametrize("limits", ["default", "unlimited"])
async def test_nodes_behind_nats_call_each_other_through_a_js_libp2p_relay(
    limits: str, lab: Lab, nodes: LabNodes
) -> None:
    """It knows nothing of us: no STUN, no joined sockets, no DHT of ours; with its default limits 128 KiB a circuit."""
    async with js_relay(lab.host("relay", link=LINK), limits) as relay:
        bob = await nodes.start("bob", lab.host("bob", nat=HOME, link=LINK), relay)
        alice = await nodes.start("alice", lab.host("alice", nat=HOME, link=LINK), relay)
        await wait_relays(bob, 1)
        bob.peer_id = (await bob.relayed_by())[0]  # nobody but the relay can say where he is
        replies = [await alice.ping(bob) for _ in range(PINGS)]
        assert {reply.path for reply in replies} == {"circuit"}
        print(f"first call {replies[0].rtt_s:.2f} s, then {min(reply.rtt_s for reply in replies) * 1e3:.0f} ms")
