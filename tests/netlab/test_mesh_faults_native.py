"""Native connections of two nodes in one home: cut without a word, or dropped by a firewall that lets pipes pass."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from lab_nodes import HOME, PING_LIMIT_S, SCRIPT, LabNode, LabNodes, eventually

from lattica._proto import control_pb2
from netlab import Lab
from netlab.matrix.programs import PORT

SETTLED_S = 10.0
"""Seconds until calls have left the gateways."""
CUT_S = 5.0
"""Seconds that the network is gone; as for the other paths."""
MENDED_S = 10.0
"""Seconds from then until calls are answered: TCP sends again after at most the outage's length."""
MOVED_S = 15.0
"""Seconds until a call that nobody answers any more on the native connection is answered by another way."""
DROPPING = """
table inet silent {{
  chain arriving {{ type filter hook input priority 0; tcp dport {port} drop; }}
  chain leaving {{ type filter hook output priority 0; tcp sport {port} drop; }}
}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def two_in_one_home(lab: Lab, nodes: LabNodes) -> tuple[LabNode, LabNode]:
    """Alice, who calls, and Bob, on one LAN, with nothing else there; her calls go to his native port."""
    home = lab.router("home", nat=HOME)
    bob = await nodes.start("bob", lab.host("bob", upstream=home), template=SCRIPT)
    alice = await nodes.start("alice", lab.host("alice", upstream=home), template=SCRIPT)
    request = control_pb2.PingRequest(peer=bob.at(bob.host.ipv4), count=1)
    reply = await anext(aiter(alice.control.Ping(request, timeout=PING_LIMIT_S)))
    assert reply.path == "lan"
    await eventually(partial(is_native, alice, bob), SETTLED_S, "calls to the native port")
    return alice, bob


async def is_native(alice: LabNode, bob: LabNode) -> bool:
    """Whether all that goes from Alice to Bob goes to his native port."""
    pipes = await alice.pipes(bob)
    return bool(pipes) and all(port_of(pipe) != PORT for pipe in pipes)


def port_of(pipe: control_pb2.Pipe) -> int:
    return int(pipe.remote.split("/")[4])


async def test_a_network_that_is_gone_for_some_seconds_costs_no_call(lab: Lab, nodes: LabNodes) -> None:
    alice, bob = await two_in_one_home(lab, nodes)
    watching = alice.tell("stream", peer=bob.peer_id, count=400, pause=0.05)
    async with alice.pinging(bob) as pings, alice.events(bob) as events:
        await eventually(lambda: len(pings.replies) > 2, PING_LIMIT_S, "answers")
        bob.host.link.down()
        await asyncio.sleep(CUT_S)
        bob.host.link.up()
        mended = time.monotonic()
        try:
            await eventually(partial(pings.answered_after, mended), MENDED_S, "an answer to a new call")
        finally:
            pings.report(mended)
            print([(round(e.elapsed_s, 1), e.event, e.path, e.remote, e.reason) for e in events])
    assert not pings.failures
    assert pings.paths == ["lan"]
    answer = await alice.answer(watching)
    assert (answer["received"], answer["error"]) == (400, ""), "a stream that ran on it goes on"


async def test_calls_go_by_a_pipe_when_native_packets_are_dropped(lab: Lab, nodes: LabNodes) -> None:
    alice, bob = await two_in_one_home(lab, nodes)
    [pipe] = await alice.pipes(bob)
    watching = alice.tell("stream", peer=bob.peer_id, count=2000, pause=0.05)
    async with alice.pinging(bob) as pings, alice.events(bob) as events:
        await eventually(lambda: len(pings.replies) > 2, PING_LIMIT_S, "answers")
        dropped = time.monotonic()
        bob.host.run(["nft", "-f", "-"], stdin=DROPPING.format(port=port_of(pipe)))
        try:
            await eventually(partial(pings.answered_after, dropped), MOVED_S, "an answer to a new call")
            answer = await alice.answer(watching, MOVED_S + PING_LIMIT_S)
        finally:
            pings.report(dropped)
            print([(round(e.elapsed_s, 1), e.event, e.path, e.remote, e.reason) for e in events])
    print(f"the stream: {answer}")
    assert pings.paths == ["lan"]
    assert pings.answered_after(dropped)
    assert "UNAVAILABLE" in str(answer["error"]), "a stream that ran on it is given up, since there is another path"
    assert [port_of(one) for one in await alice.pipes(bob)] == [PORT]
