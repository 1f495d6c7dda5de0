"""What STUN servers' answers say about a NAT."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_report import MAX_PORT_STEP, Answer, NatMapping, nat_report

EIM, ADM, APDM = NatMapping
US = "198.51.100.7"


def answers(*seen: tuple[str, int, int]) -> list[Answer]:
    """(server's host, server's port, our port as it sees it)."""
    return [Answer(Endpoint(host, port), Endpoint(US, mapped), 0.03) for host, port, mapped in seen]


@pytest.mark.parametrize(
    ("seen", "mapping", "step"),
    [
        pytest.param([("a", 1, 5000)], None, None, id="one-server-cannot-tell"),
        pytest.param([("a", 1, 5000), ("a", 2, 5000)], None, None, id="one-server-with-two-equal-ports-cannot-either"),
        pytest.param([("a", 1, 5000), ("a", 2, 5001)], APDM, 1, id="but-with-two-unequal-ones-it-can"),
        pytest.param([("a", 1, 5000), ("b", 1, 5000)], EIM, 0, id="two-see-the-same"),
        pytest.param([("a", 1, 5000), ("b", 1, 5000), ("c", 1, 5000)], EIM, 0, id="three-see-the-same"),
        pytest.param([("a", 1, 5000), ("b", 1, 5001)], APDM, 1, id="two-in-a-row"),
        pytest.param([("a", 1, 5000), ("a", 2, 5000), ("b", 1, 5001)], ADM, 1, id="only-the-address-matters"),
        pytest.param([("a", 1, 5000), ("b", 1, 5002), ("c", 1, 5004)], APDM, 2, id="every-second-port"),
        pytest.param([("a", 1, 5004), ("b", 1, 5003), ("c", 1, 5002)], APDM, -1, id="downwards"),
        pytest.param([("a", 1, 5000), ("b", 1, 5001), ("c", 1, 5004)], APDM, 1, id="others-came-between"),
        pytest.param([("a", 1, 5000), ("b", 1, 5001), ("c", 1, 4999)], APDM, 1, id="one-overtook-another"),
        pytest.param([("a", 1, 5001), ("b", 1, 5000)], APDM, 1, id="two-that-overtook-each-other"),
        pytest.param([("a", 1, 5000), ("b", 1, 5001), ("c", 1, 4900)], APDM, None, id="up-and-far-down"),
        pytest.param([("a", 1, 5000), ("b", 1, 43210), ("c", 1, 1234)], APDM, None, id="random"),
        pytest.param([("a", 1, 5000), ("b", 1, 5000 + MAX_PORT_STEP + 1)], APDM, None, id="too-far-for-a-rule"),
    ],
)
def test_mapping_and_step_follow_from_the_answers(
    seen: list[tuple[str, int, int]], mapping: NatMapping | None, step: int | None
) -> None:
    report = nat_report(answers(*seen))
    assert (report.mapping, report.port_step) == (mapping, step)


def test_the_latest_mapping_and_the_nearest_server_count() -> None:
    seen = [
        Answer(Endpoint(name, 1), Endpoint(US, 5000 + at), rtt)
        for at, (name, rtt) in enumerate((("a", 0.2), ("b", 0.1)))
    ]
    report = nat_report(seen)
    assert (report.mapped, report.rtt) == (Endpoint(US, 5001), 0.1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(1024, 65535)), min_size=1, max_size=5))
def test_any_answers_give_a_report_in_which_a_step_leads_from_port_to_port(seen: list[tuple[str, int, int]]) -> None:
    report = nat_report(answers(*seen))
    ports = [port for _, _, port in seen]
    if not report.port_step:
        assert report.mapped.port == ports[-1]
    else:
        assert report.mapped.port == (max(ports) if report.port_step > 0 else min(ports))
        assert abs(report.port_step) <= MAX_PORT_STEP
        assert report.mapping is not EIM
