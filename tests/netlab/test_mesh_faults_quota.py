"""Clients of a relay that ask for more than it gives, and tokens that nobody has minted."""

from __future__ import annotations

import secrets

import pytest
from lab_nodes import LINK, PING_LIMIT_S, SCRIPT, LabNodes, two_homes

from lattica.mesh.relay_limits import SpliceLimits
from netlab import Lab, Nat

HARD = Nat.APDM_APDF_RANDOM
"""Cannot be punched: every pipe needs the relay."""
TOKENS = 50
ALL_S = 60.0
"""Seconds for all of those pipes: each takes a few round trips, one after the other."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_a_client_over_its_quota_learns_why_and_others_do_not_notice(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes, nat=HARD, template=SCRIPT)
    alice, bob = homes.alice, homes.bob
    carol = await nodes.start("carol", lab.host("carol", nat=HARD, link=LINK), homes.relay_address, template=SCRIPT)
    quota = SpliceLimits().pipes_per_client
    async with carol.pinging(bob) as pings:
        await carol.wait_path(bob, "relayed")
        begun = len(pings.failures)
        answer = await alice.do("pipes", peer=bob.peer_id, count=quota + 1, seconds=ALL_S)
        print(answer)
        forged = [await alice.do("forge", relay=homes.relay_address, token=token.hex()) for token in _tokens()]
        assert len(pings.failures) == begun
    assert answer["pipes"] == quota
    assert "we have as many pipes to this peer as the relay allows one client" in str(answer["error"])
    assert "circuit: the peer takes no more pipes now" in str(answer["error"])
    assert {one["error"] for one in forged} == {"the relay does not recognise the token: ask the peer for a new one"}
    assert pings.longest_s < PING_LIMIT_S
    assert await alice.wait_answer(bob, PING_LIMIT_S) == "relayed"


def _tokens() -> list[bytes]:
    return [secrets.token_bytes(120) for _ in range(TOKENS)]
