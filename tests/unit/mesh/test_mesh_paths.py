"""Which addresses a node tells of itself, and which of a peer's it dials in what order."""

from __future__ import annotations

import ipaddress
import types
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.identity import PeerAddress
from lattica.mesh import paths
from lattica.mesh.paths import Candidate, CandidateKind, PathKind, dial_order, host_candidates, is_local, path_kind

HOSTS = [
    "192.0.2.1",
    "192.0.2.2",
    "10.0.0.1",
    "2001:db8::1",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "224.0.0.1",
    "::ffff:127.0.0.1",
]
hosts = st.sampled_from(HOSTS)
ports = st.sampled_from([1, 4737, 65535])
addresses = st.builds(PeerAddress.tcp, hosts, ports)
candidates = st.builds(Candidate, hosts, ports, st.sampled_from(CandidateKind))


def key(address: PeerAddress) -> tuple[str, int]:
    return address.host, address.port


@given(st.lists(addresses), st.lists(candidates), st.booleans())
def test_no_address_is_dialled_twice(proven: list[PeerAddress], said: list[Candidate], same_host: bool) -> None:
    order = [key(address) for address in dial_order(proven, said, same_host=same_host)]
    assert len(order) == len(set(order))


@given(st.lists(addresses), st.lists(candidates), st.booleans())
def test_proven_addresses_come_first_in_their_order(
    proven: list[PeerAddress], said: list[Candidate], same_host: bool
) -> None:
    order = [key(address) for address in dial_order(proven, said, same_host=same_host)]
    unique = list(dict.fromkeys(map(key, proven)))
    assert order[: len(unique)] == unique


@given(st.lists(addresses), st.lists(candidates), st.booleans())
def test_what_a_peer_says_is_dialled_unless_it_points_into_this_machine(
    proven: list[PeerAddress], said: list[Candidate], same_host: bool
) -> None:
    order = {key(address) for address in dial_order(proven, said, same_host=same_host)}
    allowed = {key(one.address) for one in said if same_host or not is_local(one.address.host)}
    assert order == allowed | {key(address) for address in proven}


@given(st.lists(candidates))
def test_addresses_of_interfaces_come_before_public_ones(said: list[Candidate]) -> None:
    order = [key(address) for address in dial_order([], said, same_host=True)]
    host = {key(one.address) for one in said if one.kind is CandidateKind.HOST}
    assert set(order[: len(host)]) == host


def test_a_strangers_loopback_candidate_is_ignored_in_any_spelling() -> None:
    said = [Candidate(host, 22, CandidateKind.HOST) for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")]
    assert dial_order([], said, same_host=False) == []
    assert len(dial_order([], said, same_host=True)) == 3  # the mapped one is the first again


def test_an_address_that_is_not_tcp_is_not_dialled() -> None:
    assert dial_order([PeerAddress.parse("/ip4/192.0.2.1/udp/4737/quic-v1")], [], same_host=False) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "224.0.0.251", "ff02::1"])
def test_local_addresses_mean_this_machine_or_nobody(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "10.0.0.1", "169.254.1.1", "2001:db8::1", "fe80::1", "localhost.example"]
)
def test_other_addresses_are_not_local(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", PathKind.LAN),
        ("10.1.2.3", PathKind.LAN),
        ("192.168.0.7", PathKind.LAN),
        ("169.254.9.9", PathKind.LAN),
        ("fe80::1", PathKind.LAN),
        ("fd00::1", PathKind.LAN),
        ("8.8.8.8", PathKind.DIRECT),
        ("2606:4700::1", PathKind.DIRECT),
        ("peer.example", PathKind.DIRECT),
    ],
)
def test_the_kind_of_a_path_follows_from_its_address(host: str, kind: PathKind) -> None:
    assert path_kind(host) is kind


def interfaces(*texts: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return map(ipaddress.ip_address, texts)


ALL = ("127.0.0.1", "::1", "192.168.1.7", "172.17.0.1", "fe80::1", "169.254.3.3", "2001:db8::7")


@pytest.mark.parametrize("bound", ["127.0.0.1", "192.168.1.7", "::1", "2001:db8::7"])
def test_a_node_bound_to_one_address_says_that_one(bound: str) -> None:
    assert host_candidates(bound, 4737) == [Candidate(bound, 4737, CandidateKind.HOST)]


def test_a_node_bound_to_ipv4_says_its_ipv4_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_interface_addresses", lambda: interfaces(*ALL))
    assert [one.host for one in host_candidates("0.0.0.0", 1)] == ["192.168.1.7", "172.17.0.1"]


def test_a_node_bound_to_both_families_says_the_interfaces_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_interface_addresses", lambda: interfaces(*ALL))
    assert [one.host for one in host_candidates("::", 1)] == ["192.168.1.7", "172.17.0.1", "2001:db8::7"]


def test_a_machine_with_nothing_else_says_its_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_interface_addresses", lambda: interfaces("127.0.0.1", "::1", "fe80::1"))
    assert [one.host for one in host_candidates("0.0.0.0", 1)] == ["127.0.0.1"]
    assert [one.host for one in host_candidates("::", 1)] == ["127.0.0.1", "::1"]


def test_the_systems_interfaces_are_read_in_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = types.SimpleNamespace(
        ips=[types.SimpleNamespace(ip="192.0.2.9"), types.SimpleNamespace(ip=("2001:db8::9", 0, 2))]
    )
    monkeypatch.setattr("ifaddr.get_adapters", lambda: [adapter])
    assert [one.host for one in host_candidates("::", 1)] == ["192.0.2.9", "2001:db8::9"]


def test_this_machine_has_an_address_to_say() -> None:
    assert host_candidates("0.0.0.0", 4737)
