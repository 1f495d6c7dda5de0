"""Replicas behind home NATs are found and called by name, and one that dies is not missed."""

from __future__ import annotations

import asyncio

import pytest
from lab_nodes import HOME, LINK, SCRIPT, LabNodes

from netlab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_calls_by_name_reach_two_homes_and_go_on_when_one_is_gone(lab: Lab, nodes: LabNodes) -> None:
    relay = await nodes.start("relay", lab.host("relay", link=LINK), template=SCRIPT)
    address = relay.at(relay.host.ipv4)
    hosts = [lab.host(name, nat=HOME, link=LINK) for name in ("alice", "bob", "carol")]
    starting = (nodes.start(host.name, host, address, template=SCRIPT) for host in hosts)
    alice, bob, caller = await asyncio.gather(*starting)
    await asyncio.gather(alice.do("offer"), bob.do("offer"))

    answered: set[str] = set()
    async with asyncio.timeout(60):
        while answered != {alice.peer_id, bob.peer_id}:
            reply = await caller.do("by_name", calls=20)
            assert isinstance(reply["answered"], dict)
            answered = set(reply["answered"])
    await caller.wait_path(alice)
    await caller.wait_path(bob)

    going_on = caller.tell("by_name", calls=400)
    await alice.kill()
    reply = await caller.answer(going_on, seconds=100)
    assert isinstance(reply["answered"], dict)
    assert sum(reply["answered"].values()) == 400
    reply = await caller.do("by_name", calls=20)
    assert reply["answered"] == {bob.peer_id: 20}
    assert reply["paths"] == {bob.peer_id: "punched-tcp"}
