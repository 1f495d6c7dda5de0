"""Peers that stand still and links that lose or are cut, under two nodes with a punched path between them."""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial
from pathlib import Path

import pytest
from lab_nodes import PING_LIMIT_S, SCRIPT, LabNodes, eventually, two_homes

from lattica._proto import control_pb2
from netlab import Lab, Shape

FROZEN_S = 20.0
"""Seconds: the issue's. More than half of what TCP and gRPC's keepalive wait before they give a peer up."""
DEADLINE_S = 3.0
"""Of the calls to a frozen peer."""
THAWED_S = 2.0
"""Seconds for a call when the peer goes on, wanted: its path is still there."""
CUT_S = 5.0
"""Seconds: the issue's."""
MENDED_S = 10.0
"""Seconds from the mending of a link until calls are answered: TCP sends again after at most the outage's length."""
LOSSY = Shape(delay=0.002, loss=0.02)
"""Short, because loss times round trip is what limits TCP: 20 MB would take a minute and more at 40 ms."""
PINGS = 300
FETCHED = 20_000_000
"""Bytes."""
FETCH_S = 60.0
"""Seconds for that over `LOSSY`: some 1.5 MB/s are to be had with the usual congestion control, and pings go on."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_calls_to_a_frozen_peer_end_in_time_and_work_when_it_goes_on(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes, template=SCRIPT)
    alice, bob = homes.alice, homes.bob
    await alice.wait_path(bob)
    bob.freeze()
    thaw_at = time.monotonic() + FROZEN_S
    calls = 0
    while time.monotonic() < thaw_at - DEADLINE_S:
        answer = await alice.do("call", peer=bob.peer_id, deadline=DEADLINE_S)
        assert "DEADLINE_EXCEEDED" in str(answer["error"]) or "UNAVAILABLE" in str(answer["error"]), answer
        calls += 1
    assert calls > 1, "none of them waited until the peer went on"
    await asyncio.sleep(max(0.0, thaw_at - time.monotonic()))
    bob.thaw()
    answer = await alice.do("call", peer=bob.peer_id, deadline=PING_LIMIT_S)
    print(f"{calls} calls ended by their deadlines; afterwards, {THAWED_S:.0f} s wanted: {answer}")
    assert answer["error"] == ""
    assert (await bob.ping(alice)).path


async def test_hundreds_of_pings_and_a_fetch_survive_lost_packets(lab: Lab, nodes: LabNodes, tmp_path: Path) -> None:
    homes = await two_homes(lab, nodes)
    alice, bob = homes.alice, homes.bob
    await alice.wait_path(bob)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(secrets.token_bytes(FETCHED))
    published = [step async for step in bob.control.Publish(control_pb2.PublishRequest(path=str(source)))]
    for node in (alice, bob):
        node.host.access.reshape(LOSSY)
    started = time.monotonic()
    async with alice.pinging(bob, interval=0.05) as pings:
        request = control_pb2.FetchRequest(cid=published[-1].result.cid, destination=str(copy))
        fetched = [step async for step in alice.control.Fetch(request, timeout=FETCH_S)]
        print(f"fetched in {time.monotonic() - started:.1f} s")
        await eventually(lambda: len(pings.replies) >= PINGS, FETCH_S, f"{PINGS} answers")
    print(f"{len(pings.replies)} pings answered, the slowest in {pings.longest_s:.1f} s")
    assert copy.read_bytes() == source.read_bytes()
    assert {source.path for source in fetched[-1].result.sources} == {"punched-tcp"}
    assert not pings.failures
    assert pings.paths == ["punched-tcp"]


async def test_a_link_that_is_cut_for_some_seconds_costs_no_call(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes)
    alice, bob = homes.alice, homes.bob
    await alice.wait_path(bob)
    for node in (alice, bob):
        async with alice.pinging(bob) as pings, alice.events(bob) as events:
            node.host.access.down()
            await asyncio.sleep(CUT_S)
            node.host.access.up()
            mended = time.monotonic()
            try:
                await eventually(partial(pings.answered_after, mended), MENDED_S, "an answer to a new call")
                print(f"{node.name}'s link: answered after {time.monotonic() - mended:.1f} s")
                await eventually(lambda: pings.replies[-1].path == "punched-tcp", PING_LIMIT_S, "a punched path")
            finally:
                pings.report(mended)
                print([(round(e.elapsed_s, 1), e.event, e.path, e.reason) for e in events])
        assert not pings.failures
