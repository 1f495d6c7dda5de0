"""Which addresses of a peer get a SYN: a table, and laws for whatever a hostile peer says."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lattica.mesh.punch_candidates import MAX_PREDICTED, MAX_TARGETS, MIN_PORT, plausible_candidates, punch_plan
from lattica.mesh.punch_messages import Offer
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_report import NatMapping

EIM, ADM, APDM = NatMapping
HOME, AWAY = "20.1.1.1", "20.2.2.2"  # public addresses


def endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(host, int(port))


def offer(mapped: str, *hosts: str, mapping: NatMapping | None = EIM, step: int | None = 0) -> Offer:
    return Offer(mapped=endpoint(mapped), mapping=mapping, port_step=step, hosts=tuple(map(endpoint, hosts)))


OURS = offer(f"{HOME}:5000", "192.168.1.10:5000")


@pytest.mark.parametrize(
    ("own", "theirs", "targets"),
    [
        pytest.param(OURS, offer(f"{AWAY}:6000", "192.168.1.11:6000"), [f"{AWAY}:6000"], id="another-home"),
        pytest.param(
            OURS, offer(f"{HOME}:6000", "192.168.1.11:6000"), ["192.168.1.11:6000", f"{HOME}:6000"], id="the-same-home"
        ),
        pytest.param(OURS, offer(f"{HOME}:6000", "100.64.0.7:6000"), ["100.64.0.7:6000", f"{HOME}:6000"], id="carrier"),
        pytest.param(OURS, offer(f"{AWAY}:6000", "100.64.0.7:6000"), [f"{AWAY}:6000"], id="another-carrier"),
        pytest.param(OURS, offer(f"{AWAY}:6000", "169.254.3.3:6000"), [f"{AWAY}:6000"], id="link-local"),
        pytest.param(OURS, offer(f"{HOME}:6000", "169.254.3.3:6000"), ["169.254.3.3:6000", f"{HOME}:6000"], id="cable"),
        pytest.param(OURS, offer(f"{HOME}:6000", "192.168.1.10:6000"), [f"{HOME}:6000"], id="our-own-private-address"),
        pytest.param(OURS, offer(f"{HOME}:5000"), [], id="our-own-mapping"),
        pytest.param(OURS, offer(f"{HOME}:6000", "127.0.0.1:6000", "127.9.9.9:6000"), [f"{HOME}:6000"], id="loopback"),
        pytest.param(
            OURS, offer(f"{HOME}:6000", "0.0.0.0:6000", "255.255.255.255:6000"), [f"{HOME}:6000"], id="nobody"
        ),
        pytest.param(
            OURS, offer(f"{HOME}:6000", "224.0.0.251:6000", "240.0.0.1:6000"), [f"{HOME}:6000"], id="everybody"
        ),
        pytest.param(OURS, offer("127.0.0.1:6000"), [], id="mapped-to-loopback"),
        pytest.param(OURS, offer("10.0.0.1:6000"), [], id="mapped-to-a-private-address"),
        pytest.param(OURS, offer("192.0.2.1:6000"), [], id="mapped-to-a-documentation-address"),
        pytest.param(OURS, offer(f"{AWAY}:22"), [], id="a-system-port"),
        pytest.param(OURS, offer(f"{AWAY}:6000", "20.3.3.3:6000"), [f"{AWAY}:6000", "20.3.3.3:6000"], id="public-host"),
        pytest.param(
            OURS, offer(f"{AWAY}:6000", "2a02::1:6000", "fe80::1:6000"), [f"{AWAY}:6000"], id="ipv6-is-another"
        ),
        pytest.param(
            offer("10.1.0.1:5000", "192.168.1.10:5000"),
            offer("10.2.0.1:6000", "192.168.1.11:6000"),
            ["10.2.0.1:6000"],
            id="both-in-one-private-network",
        ),
        pytest.param(
            OURS,
            offer(f"{AWAY}:6000", "192.168.7.7:6000", mapping=APDM, step=2),
            [f"{AWAY}:{port}" for port in (6002, 6004, 6006, 6008, 6010, 6000)],
            id="a-nat-that-counts",
        ),
        pytest.param(
            OURS,
            offer(f"{AWAY}:65534", mapping=APDM, step=1),
            [f"{AWAY}:65535", f"{AWAY}:65534"],
            id="a-nat-that-counts-to-the-end",
        ),
        pytest.param(
            OURS, offer(f"{AWAY}:6000", mapping=APDM, step=None), [f"{AWAY}:6000"], id="a-nat-with-random-ports"
        ),
        pytest.param(
            offer(f"{HOME}:5000", mapping=APDM, step=1),
            offer(f"{HOME}:6000", "192.168.1.11:6000"),
            [f"{HOME}:6000", "192.168.1.11:6000"],
            id="our-nat-counts",
        ),
        pytest.param(
            offer("[2a02::1]:5000".replace("[", "").replace("]", "")),
            offer("2a02::2:6000", "fe80::2:6000", "fd00::2:6000", "ff02::1:6000", "::1:6000"),
            ["2a02::2:6000"],
            id="ipv6",
        ),
        pytest.param(
            offer(f"{HOME}:5000", "2a02::1:5006"),
            offer(f"{AWAY}:6000", "192.168.1.11:6000", "2a02::2:6006", "fd00::2:6006", mapping=APDM, step=1),
            ["2a02::2:6006", *(f"{AWAY}:{port}" for port in (6001, 6002, 6003, 6004, 6005, 6000))],
            id="ipv6-beside-ipv4",
        ),
        pytest.param(
            offer(f"{HOME}:5000", "2a02::1:5006"), offer("2a02::2:6006"), ["2a02::2:6006"], id="ipv6-beside-and-alone"
        ),
        pytest.param(
            offer("2a02::1:5006"), offer(f"{AWAY}:6000", "2a02::2:6006"), ["2a02::2:6006"], id="ipv6-alone-and-beside"
        ),
    ],
)
def test_candidates_are_plausible(own: Offer, theirs: Offer, targets: list[str]) -> None:
    assert plausible_candidates(own, theirs) == [endpoint(target) for target in targets]


hosts = st.one_of(
    st.ip_addresses().map(str),
    st.sampled_from(
        [HOME, AWAY, "127.0.0.1", "::1", "192.168.1.10", "10.0.0.9", "255.255.255.255", "::ffff:127.0.0.1"]
    ),
)
anything = st.builds(Endpoint, hosts, st.integers(1, 65535))
offers = st.builds(
    Offer,
    mapped=anything,
    mapping=st.sampled_from([None, *NatMapping]),
    port_step=st.one_of(st.none(), st.integers(-16, 16)),
    hosts=st.lists(anything, max_size=6).map(tuple),
)


@given(offers, offers)
def test_whatever_a_peer_says_we_are_no_port_scanner(own: Offer, theirs: Offer) -> None:
    targets = plausible_candidates(own, theirs)
    assert len(targets) == len(set(targets)) <= MAX_TARGETS
    for target in targets:
        ip = ipaddress.ip_address(target.host)
        assert target.port >= MIN_PORT
        assert not any((ip.is_loopback, ip.is_multicast, ip.is_unspecified))
        assert target not in {own.mapped, *own.hosts}
        if not ip.is_global:
            assert own.mapped.host == theirs.mapped.host or not ipaddress.ip_address(own.mapped.host).is_global
            assert target.host not in {host.host for host in own.hosts}


@given(offers, offers)
def test_only_hosts_that_are_dialled_may_connect(own: Offer, theirs: Offer) -> None:
    plan = punch_plan(own, theirs)
    assert plan.hosts == {target.host for target in plan.targets}


@pytest.mark.parametrize(
    ("own", "theirs", "late"),
    [
        (EIM, EIM, False),
        (APDM, EIM, True),
        (ADM, EIM, True),
        (EIM, APDM, False),
        (APDM, APDM, False),
        (None, None, False),
    ],
)
def test_a_side_whose_nat_gives_each_connection_a_port_dials_later(
    own: NatMapping | None, theirs: NatMapping | None, late: bool
) -> None:
    plan = punch_plan(offer(f"{HOME}:5000", mapping=own), offer(f"{AWAY}:6000", mapping=theirs))
    assert plan.is_late == late


@pytest.mark.parametrize(
    ("mapping", "step", "counted"), [(APDM, 1, True), (APDM, -2, True), (APDM, None, False), (EIM, 0, False)]
)
def test_the_order_of_dials_counts_if_our_nat_counts(mapping: NatMapping, step: int | None, counted: bool) -> None:
    own, theirs = offer(f"{HOME}:5000", mapping=mapping, step=step), offer(f"{AWAY}:6000", mapping=APDM, step=1)
    assert punch_plan(own, theirs).is_counted == counted


def test_as_many_ports_are_predicted_as_are_allowed() -> None:
    targets = plausible_candidates(OURS, offer(f"{AWAY}:6000", mapping=APDM, step=1))
    assert len(targets) == MAX_PREDICTED + 1 <= MAX_TARGETS


@given(st.integers(0, 2), st.integers(0, 4), st.sampled_from([1, 2, -1]), st.sampled_from([1, 3, -2]))
def test_syns_of_two_counting_nats_meet_although_others_have_taken_ports_meanwhile(
    ours: int, theirs: int, our_step: int, their_step: int
) -> None:
    """One of each at least; each SYN takes the next port of its own NAT."""
    assume(2 * ours + theirs < MAX_PREDICTED)
    alice = offer(f"{HOME}:5000", mapping=APDM, step=our_step)
    bob = offer(f"{AWAY}:6000", mapping=APDM, step=their_step)
    alices = {
        (5000 + (number + ours) * our_step, target.port)
        for number, target in enumerate(plausible_candidates(alice, bob), start=1)
    }
    bobs = {
        (target.port, 6000 + (number + theirs) * their_step)
        for number, target in enumerate(plausible_candidates(bob, alice), start=1)
    }
    assert alices & bobs
