"""Public networks, address families, and that nothing leads out of a lab."""

import errno
import ipaddress
import itertools
import json
import os
import select
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from netlab import Host, Lab, LabError, Nat, Shape, open_lab
from netlab.addressing import FIRST_OCTETS, SUBSCRIBERS, PublicPlan
from netlab.commands import command
from netlab.probes import Attempt, attempt, listen, local, mapped, udp

pytestmark = pytest.mark.netns

NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH}


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_public_networks_reach_each_other(lab: Lab, ipv6: bool) -> None:
    far = [lab.network("asia"), lab.network("africa", link=Shape(delay=0.01))]
    hosts = [lab.host("home", ipv6=True), *(lab.host(f"in-{net.name}", upstream=net, ipv6=True) for net in far)]
    for one, two in itertools.permutations(hosts, 2):
        with udp(one, ipv6=ipv6) as client, udp(two, ipv6=ipv6) as server:
            assert mapped(client, server) == local(client)


def test_the_first_packet_of_a_new_machine_arrives(lab: Lab) -> None:
    """The kernel has devices that are up and drop everything, until its worker has seen the other half."""
    with udp(lab.host("server")) as server:
        for number in range(8):
            with udp(lab.host(f"alice-{number}", nat=Nat.EIM_APDF)) as client:
                mapped(client, server)


def test_a_home_can_be_on_any_network(lab: Lab) -> None:
    asia = lab.network("asia")
    alice, server = lab.host("alice", nat=Nat.EIM_APDF, upstream=asia), lab.host("server")
    with udp(alice) as client, udp(server) as receiver:
        assert mapped(client, receiver)[0] == str(alice.public_address)
    assert alice.public_address not in ipaddress.ip_network("11.0.0.0/8")


def test_hosts_have_the_families_they_were_given(lab: Lab) -> None:
    four, six = lab.host("four"), lab.host("six", ipv4=False, ipv6=True)
    both = lab.host("both", nat=Nat.EIM_APDF, ipv6=True)
    assert [address.version for host in (four, six, both) for address in host.addresses] == [4, 6, 4, 6]
    with pytest.raises(LabError, match="ipv6=True"):
        _ = four.ipv6
    with pytest.raises(LabError, match="ipv4=True"):
        _ = six.public_address
    with pytest.raises(LabError, match="ipv6=True"):
        lab.host("none", upstream=both.router).ipv6  # noqa: B018
    with pytest.raises(LabError, match="no IPv4 to translate"):
        lab.router("odd", nat=Nat.EIM_APDF, ipv4=False, ipv6=True)
    with pytest.raises(LabError, match="make it with ipv6=True"):
        lab.host("late", upstream=lab.router("old", nat=Nat.EIM_APDF), ipv6=True)


def test_machines_in_a_lan_reach_each_other_directly(lab: Lab) -> None:
    home = lab.router("home", nat=Nat.APDM_APDF_RANDOM, ipv6=True)
    alice, bob = (lab.host(name, upstream=home, ipv6=True) for name in ("alice", "bob"))
    for ipv6 in (False, True):
        with udp(alice, ipv6=ipv6) as client, udp(bob, ipv6=ipv6) as server:
            assert mapped(client, server) == local(client)


def test_every_public_address_is_global_and_used_once() -> None:
    leases = [PublicPlan(number).lease() for number in range(len(FIRST_OCTETS))]
    one_network = PublicPlan(0)
    leases += [one_network.lease() for _ in range(SUBSCRIBERS)][1:]
    for lease in leases:
        assert lease.ipv4
        assert lease.ipv6
        assert lease.inside4
        assert lease.inside6
        assert lease.ipv4.ip.is_global
        assert lease.ipv6.ip.is_global
        assert lease.inside4[1].is_global
        assert lease.inside6[1].is_global
        assert not lease.ipv6.network.overlaps(lease.inside6)
        assert not lease.ipv4.network.overlaps(lease.inside4)
    assert len({lease.ipv4 for lease in leases}) == len({lease.ipv6 for lease in leases}) == len(leases)
    with pytest.raises(LabError, match="subscribers"):
        one_network.lease()


