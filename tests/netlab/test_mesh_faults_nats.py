"""NATs that forget and addresses that change, under two nodes with a punched path between them."""

from __future__ import annotations

import asyncio
import time

import pytest
from lab_nodes import (
    PING_LIMIT_S,
    Homes,
    LabNodes,
    eventually,
    two_homes,
)

from netlab import Lab

CALLED_S = 15.0
"""Seconds from a NAT's reboot, or a change of address, until new calls work: 1.4 s until the pipe counts as stalled, or
10 s until the other side has noticed that its relay has forgotten it, and a few round trips."""
DIRECT_S = 30.0
"""Seconds from then until the path is a punched one again; the search's first pauses are 0, 1, 4 and 15 s."""
RESTARTED_S = 15.0
"""Seconds from the moment that a restarted peer holds its reservation until it is called at its new place."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("whose", ["alice", "bob"], ids=["the caller's", "the callee's"])
async def test_a_nat_that_reboots_costs_a_few_seconds(lab: Lab, nodes: LabNodes, whose: str) -> None:
    homes = await two_homes(lab, nodes)
    await homes.alice.wait_path(homes.bob)
    (router,) = homes.alice.host.routers if whose == "alice" else homes.bob.host.routers
    await _lives_through(homes, router.reboot)


@pytest.mark.parametrize("whose", ["alice", "bob"], ids=["the caller's", "the callee's"])
async def test_a_nat_with_a_new_address_costs_a_few_seconds(lab: Lab, nodes: LabNodes, whose: str) -> None:
    homes = await two_homes(lab, nodes)
    await homes.alice.wait_path(homes.bob)
    (router,) = homes.alice.host.routers if whose == "alice" else homes.bob.host.routers
    await _lives_through(homes, router.change_address)


@pytest.mark.parametrize("whose", ["alice", "bob"], ids=["the caller", "the callee"])
async def test_a_host_with_a_new_address_costs_a_few_seconds(lab: Lab, nodes: LabNodes, whose: str) -> None:
    homes = await two_homes(lab, nodes)
    await homes.alice.wait_path(homes.bob)
    host = homes.alice.host if whose == "alice" else homes.bob.host
    await _lives_through(homes, host.change_address)


async def _lives_through(homes: Homes, fault: object) -> None:
    alice, bob = homes.alice, homes.bob
    async with alice.pinging(bob) as pings, alice.events(bob) as events:
        assert callable(fault)
        await asyncio.to_thread(fault)
        at = time.monotonic()
        try:
            await eventually(lambda: pings.answered_after(at), CALLED_S, "an answer to a new call")
            answered = time.monotonic()
            print(f"answered after {answered - at:.1f} s by {pings.paths[-1]}")
            await eventually(lambda: pings.replies[-1].path == "punched-tcp", DIRECT_S, "a punched path again")
            print(f"punched after {time.monotonic() - at:.1f} s; slowest {pings.longest_s:.1f} s")
        finally:
            pings.report(at)
            print([(round(e.elapsed_s, 1), e.event, e.path, e.reason) for e in events])
    assert pings.longest_s < PING_LIMIT_S
    assert not pings.failed_after(answered)
