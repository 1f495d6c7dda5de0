"""Standard services and a foreign client reach through two home NATs as on one machine."""

from __future__ import annotations

import pytest
from lab_nodes import SCRIPT, LabNodes, two_homes

from lattica.rpc import ServingStatus
from netlab import Lab, Nat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    ("nat", "path"),
    [
        pytest.param(Nat.EIM_APDF, "punched-tcp", id="home-x-home"),
        pytest.param(Nat.APDM_APDF_RANDOM, "relayed", id="symmetric-x-symmetric"),
    ],
)
async def test_health_and_a_client_that_knows_only_reflection_work_across_two_nats(
    lab: Lab, nodes: LabNodes, nat: Nat, path: str
) -> None:
    homes = await two_homes(lab, nodes, nat=nat, template=SCRIPT)
    await homes.alice.wait_path(homes.bob, path)
    answer = await homes.alice.do("standard", peer=homes.bob.peer_id)
    assert answer["checked"] == answer["watched"] == ServingStatus.SERVING
    assert answer["echoed"] == "no code"
    assert isinstance(answer["services"], list)
    assert {"lattica.v1.Peer", "lattica.v1.Content", "grpc.health.v1.Health"} <= set(answer["services"])
    assert answer["path"] == path
