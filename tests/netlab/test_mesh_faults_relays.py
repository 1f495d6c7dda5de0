"""Relays that restart, and relays that die, under two nodes behind ordinary home NATs."""

from __future__ import annotations

import asyncio
import time

import pytest
from lab_nodes import HOME, LINK, PING_LIMIT_S, LabNode, LabNodes, eventually, two_homes, wait_relays

from netlab import Lab, Nat

RESERVED_S = 10.0
"""Seconds from the moment that a restarted relay says it is up until reservations are there again: the issue's."""
CALLED_S = 10.0
"""Seconds from then until a peer behind the relay can be called by one that has no path to it."""
OTHER_RELAY_S = 10.0
"""Seconds from a relay's death until new calls go by the other relay. A relay that is killed resets its connections:
both ends know at once; a call then asks for a new link through the other relay."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_a_relay_that_restarts_is_reserved_at_again_and_punched_paths_carry_on(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes)
    relay, alice, bob = homes.relay, homes.alice, homes.bob
    carol = await nodes.start("carol", lab.host("carol", nat=HOME, link=LINK), homes.relay_address)
    await alice.wait_path(bob)
    async with alice.pinging(bob) as pings, alice.events(bob) as events:
        await relay.kill()
        await eventually(lambda: _lost(bob), RESERVED_S, "the loss of the relay noticed")
        await relay.start()
        started = time.monotonic()
        for node in (alice, bob, carol):
            await wait_relays(node, 1, RESERVED_S)
        print(f"reserved again after {time.monotonic() - started:.1f} s")
        await carol.wait_answer(bob, CALLED_S)
        print(f"called by a stranger after {time.monotonic() - started:.1f} s")
        await eventually(lambda: pings.answered_after(started), PING_LIMIT_S, "a ping after the restart")
    assert not pings.failures
    assert pings.paths == ["punched-tcp"]
    assert [event.event for event in events] == []
    assert pings.longest_s < PING_LIMIT_S


async def _lost(node: LabNode) -> bool:
    return not await node.relayed_by()


async def test_a_second_relay_carries_on_when_the_first_one_dies_for_good(lab: Lab, nodes: LabNodes) -> None:
    """Between NATs that cannot be punched, where every byte needs a relay."""
    hard = Nat.APDM_APDF_RANDOM
    hosts = [lab.host(name, link=LINK) for name in ("relay", "other")]
    relay = await nodes.start("relay", hosts[0])
    other = await nodes.start("other", hosts[1], relay.at(hosts[0].ipv4))
    both = relay.at(hosts[0].ipv4), other.at(hosts[1].ipv4)
    homes = [lab.host(name, nat=hard, link=LINK) for name in ("alice", "bob")]
    alice, bob = await asyncio.gather(*(nodes.start(home.name, home, *both) for home in homes))
    assert len(set(await bob.relayed_by())) == len(set(await alice.relayed_by())) == 2
    await alice.wait_path(bob, "relayed")
    (pipe,) = await alice.pipes(bob)
    first, second = (relay, other) if f"/{hosts[0].ipv4}/" in pipe.remote else (other, relay)
    async with alice.pinging(bob) as pings:
        await asyncio.sleep(1.0)  # some are answered by the first relay
        await first.kill()
        died = time.monotonic()
        await eventually(lambda: pings.answered_after(died), OTHER_RELAY_S, "an answer by the other relay")
        print(f"answered by the other relay after {time.monotonic() - died:.1f} s, failures {pings.failures}")
        answered = time.monotonic()
        await eventually(lambda: len(pings.replies) > 20, PING_LIMIT_S, "more answers")
    assert not pings.failed_after(answered)
    assert pings.longest_s < PING_LIMIT_S
    assert set(pings.paths) == {"relayed"}
    ours = [pipe.remote for pipe in await alice.pipes(bob) if pipe.path]
    assert ours
    assert all(f"/{second.host.ipv4}/" in remote for remote in ours)
