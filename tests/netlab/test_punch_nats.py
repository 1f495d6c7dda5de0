"""TCP hole punching through real NATs: who meets whom, and how fast."""

from __future__ import annotations

import time

import pytest
from descriptors import count_descriptors, open_descriptors
from punch_sites import punch_lab, talks

from lattica.errors import PunchFailedError
from lattica.identity import PeerAddress
from netlab import STATEFUL, Host, Lab, Nat, NatKind, Shape, Unsolicited

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

LINK = Shape(delay=0.01)
DROP, RESET = Unsolicited.DROP, Unsolicited.RESET


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
    pytest.param(Nat.APDM_APDF_SEQUENTIAL, RESET, Nat.APDM_APDF_SEQUENTIAL, RESET, id="sequential-sequential-reset"),
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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("unsolicited", Unsolicited)
def test_twenty_punches_between_ordinary_homes_succeed_one_after_the_other(lab: Lab, unsolicited: Unsolicited) -> None:
    alice, bob = (site(lab, name, Nat.EIM_APDF, unsolicited) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        before = count_descriptors("socket")
        meetings = [punching.meet(alice, bob) for _ in range(20)]
        seconds = sorted(meeting.seconds for meeting in meetings)
        print(f"median {seconds[10] * 1000:.0f} ms, slowest {seconds[-1] * 1000:.0f} ms")
        assert [meeting.error for meeting in meetings if meeting.error] == []
        assert all(map(talks, meetings))
        assert seconds[10] < 2.0, "the median: one may meet a pause of the machine"
        for meeting in meetings:
            meeting.close()
        deadline = time.monotonic() + 20.0
        while count_descriptors("socket") > before + 2:  # the relay's ends of the last meeting, perhaps
            assert time.monotonic() < deadline, open_descriptors()
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("unsolicited", Unsolicited)
@pytest.mark.parametrize("skew", [0.015, 0.03, 0.06, 0.2])
def test_it_does_not_matter_much_when_the_other_side_starts(lab: Lab, unsolicited: Unsolicited, skew: float) -> None:
    """The relay delivers everything to bob ``skew`` later than alice can know; the way between them takes 20 ms."""
    alice, bob = (site(lab, name, Nat.EIM_APDF, unsolicited) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob, skew=skew)
        print(f"{meeting.seconds * 1000:.0f} ms")
        assert talks(meeting)


def test_it_works_on_asyncios_own_loop(lab: Lab) -> None:
    alice, bob = (site(lab, name, Nat.EIM_APDF, RESET) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        assert talks(punching.meet(alice, bob, uv=False))


@pytest.mark.parametrize("unsolicited", Unsolicited)
def test_homes_under_carriers_nats_meet(lab: Lab, unsolicited: Unsolicited) -> None:
    hosts = []
    for name in ("alice", "bob"):
        carrier = lab.carrier(f"{name}-isp", nat=Nat.EIM_APDF, unsolicited=unsolicited, link=LINK)
        home = lab.router(f"{name}-home", nat=Nat.EIM_APDF, unsolicited=unsolicited, upstream=carrier)
        hosts.append(lab.host(name, upstream=home))
    with punch_lab(lab) as punching:
        meeting = punching.meet(*hosts)
        print(f"{meeting.seconds * 1000:.0f} ms")
        assert talks(meeting)


def test_two_homes_under_one_carrier_meet_by_its_hairpin(lab: Lab) -> None:
    carrier = lab.carrier("isp", nat=Nat.EIM_EIF, link=LINK)
    homes = [lab.router(f"{name}-home", nat=Nat.EIM_APDF, upstream=carrier, link=LINK) for name in ("alice", "bob")]
    alice, bob = (lab.host(name, upstream=home) for name, home in zip(("alice", "bob"), homes, strict=True))
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob)
        print(f"{meeting.seconds * 1000:.0f} ms {meeting.attempts}")
        assert talks(meeting)
        assert meeting.sockets is not None
        assert meeting.sockets[0].getpeername()[0] == str(carrier.external_address)


@pytest.mark.parametrize("nat", [Nat.EIM_APDF, Nat.APDM_APDF_RANDOM], ids=["eim", "random"])
def test_two_hosts_at_one_router_meet_on_their_lan(lab: Lab, nat: Nat) -> None:
    home = lab.router("home", nat=nat, hairpin=False, link=LINK)
    alice, bob = (lab.host(name, upstream=home) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob)
        print(f"{meeting.seconds * 1000:.0f} ms")
        assert talks(meeting)
        assert meeting.sockets is not None
        assert meeting.sockets[0].getpeername()[0] == str(bob.ipv4)


def test_two_stateful_firewalls_for_ipv6_are_passed(lab: Lab) -> None:
    hosts = []
    for name in ("alice", "bob"):
        home = lab.router(f"{name}-home", firewall=STATEFUL, link=LINK, ipv6=True)
        hosts.append(lab.host(name, upstream=home, ipv6=True))
    with punch_lab(lab) as punching:
        meeting = punching.meet(*hosts, servers=punching.servers6, local_host="::")
        print(f"{meeting.seconds * 1000:.0f} ms")
        assert talks(meeting)
        assert meeting.sockets is not None
        assert meeting.sockets[0].getpeername()[0] == str(hosts[1].ipv6)


@pytest.mark.parametrize("counts", ["no server", "servers of ipv4"])
def test_firewalls_for_ipv6_are_passed_where_ipv4_cannot_be(lab: Lab, counts: str) -> None:
    """Though punched from the wildcard of IPv4, and whether or not anybody tells the mapping of that."""
    hosts = []
    for name in ("alice", "bob"):
        home = lab.router(f"{name}-home", nat=Nat.APDM_APDF_RANDOM, firewall=STATEFUL, link=LINK, ipv6=True)
        hosts.append(lab.host(name, upstream=home, ipv6=True))
    with punch_lab(lab) as punching:
        meeting = punching.meet(*hosts, servers=[] if counts == "no server" else punching.servers)
        print(f"{meeting.seconds * 1000:.0f} ms {meeting.attempts}")
        assert talks(meeting)
        assert meeting.sockets is not None
        assert meeting.sockets[0].getpeername()[0] == str(hosts[1].ipv6)
        assert meeting.sockets[1].getpeername()[0] == str(hosts[0].ipv6)


def test_who_is_bound_to_both_families_punches_ipv4_as_well(lab: Lab) -> None:
    """alice has IPv6, bob has not."""
    homes = [lab.router(f"{name}-home", nat=Nat.EIM_APDF, link=LINK, ipv6=True) for name in ("alice", "bob")]
    alice, bob = lab.host("alice", upstream=homes[0], ipv6=True), lab.host("bob", upstream=homes[1])
    with punch_lab(lab) as punching:
        servers = [*punching.servers6, *punching.servers]
        meeting = punching.meet(alice, bob, servers=servers, local_host="::")
        print(f"{meeting.seconds * 1000:.0f} ms {meeting.attempts}")
        assert talks(meeting)
        assert meeting.sockets is not None
        assert meeting.sockets[0].getpeername()[0] == str(bob.public_address)


def test_lost_packets_cost_time_and_not_the_connection(lab: Lab) -> None:
    lossy = Shape(delay=0.01, loss=0.1)
    homes = [lab.router(f"{name}-home", nat=Nat.EIM_APDF, link=lossy) for name in ("alice", "bob")]
    alice, bob = (lab.host(name, upstream=home) for name, home in zip(("alice", "bob"), homes, strict=True))
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob)
        print(f"{meeting.seconds * 1000:.0f} ms")
        assert talks(meeting)


