"""What a router says itself takes nothing from those behind it."""

from contextlib import ExitStack

import pytest

from netlab import Lab, Nat, Unsolicited
from netlab.probes import Attempt, attempt, connection, listen, tcp

pytestmark = pytest.mark.netns


def test_a_refusal_to_a_stranger_uses_up_no_port_of_a_nat_that_counts(lab: Lab) -> None:
    server = lab.host("server")
    home = lab.router("home", nat=Nat.APDM_APDF_SEQUENTIAL, unsolicited=Unsolicited.RESET)
    inside = lab.host("inside", upstream=home)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(server))
        _, first = stack.enter_context(connection(tcp(inside), listener))
        for port in (30001, 30002, 30003):
            assert attempt(server, (str(home.external_address), port)) is Attempt.REFUSED
        _, second = stack.enter_context(connection(tcp(inside), listener))
    assert second[1] == first[1] + 1
