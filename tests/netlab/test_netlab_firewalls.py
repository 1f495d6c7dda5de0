"""Firewalls, with and without a NAT, for IPv4 and IPv6."""

import pytest

from netlab import ONLY_TCP_443, STATEFUL, UDP_BLOCKED, Firewall, Lab, LabError, Nat, Unsolicited
from netlab.probes import (
    Attempt,
    arrives,
    attempt,
    connection,
    listen,
    local,
    mapped,
    nothing_waits,
    tcp,
    udp,
)

pytestmark = pytest.mark.netns

both_families = pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
NATS = [pytest.param(None, id="no-nat"), pytest.param(Nat.EIM_EIF, id="nat")]


@both_families
@pytest.mark.parametrize("nat", NATS)
def test_udp_can_be_blocked_while_tcp_leaves(lab: Lab, nat: Nat | None, ipv6: bool) -> None:
    server = lab.host("server", ipv6=True)
    office = lab.router("office", nat=nat, firewall=UDP_BLOCKED, ipv6=True)
    alice, free = lab.host("alice", upstream=office, ipv6=True), lab.host("free", ipv6=True)
    with udp(server, ipv6=ipv6) as receiver, udp(alice, ipv6=ipv6) as client, udp(free, ipv6=ipv6) as other:
        client.sendto(b"blocked", local(receiver))
        other.sendto(b"passes", local(receiver))
        assert not arrives(receiver, b"blocked", b"passes")
    with listen(server, ipv6=ipv6) as listener:
        assert attempt(alice, local(listener)) is Attempt.CONNECTED


@both_families
@pytest.mark.parametrize("nat", NATS)
def test_only_port_443_can_be_left_open(lab: Lab, nat: Nat | None, ipv6: bool) -> None:
    server = lab.host("server", ipv6=True)
    office = lab.router("office", nat=nat, firewall=ONLY_TCP_443, ipv6=True)
    alice, free = lab.host("alice", upstream=office, ipv6=True), lab.host("free", ipv6=True)
    with listen(server, 443, ipv6=ipv6) as https, listen(server, 4001, ipv6=ipv6) as other:
        assert attempt(alice, local(https)) is Attempt.CONNECTED
        assert attempt(alice, local(other)) is Attempt.SILENCE
        assert attempt(free, local(other)) is Attempt.CONNECTED
    with udp(server, 443, ipv6=ipv6) as receiver, udp(alice, ipv6=ipv6) as client, udp(free, ipv6=ipv6) as passes:
        client.sendto(b"blocked", local(receiver))
        passes.sendto(b"passes", local(receiver))
        assert not arrives(receiver, b"blocked", b"passes")


def test_a_firewall_can_allow_some_udp_ports(lab: Lab) -> None:
    server, alice = lab.host("server"), lab.host("alice", firewall=Firewall(udp_ports=frozenset({53, 443})))
    with udp(server, 443) as allowed, udp(server, 4001) as forbidden, udp(alice) as client:
        client.sendto(b"blocked", local(forbidden))
        assert mapped(client, allowed) == local(client)
        assert nothing_waits(forbidden)


def test_a_machine_that_a_nat_admits_a_peer_to_may_answer_it(lab: Lab) -> None:
    """The firewall judges new flows by who began them, not each packet."""
    server, peer = lab.host("server"), lab.host("peer")
    office = lab.router("office", nat=Nat.EIM_EIF, firewall=Firewall(udp_ports=frozenset({3478})))
    alice = lab.host("alice", upstream=office)
    with udp(server, 3478) as stun, udp(alice) as client, udp(peer, 4001) as remote:
        external = mapped(client, stun)
        remote.sendto(b"hello", external)
        data, source = client.recvfrom(100)
        client.sendto(b"answer", source)
        assert (data, remote.recvfrom(100)) == (b"hello", (b"answer", external))


@both_families
@pytest.mark.parametrize(
    ("unsolicited", "answer"), [(Unsolicited.DROP, Attempt.SILENCE), (Unsolicited.RESET, Attempt.REFUSED)]
)
def test_a_stateful_firewall_lets_in_only_answers(
    lab: Lab, ipv6: bool, unsolicited: Unsolicited, answer: Attempt
) -> None:
    server = lab.host("server", ipv6=True)
    site = lab.router("site", firewall=STATEFUL, unsolicited=unsolicited, ipv6=True)
    alice = lab.host("alice", upstream=site, ipv6=True)
    with listen(alice, ipv6=ipv6) as listener:
        assert attempt(server, local(listener)) is answer
    with udp(server, ipv6=ipv6) as known, udp(server, ipv6=ipv6) as unknown, udp(alice, ipv6=ipv6) as client:
        assert mapped(client, known) == local(client)
        unknown.sendto(b"unasked", local(client))
        known.sendto(b"answer", local(client))
        assert not arrives(client, b"unasked", b"answer")


@both_families
@pytest.mark.parametrize("firewall", [None, Firewall(stateful=False)], ids=["none", "stateless"])
def test_a_router_without_a_stateful_firewall_lets_everything_in(
    lab: Lab, firewall: Firewall | None, ipv6: bool
) -> None:
    server = lab.host("server", ipv6=True)
    alice = lab.host("alice", upstream=lab.router("site", firewall=firewall, ipv6=True), ipv6=True)
    with listen(alice, ipv6=ipv6) as listener:
        assert attempt(server, local(listener)) is Attempt.CONNECTED


@pytest.mark.parametrize("cgnat", [None, Nat.APDM_APDF_RANDOM], ids=["home", "under-a-carrier"])
def test_ipv6_is_not_translated_but_filtered_behind_a_nat(lab: Lab, cgnat: Nat | None) -> None:
    server = lab.host("server", ipv6=True)
    alice = lab.host("alice", nat=Nat.EIM_APDF, cgnat=cgnat, ipv6=True)
    assert alice.ipv6.is_global
    with udp(alice, ipv6=True) as client, udp(server, ipv6=True) as known, udp(server, ipv6=True) as unknown:
        assert mapped(client, known) == local(client)
        unknown.sendto(b"unasked", local(client))
        known.sendto(b"answer", local(client))
        assert not arrives(client, b"unasked", b"answer")


def test_ipv6_holes_can_be_punched_between_firewalls(lab: Lab) -> None:
    alice, bob = (lab.host(name, nat=Nat.APDM_APDF_RANDOM, ipv6=True) for name in ("alice", "bob"))
    with udp(alice, ipv6=True) as a, udp(bob, ipv6=True) as b:
        a.sendto(b"opens", local(b))
        b.sendto(b"enters", local(a))
        a.sendto(b"answers", local(b))
        assert (a.recv(100), b.recv(100)) == (b"enters", b"answers")


def test_a_firewalled_host_keeps_its_public_address(lab: Lab) -> None:
    server, alice = lab.host("server"), lab.host("alice", firewall=UDP_BLOCKED)
    assert alice.ipv4 == alice.public_address
    with listen(server) as listener, connection(tcp(alice), listener) as (_, source):
        assert source[0] == str(alice.ipv4)


def test_a_router_without_nat_needs_public_addresses(lab: Lab) -> None:
    with pytest.raises(LabError, match="public network"):
        lab.host("alice", upstream=lab.router("home", nat=Nat.EIM_APDF), firewall=STATEFUL)
