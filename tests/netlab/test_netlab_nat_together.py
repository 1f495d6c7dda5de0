"""NATs in combination: machines behind one NAT, homes behind a carrier's, and holes between two."""

import ipaddress
import socket
from contextlib import ExitStack

import pytest

from netlab import Filtering, Host, Lab, LabError, Mapping, Nat, Shape, Unsolicited
from netlab.probes import (
    Admitted,
    Endpoint,
    arrives,
    connection,
    listen,
    local,
    mapped,
    punch,
    tcp,
    tcp_admits,
    udp,
    udp_admits,
)

pytestmark = pytest.mark.netns

PUNCHABLE = Shape(delay=0.01)  # see `punch`
EIM_NATS = [nat for nat in Nat if nat.mapping is Mapping.EIM]

each_nat = pytest.mark.parametrize("nat", Nat)
each_eim = pytest.mark.parametrize("nat", EIM_NATS)


def puncher(stack: ExitStack, host: Host, server: Host) -> tuple[socket.socket, Endpoint]:
    """A socket whose external endpoint a server has told, over a connection from the same port that stays."""
    listener = stack.enter_context(listen(server))
    client = tcp(host)
    _, external = stack.enter_context(connection(client, listener))
    return stack.enter_context(tcp(host, local(client)[1])), external


@each_eim
def test_machines_behind_one_nat_meet_by_their_external_endpoints(lab: Lab, nat: Nat) -> None:
    """RFC 4787, REQ-9: and each sees the other's external endpoint as the source."""
    server, home = lab.host("server"), lab.router("home", nat=nat)
    alice, bob = lab.host("alice", upstream=home), lab.host("bob", upstream=home)
    with udp(server) as receiver, udp(alice) as a, udp(bob) as b:
        of_a, of_b = mapped(a, receiver), mapped(b, receiver)
        a.sendto(b"first", of_b)
        b.sendto(b"from b", of_a)
        assert a.recvfrom(100) == (b"from b", of_b)
        a.sendto(b"from a", of_b)
        data, source = b.recvfrom(100)
        assert source == of_a
        assert data == (b"first" if nat.filtering is Filtering.EIF else b"from a")


@each_eim
def test_a_hairpin_is_filtered_like_any_other_way_in(lab: Lab, nat: Nat) -> None:
    server, home = lab.host("server"), lab.router("home", nat=nat)
    alice, bob = lab.host("alice", upstream=home), lab.host("bob", upstream=home)
    with udp(server) as receiver, udp(alice) as a, udp(bob) as b, udp(bob) as other:
        of_a, of_b = mapped(a, receiver), mapped(b, receiver)
        mapped(other, receiver)
        a.sendto(b"hello", of_b)
        other.sendto(b"from another port", of_a)
        b.sendto(b"from b", of_a)
        assert arrives(a, b"from another port", b"from b") == (nat.filtering is not Filtering.APDF)


@each_eim
def test_tcp_holes_can_be_punched_through_a_hairpin(lab: Lab, nat: Nat) -> None:
    server, home = lab.host("server"), lab.router("home", nat=nat)
    alice, bob = (lab.host(name, upstream=home, link=PUNCHABLE) for name in ("alice", "bob"))
    with ExitStack() as stack:
        (a, of_a), (b, of_b) = puncher(stack, alice, server), puncher(stack, bob, server)
        punch(a, b, of_a, of_b)
        a.sendall(b"through the hairpin")
        assert b.recv(100) == b"through the hairpin"
        assert (a.getpeername(), b.getpeername()) == (of_b, of_a)


@each_nat
def test_without_hairpinning_external_endpoints_are_dead_ends_inside(lab: Lab, nat: Nat) -> None:
    server, home = lab.host("server"), lab.router("home", nat=nat, hairpin=False)
    alice, bob = lab.host("alice", upstream=home), lab.host("bob", upstream=home)
    with udp(server) as receiver, udp(alice) as a, udp(bob) as b:
        of_a, of_b = mapped(a, receiver), mapped(b, receiver)
        a.sendto(b"hairpin", of_b)
        b.sendto(b"hairpin", of_a)
        a.sendto(b"hairpin", of_b)
        a.sendto(b"over the LAN", local(b))
        assert not arrives(b, b"hairpin", b"over the LAN")


def weaker(home: Nat, carrier: Nat) -> tuple[bool, Admitted]:
    """Two NATs in a row: each property is only as good as with the worse one."""
    filters = {home.filtering, carrier.filtering}
    independent = home.mapping is carrier.mapping is Mapping.EIM
    return independent, Admitted(Filtering.APDF not in filters, filters == {Filtering.EIF})


