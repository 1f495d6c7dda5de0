"""What nodes punch that know one relay: counting NATs, since the relay answers STUN on two ports."""

from __future__ import annotations

import asyncio

import pytest
from lab_nodes import CLI, LINK, LabNodes

from netlab import STATEFUL, Lab, Nat

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(120)]

COUNTING = Nat.APDM_APDF_SEQUENTIAL


@pytest.mark.parametrize(
    ("alice_nat", "bob_nat"),
    [
        pytest.param(COUNTING, Nat.EIM_APDF, id="counting-home"),
        pytest.param(Nat.EIM_APDF, COUNTING, id="home-counting"),
        pytest.param(COUNTING, COUNTING, id="counting-counting"),
    ],
)
async def test_one_relay_is_enough_to_punch(lab: Lab, nodes: LabNodes, alice_nat: Nat, bob_nat: Nat) -> None:
    relay = await nodes.start("relay", lab.host("relay", link=LINK))
    address = relay.at(relay.host.ipv4)
    hosts = [lab.host(name, nat=nat, link=LINK) for name, nat in (("alice", alice_nat), ("bob", bob_nat))]
    alice, bob = await asyncio.gather(*(nodes.start(host.name, host, address) for host in hosts))
    await alice.wait_path(bob)


async def test_homes_whose_ipv4_cannot_be_punched_meet_over_ipv6(lab: Lab, nodes: LabNodes) -> None:
    """The nodes and their relay listen on IPv4 as they do by default; the homes' firewalls let IPv6 out, not in."""
    relay = await nodes.start("relay", lab.host("relay", link=LINK))
    address = relay.at(relay.host.ipv4)
    hosts = [
        lab.host(name, nat=Nat.APDM_APDF_RANDOM, firewall=STATEFUL, ipv6=True, link=LINK) for name in ("alice", "bob")
    ]
    alice, bob = await asyncio.gather(*(nodes.start(host.name, host, address) for host in hosts))
    async with alice.events(bob) as events:
        await alice.wait_path(bob)
    remotes = {event.remote.partition("/tcp/")[0] for event in events if event.path == "punched-tcp"}
    assert remotes == {f"/ip6/{bob.host.ipv6}"}


async def test_machines_without_ipv4_are_punched_too(lab: Lab, nodes: LabNodes) -> None:
    """They listen on IPv4 only, by default, which is nowhere; the relay listens on both families."""
    relay = await nodes.start("relay", lab.host("relay", ipv6=True, link=LINK), template=f"env LATTICA_HOST=:: {CLI}")
    address = relay.at(relay.host.ipv6)
    hosts = [lab.host(name, firewall=STATEFUL, ipv4=False, ipv6=True, link=LINK) for name in ("alice", "bob")]
    alice, bob = await asyncio.gather(*(nodes.start(host.name, host, address) for host in hosts))
    await alice.wait_path(bob)
