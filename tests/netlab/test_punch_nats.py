"""TCP hole punching through real NATs: who meets whom, and how fast."""

from __future__ import annotations

import pytest
from punch_sites import punch_lab, talks

from netlab import Host, Lab, Nat, NatKind, Shape, Unsolicited
from netlab.nat import Filtering, Mapping, Ports

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

LINK = Shape(delay=0.01)
DROP, RESET = Unsolicited.DROP, Unsolicited.RESET
SEQUENTIAL_ADF = NatKind(Mapping.APDM, Filtering.ADF, Ports.SEQUENTIAL)


def site(lab: Lab, name: str, nat: Nat | NatKind | None, unsolicited: Unsolicited = DROP) -> Host:
    if nat is None:
        return lab.host(name, link=LINK)
    return lab.host(name, upstream=lab.router(f"{name}-home", nat=nat, unsolicited=unsolicited, link=LINK))


CELLS = [
    pytest.param(Nat.EIM_APDF, DROP, Nat.EIM_APDF, DROP, id="apdf-apdf"),
    pytest.param(Nat.EIM_APDF, RESET, Nat.EIM_APDF, DROP, id="apdf-reset-apdf"),
    pytest.param(Nat.EIM_APDF, DROP, Nat.EIM_APDF, RESET, id="apdf-apdf-reset"),
    pytest.param(Nat.EIM_APDF, RESET, Nat.EIM_APDF, RESET, id="apdf-reset-apdf-reset"),
    pytest.param(Nat.EIM_EIF, DROP, Nat.EIM_APDF, DROP, id="eif-apdf"),
    pytest.param(Nat.EIM_APDF, DROP, Nat.EIM_EIF, DROP, id="apdf-eif"),
    pytest.param(Nat.EIM_ADF, DROP, Nat.EIM_APDF, DROP, id="adf-apdf"),
    pytest.param(Nat.EIM_EIF, RESET, Nat.EIM_EIF, RESET, id="eif-reset-eif-reset"),
    pytest.param(Nat.EIM_ADF, RESET, Nat.EIM_ADF, RESET, id="adf-reset-adf-reset"),
    pytest.param(Nat.APDM_APDF_SEQUENTIAL, DROP, Nat.EIM_APDF, DROP, id="sequential-apdf"),
    pytest.param(Nat.EIM_APDF, DROP, Nat.APDM_APDF_SEQUENTIAL, DROP, id="apdf-sequential"),
    pytest.param(Nat.APDM_APDF_SEQUENTIAL, RESET, Nat.EIM_APDF, RESET, id="sequential-reset-apdf-reset"),
    pytest.param(Nat.EIM_APDF, RESET, Nat.APDM_APDF_SEQUENTIAL, RESET, id="apdf-reset-sequential-reset"),
    pytest.param(Nat.APDM_APDF_SEQUENTIAL, DROP, Nat.APDM_APDF_SEQUENTIAL, DROP, id="sequential-sequential"),
    pytest.param(Nat.APDM_APDF_RANDOM, DROP, Nat.EIM_EIF, DROP, id="random-eif"),
    pytest.param(Nat.EIM_EIF, DROP, Nat.APDM_APDF_RANDOM, DROP, id="eif-random"),
    pytest.param(Nat.APDM_APDF_RANDOM, RESET, Nat.EIM_ADF, RESET, id="random-reset-adf-reset"),
    pytest.param(Nat.EIM_ADF, DROP, Nat.APDM_APDF_RANDOM, DROP, id="adf-random"),
    pytest.param(None, DROP, Nat.APDM_APDF_RANDOM, DROP, id="public-random"),
]


@pytest.mark.parametrize(("alice_nat", "alice_answer", "bob_nat", "bob_answer"), CELLS)
def test_a_hole_is_punched_between(
    lab: Lab, alice_nat: Nat, alice_answer: Unsolicited, bob_nat: Nat, bob_answer: Unsolicited
) -> None:
    alice, bob = site(lab, "alice", alice_nat, alice_answer), site(lab, "bob", bob_nat, bob_answer)
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob)
        print(f"{meeting.seconds * 1000:.0f} ms {meeting.error or ''} {meeting.attempts}")
        assert talks(meeting)
        assert meeting.seconds < 2.0