def own_addresses() -> list[str]:
    links = json.loads(command(["ip", "-json", "address", "show"]))
    entries = itertools.chain(*(link["addr_info"] for link in links))
    return [entry["local"] for entry in entries if entry["scope"] == "global"]


def gateways() -> list[str]:
    routes = [json.loads(command(["ip", "-json", family, "route", "show", "default"])) for family in ("-4", "-6")]
    return [route["gateway"] for route in itertools.chain(*routes) if "gateway" in route]


@pytest.mark.slow
def test_nothing_in_a_lab_reaches_the_machine_or_its_network(lab: Lab) -> None:
    """Neither the machine's own addresses, nor its routers', nor anybody on the real Internet."""
    hosts = [lab.host("public", ipv6=True), lab.host("home", nat=Nat.EIM_EIF, ipv6=True)]
    with ExitStack() as stack:
        listeners = []
        for address in own_addresses():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind((address, 0))
            listener.listen()
            listeners.append(listener)
        targets = [local(listener) for listener in listeners]
        targets += [(address, 53) for address in [*gateways(), "1.1.1.1", "2606:4700:4700::1111"]]
        attempts = {(host.name, target): dialled(stack, host, target) for host in hosts for target in targets}
        outcomes = {attempt: outcome(client) for attempt, client in attempts.items()}
    assert outcomes
    assert {attempt: error for attempt, error in outcomes.items() if error not in NO_WAY} == {}


def dialled(stack: ExitStack, host: Host, target: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    client = stack.enter_context(host.socket(socket.SOCK_STREAM, family))
    client.setblocking(False)
    client.connect_ex(target)
    return client


def outcome(client: socket.socket) -> int:
    """The error of a connection attempt, or 0 if it is still open or has come about."""
    select.select([], [client], [], 5.0)
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_every_device_of_a_lab_ends_inside_it(lab: Lab) -> None:
    """Veth pairs, bridges and TAP devices only, and each pair's two halves are in the lab's own namespaces."""
    lab.host("alice", nat=Nat.EIM_APDF, cgnat=Nat.EIM_EIF, link=Shape(delay=0.001))
    lab.host("bob", upstream=lab.network("asia"))
    own = [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(f"netlab.{os.getpid()}.")]
    ends: list[tuple[str, str]] = []
    for netns in own:
        for link in json.loads(command(["ip", "-n", netns, "-json", "-details", "link", "show"])):
            kind = link.get("linkinfo", {}).get("info_kind", link["link_type"])
            assert kind in {"veth", "bridge", "tun", "loopback"}
            if kind == "veth":
                ends.append((link["address"], peer_address(netns, link)))
    assert len(ends) == 2 * 2 * 5  # five links, of two pairs each
    assert {end for end, _ in ends} == {peer for _, peer in ends}


def peer_address(netns: str, link: dict[str, object]) -> str:
    """The Ethernet address of the other half, found in the namespace that the kernel says it is in."""
    peers = json.loads(command(["ip", "-n", netns, "-json", "netns", "list-id"]))
    (where,) = [peer["name"] for peer in peers if peer["nsid"] == link["link_netnsid"]]
    links = json.loads(command(["ip", "-n", where, "-json", "link", "show"]))
    (address,) = [other["address"] for other in links if other["ifindex"] == link["link_index"]]
    return str(address)


def test_two_labs_do_not_meet() -> None:
    with open_lab() as one, open_lab() as two:
        here, there = one.host("server"), two.host("server")
        client = two.host("client")
        assert here.ipv4 == there.ipv4
        with listen(here, 4001) as listener:
            assert attempt(client, local(listener)) is Attempt.REFUSED
            assert attempt(one.host("client"), local(listener)) is Attempt.CONNECTED
