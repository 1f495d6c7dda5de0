"""Each kind of NAT against its definition in RFC 4787 and RFC 5382, with raw sockets."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from netlab import Filtering, Host, Lab, Mapping, Nat, NatKind, Ports, Unsolicited, open_lab
from netlab.probes import Admitted, connection, listen, local, mapped, tcp, tcp_admits, udp, udp_admits

pytestmark = pytest.mark.netns

# Some of the other 22 combinations; together with the named ones each behaviour meets each other one's.
UNNAMED = {
    "eim-apdf-random": NatKind(Mapping.EIM, Filtering.APDF, Ports.RANDOM),
    "eim-eif-sequential": NatKind(Mapping.EIM, Filtering.EIF, Ports.SEQUENTIAL),
    "adm-adf-preserved": NatKind(Mapping.ADM, Filtering.ADF, Ports.PRESERVED),
    "adm-apdf-sequential": NatKind(Mapping.ADM, Filtering.APDF, Ports.SEQUENTIAL),
    "adm-eif-random": NatKind(Mapping.ADM, Filtering.EIF, Ports.RANDOM),
    "apdm-eif-random": NatKind(Mapping.APDM, Filtering.EIF, Ports.RANDOM),
    "apdm-adf-sequential": NatKind(Mapping.APDM, Filtering.ADF, Ports.SEQUENTIAL),
    "apdm-apdf-preserved": NatKind(Mapping.APDM, Filtering.APDF, Ports.PRESERVED),
}
NAMED = {nat.name.lower().replace("_", "-"): nat.kind for nat in Nat}
KINDS = NAMED | UNNAMED

each_kind = pytest.mark.parametrize("name", [*NAMED, *(pytest.param(name, marks=pytest.mark.slow) for name in UNNAMED)])


class Town:
    """Two public hosts, and a home with two hosts for each kind that a test asks for."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._homes: dict[str, tuple[Host, Host]] = {}
        self.one, self.two = lab.host("one"), lab.host("two")

    def home(self, name: str) -> tuple[Host, Host]:
        if name not in self._homes:
            router = self._lab.router(f"{name}-home", nat=KINDS[name], unsolicited=Unsolicited.RESET)
            first, second = (self._lab.host(f"{name}-{which}", upstream=router) for which in ("a", "b"))
            self._homes[name] = first, second
        return self._homes[name]


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with open_lab() as lab:
        yield Town(lab)


def kept(mapping: Mapping) -> tuple[bool, bool]:
    """Whether flows to another port, and to another address, keep the external port."""
    return mapping is not Mapping.APDM, mapping is Mapping.EIM


def admitted(filtering: Filtering) -> Admitted:
    return Admitted(filtering is not Filtering.APDF, filtering is Filtering.EIF)


@each_kind
def test_udp_mapping_depends_on_what_the_kind_says(town: Town, name: str) -> None:
    inside, _ = town.home(name)
    with udp(inside) as client, udp(town.one) as a, udp(town.one) as b, udp(town.two) as c:
        first, other_port, other_address, again = (mapped(client, server) for server in (a, b, c, a))
    assert first[0] == str(inside.public_address)
    assert again == first
    assert (other_port == first, other_address == first) == kept(KINDS[name].mapping)


@each_kind
def test_tcp_mapping_depends_on_what_the_kind_says(town: Town, name: str) -> None:
    inside, _ = town.home(name)
    sources = []
    with ExitStack() as stack:
        _, port = local(stack.enter_context(tcp(inside)))
        for host in (town.one, town.one, town.two):
            server = stack.enter_context(listen(host))
            _, source = stack.enter_context(connection(tcp(inside, port), server))
            sources.append(source)
    first, other_port, other_address = sources
    assert first[0] == str(inside.public_address)
    assert (other_port == first, other_address == first) == kept(KINDS[name].mapping)


@each_kind
def test_udp_filter_admits_whom_the_kind_says(town: Town, name: str) -> None:
    inside, _ = town.home(name)
    assert udp_admits(inside, town.one, town.two) == admitted(KINDS[name].filtering)


@each_kind
def test_tcp_filter_admits_whom_the_kind_says(town: Town, name: str) -> None:
    inside, _ = town.home(name)
    assert tcp_admits(inside, town.one, town.two) == admitted(KINDS[name].filtering)


@each_kind
def test_ports_are_allocated_as_the_kind_says(town: Town, name: str) -> None:
    inside, _ = town.home(name)
    with udp(town.one) as server, ExitStack() as stack:
        clients = [stack.enter_context(udp(inside)) for _ in range(6)]
        internal = [local(client)[1] for client in clients]
        external = [mapped(client, server)[1] for client in clients]
    steps = {after - before for before, after in pairwise(external)}
    match KINDS[name].ports:
        case Ports.PRESERVED:
            assert external == internal
        case Ports.SEQUENTIAL:
            assert steps == {1}
        case Ports.RANDOM:
            assert external != internal
            assert len(steps) > 1
            assert max(external) - min(external) > 100


@each_kind
def test_two_machines_with_one_local_port_keep_a_mapping_each(town: Town, name: str) -> None:
    first, second = town.home(name)
    with udp(first) as a, udp(second, local(a)[1]) as b, udp(town.one) as one, udp(town.two) as two:
        of_a, of_b = ([mapped(client, server) for server in (one, two)] for client in (a, b))
        one.sendto(b"for a", of_a[0])
        one.sendto(b"for b", of_b[0])
        assert (a.recv(100), b.recv(100)) == (b"for a", b"for b")
    assert not set(of_a) & set(of_b)
    if KINDS[name].mapping is Mapping.EIM:
        assert len(set(of_a)) == len(set(of_b)) == 1