def test_one_server_is_enough_between_endpoint_independent_nats(lab: Lab) -> None:
    alice, bob = (site(lab, name, Nat.EIM_APDF) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        assert talks(punching.meet(alice, bob, servers=punching.servers[:1]))


def test_a_dead_server_costs_little(lab: Lab) -> None:
    """The first one does not answer; the others are not kept waiting for it."""
    alice, bob = (site(lab, name, Nat.EIM_APDF) for name in ("alice", "bob"))
    dead = lab.host("dead")
    dead.link.down()
    nobody = PeerAddress.tcp(str(dead.ipv4), 3478)
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob, servers=[nobody, *punching.servers[:2]])
        print(f"{meeting.seconds * 1000:.0f} ms {meeting.attempts}")
        assert meeting.attempts[f"stun {nobody.text}"] == "no answer yet"
        assert talks(meeting)


@pytest.mark.slow
def test_random_ports_against_strict_filtering_fail_with_the_reasons(lab: Lab) -> None:
    alice, bob = site(lab, "alice", Nat.APDM_APDF_RANDOM), site(lab, "bob", Nat.EIM_APDF)
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob)
        print(f"{meeting.seconds:.1f} s {meeting.error}")
        assert isinstance(meeting.error, PunchFailedError)
        assert meeting.error.attempts["punch"] == "nothing connected in 2 rounds"
        assert any(str(bob.public_address) in what for what in meeting.error.attempts)


def test_without_a_server_it_fails_at_once_with_the_reason(lab: Lab) -> None:
    alice, bob = (site(lab, name, Nat.EIM_APDF) for name in ("alice", "bob"))
    with punch_lab(lab) as punching:
        meeting = punching.meet(alice, bob, servers=[])
        assert isinstance(meeting.error, PunchFailedError)
        assert "no STUN server is known" in str(meeting.error)
