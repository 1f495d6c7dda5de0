"""NATs that forget and addresses that change, under two nodes with a punched path between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest
from lab_nodes import (
    HOME,
    LINK,
    PING_LIMIT_S,
    Homes,
    LabNodes,
    eventually,
    two_homes,
    wait_relays,
)

from netlab import Lab
from netlab.matrix.programs import PORT

CALLED_S = 15.0
"""Seconds from a NAT's reboot, or a change of address, until new calls work: 1.4 s until the pipe counts as stalled, or
10 s until the other side has noticed that its relay has forgotten it, and a few round trips."""
DIRECT_S = 30.0
"""Seconds from then until the path is a punched one again; the search's first pauses are 0, 1, 4 and 15 s."""
RESTARTED_S = 15.0
"""Seconds from the moment that a restarted peer says it is up until it is called at its new place: the old address is
silent for 5 s, or answers as somebody else at once; the DHT is asked after 1 s."""
OTHER_PORT = 4800

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("whose", ["alice", "bob"], ids=["the caller", "the callee"])
async def test_a_nat_that_forgets_or_an_address_that_changes_costs_a_few_seconds(
    lab: Lab, nodes: LabNodes, whose: str
) -> None:
    """One after the other: each begins with a punched path and reservations, and has to end so."""
    homes = await two_homes(lab, nodes)
    await homes.alice.wait_path(homes.bob)
    host = homes.alice.host if whose == "alice" else homes.bob.host
    (router,) = host.routers
    for name, fault in {
        "the NAT reboots": router.reboot,
        "the NAT's address changes": router.change_address,
        "the host's address changes": host.change_address,
    }.items():
        print(f"{name}:")
        await _lives_through(homes, fault)
        for node in (homes.alice, homes.bob):
            await wait_relays(node, 1)


async def _lives_through(homes: Homes, fault: Callable[[], None]) -> None:
    alice, bob = homes.alice, homes.bob
    async with alice.pinging(bob) as pings, alice.events(bob) as events:
        await asyncio.to_thread(fault)
        at = time.monotonic()
        try:
            await eventually(lambda: pings.answered_after(at), CALLED_S, "an answer to a new call")
            answered = time.monotonic()
            await eventually(lambda: pings.replies[-1].path == "punched-tcp", DIRECT_S, "a punched path again")
            print(f"answered after {answered - at:.1f} s, punched after {time.monotonic() - at:.1f} s")
        finally:
            pings.report(at)
            print([(round(event.elapsed_s, 1), event.event, event.path, event.reason) for event in events])
    assert pings.longest_s < PING_LIMIT_S
    assert not pings.failed_after(answered)


async def test_a_peer_that_restarts_elsewhere_is_found_again(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes)
    alice, bob = homes.alice, homes.bob
    await alice.wait_path(bob)
    for moves, port in ((True, PORT), (False, OTHER_PORT)):
        async with alice.pinging(bob) as pings:
            await bob.kill()
            if moves:
                await asyncio.to_thread(bob.host.change_address)
            await bob.start(homes.relay_address, port=port)
            started = time.monotonic()
            await eventually(partial(pings.answered_after, started), RESTARTED_S, "an answer of the new process")
            print(f"answered after {time.monotonic() - started:.1f} s")
            await eventually(lambda: pings.replies[-1].path == "punched-tcp", DIRECT_S, "a punched path again")
            pings.report(started)
        assert pings.longest_s < PING_LIMIT_S


async def test_a_public_peer_that_restarts_elsewhere_is_found_again(lab: Lab, nodes: LabNodes) -> None:
    """Without a relay between: at another port, and at another address."""
    relay = await nodes.start("relay", lab.host("relay", link=LINK))
    address = relay.at(relay.host.ipv4)
    alice = await nodes.start("alice", lab.host("alice", nat=HOME, link=LINK), address)
    bob = await nodes.start("bob", lab.host("bob", link=LINK), address)
    await alice.wait_path(bob, "direct")
    for moves, port in ((False, OTHER_PORT), (True, OTHER_PORT)):
        await bob.kill()
        if moves:
            await asyncio.to_thread(bob.host.change_address)
        await bob.start(address, port=port)
        started = time.monotonic()
        await alice.wait_answer(bob, RESTARTED_S)
        print(f"answered after {time.monotonic() - started:.1f} s")
        await alice.wait_path(bob, "direct", "punched-tcp", seconds=DIRECT_S)  # dialled, or met half-way