@each_nat
@pytest.mark.parametrize(
    "carrier_nat",
    [
        pytest.param(Nat.EIM_EIF, id="under-a-mild-one"),
        pytest.param(Nat.EIM_ADF, id="under-a-middling-one", marks=pytest.mark.slow),
        pytest.param(Nat.APDM_APDF_RANDOM, id="under-a-hard-one", marks=pytest.mark.slow),
    ],
)
def test_a_home_behind_a_carriers_nat_is_translated_twice(lab: Lab, nat: Nat, carrier_nat: Nat) -> None:
    one, two = lab.host("one"), lab.host("two")
    carrier = lab.carrier("isp", nat=carrier_nat, unsolicited=Unsolicited.RESET)
    home = lab.router("home", nat=nat, upstream=carrier, unsolicited=Unsolicited.RESET)
    alice = lab.host("alice", upstream=home)
    independent, admitted = weaker(nat, carrier_nat)
    assert home.external_address in ipaddress.ip_network("100.64.0.0/10")
    assert alice.public_address == carrier.external_address
    with udp(alice) as client, udp(one) as a, udp(two) as b:
        first, second = mapped(client, a), mapped(client, b)
        assert first[0] == second[0] == str(carrier.external_address)
        assert (first == second) == independent
    assert udp_admits(alice, one, two) == admitted
    assert tcp_admits(alice, one, two) == admitted


def test_cgnat_is_one_word_for_a_carrier_above_a_home(lab: Lab) -> None:
    alice, server = lab.host("alice", nat=Nat.EIM_APDF, cgnat=Nat.EIM_EIF), lab.host("server")
    with udp(alice) as client, udp(server) as receiver:
        assert mapped(client, receiver)[0] == str(alice.public_address)
    assert alice.router is not None
    assert alice.router.external_address != alice.public_address


@each_eim
@pytest.mark.parametrize("unsolicited", Unsolicited)
def test_tcp_holes_can_be_punched_between_endpoint_independent_nats(
    lab: Lab, nat: Nat, unsolicited: Unsolicited
) -> None:
    server = lab.host("server")
    with ExitStack() as stack:
        punchers = []
        for name in ("alice", "bob"):
            home = lab.router(f"{name}-home", nat=nat, unsolicited=unsolicited, link=PUNCHABLE)
            punchers.append(puncher(stack, lab.host(name, upstream=home), server))
        (a, of_a), (b, of_b) = punchers
        punch(a, b, of_a, of_b)
        a.sendall(b"through the hole")
        assert b.recv(100) == b"through the hole"
        assert (a.getpeername(), b.getpeername()) == (of_b, of_a)


def test_tcp_holes_can_be_punched_through_two_layers(lab: Lab) -> None:
    """One peer is behind a home's and a carrier's NAT, the other behind a home's that answers with resets."""
    server = lab.host("server")
    alice = lab.host("alice", nat=Nat.EIM_APDF, cgnat=Nat.EIM_APDF, link=PUNCHABLE)
    home = lab.router("home", nat=Nat.EIM_APDF, unsolicited=Unsolicited.RESET, link=PUNCHABLE)
    bob = lab.host("bob", upstream=home)
    with ExitStack() as stack:
        (a, of_a), (b, of_b) = puncher(stack, alice, server), puncher(stack, bob, server)
        punch(a, b, of_a, of_b)
        b.sendall(b"through both")
        assert a.recv(100) == b"through both"


def test_no_hole_leads_to_a_nat_whose_ports_are_random(lab: Lab) -> None:
    """The control for the tests above: the lab does not connect what cannot be connected."""
    server = lab.host("server")
    alice, bob = lab.host("alice", nat=Nat.EIM_APDF), lab.host("bob", nat=Nat.APDM_APDF_RANDOM)
    with udp(server) as receiver, udp(alice) as a, udp(bob) as b:
        of_a, of_b = mapped(a, receiver), mapped(b, receiver)
        for _ in range(3):
            a.sendto(b"hole", of_b)
            b.sendto(b"hole", of_a)
        receiver.sendto(b"end", of_a)
        receiver.sendto(b"end", of_b)
        assert not arrives(a, b"hole", b"end")
        assert not arrives(b, b"hole", b"end")


def test_a_router_cannot_have_one_network_on_both_sides(lab: Lab) -> None:
    server, outer = lab.host("server"), lab.router("outer", nat=Nat.EIM_APDF)
    with pytest.raises(LabError, match="lan="):
        lab.router("inner", nat=Nat.EIM_APDF, upstream=outer)
    inner = lab.router("inner-2", nat=Nat.EIM_APDF, upstream=outer, lan="192.168.2.0/24")
    with udp(lab.host("alice", upstream=inner)) as client, udp(server) as receiver:
        assert mapped(client, receiver)[0] == str(outer.external_address)
