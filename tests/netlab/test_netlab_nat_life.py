"""What becomes of mappings in time, and what unsolicited traffic gets."""

import ipaddress
import socket
import time
from contextlib import ExitStack

import pytest

from netlab import Filtering, Lab, LabError, Nat, Unsolicited
from netlab.probes import (
    SILENCE,
    TIMEOUT,
    Attempt,
    Endpoint,
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

UDP_TIMEOUT = 6  # seconds; mappings that are to stay must not end while the machine pauses
ETH_P_IP = 0x0800


@pytest.mark.slow
def test_idle_udp_mappings_end_and_busy_ones_stay(lab: Lab) -> None:
    server = lab.host("server")
    routers = {nat: lab.router(f"r{number}", nat=nat, udp_timeout=UDP_TIMEOUT) for number, nat in enumerate(Nat)}
    hosts = {nat: lab.host(f"h{number}", upstream=routers[nat]) for number, nat in enumerate(Nat)}
    with ExitStack() as stack:
        receiver = stack.enter_context(udp(server))
        idle = {nat: stack.enter_context(udp(host)) for nat, host in hosts.items()}
        busy = {nat: stack.enter_context(udp(host)) for nat, host in hosts.items()}
        idle_at, busy_at = talk(receiver, idle), talk(receiver, busy)
        # Conntrack has a second timeout for flows that have gone both ways for two seconds.
        end_of_idle_ones_talk = time.monotonic() + 2.5
        while time.monotonic() < end_of_idle_ones_talk:
            assert (talk(receiver, idle), talk(receiver, busy)) == (idle_at, busy_at)
            time.sleep(0.2)
        end_of_idleness = time.monotonic() + UDP_TIMEOUT + 0.5
        while time.monotonic() < end_of_idleness:
            assert talk(receiver, busy) == busy_at
            time.sleep(0.2)
        for nat in Nat:
            receiver.sendto(b"late", idle_at[nat])
            receiver.sendto(b"in time", busy_at[nat])
            assert busy[nat].recv(100) == b"in time"
        assert [nat for nat in Nat if not nothing_waits(idle[nat])] == []


def talk(server: socket.socket, clients: dict[Nat, socket.socket]) -> dict[Nat, Endpoint]:
    """A datagram to the server and one back, for each client; returns the external endpoints."""
    external = {nat: mapped(client, server) for nat, client in clients.items()}
    for nat, client in clients.items():
        server.sendto(b"answer", external[nat])
        assert client.recv(100) == b"answer"
    return external


@pytest.mark.parametrize("nat", Nat)
def test_a_rebooted_nat_has_forgotten_its_mappings(lab: Lab, nat: Nat) -> None:
    server, home = lab.host("server"), lab.router("home", nat=nat)
    alice = lab.host("alice", upstream=home)
    with udp(server) as receiver, udp(alice) as client, udp(alice) as other:
        external = mapped(client, receiver)
        receiver.sendto(b"before", external)
        assert client.recv(100) == b"before"
        home.reboot()
        receiver.sendto(b"to nobody", external)
        receiver.sendto(b"after", mapped(other, receiver))
        assert other.recv(100) == b"after"
        assert nothing_waits(client)


def test_a_connection_through_a_rebooted_nat_is_dead(lab: Lab) -> None:
    server, home = lab.host("server"), lab.router("home", nat=Nat.EIM_APDF)
    alice = lab.host("alice", upstream=home)
    with listen(server) as listener:
        with connection(client := tcp(alice), listener) as (accepted, _):
            client.sendall(b"before")
            assert accepted.recv(100) == b"before"
            home.reboot()
            client.sendall(b"after")
            accepted.sendall(b"after")
            for side in (client, accepted):
                side.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    side.recv(100)
        with connection(tcp(alice), listener) as (_, source):
            assert source[0] == str(alice.public_address)


def test_no_private_address_gets_out_after_a_reboot(lab: Lab) -> None:
    """A connection that has lost its mapping goes on sending; the NAT must not pass that on as it is."""
    server, home = lab.host("server"), lab.router("home", nat=Nat.EIM_APDF)
    alice = lab.host("alice", upstream=home)
    with server.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as tap:
        tap.settimeout(TIMEOUT)
        with listen(server) as listener, connection(client := tcp(alice), listener), udp(alice) as end:
            home.reboot()
            client.sendall(b"after")
            end.sendto(b"end", local(listener))
            sources = set()
            while not (packet := tap.recv(2000)).endswith(b"end"):
                sources.add(str(ipaddress.IPv4Address(packet[12:16])))
    assert sources == {str(alice.public_address)}


def test_a_nat_with_a_new_address_maps_to_that_one(lab: Lab) -> None:
    server, home = lab.host("server"), lab.router("home", nat=Nat.EIM_EIF)
    alice = lab.host("alice", upstream=home)
    with udp(server) as receiver, udp(alice) as client:
        old = mapped(client, receiver)
        home.change_address()
        new = mapped(client, receiver)
        assert old[0] != new[0] == str(alice.public_address)
        receiver.sendto(b"old", old)
        receiver.sendto(b"new", new)
        assert not arrives(client, b"old", b"new")


@pytest.mark.parametrize("public", [True, False], ids=["public", "in a LAN"])
def test_a_host_with_a_new_address_has_lost_the_old_one(lab: Lab, public: bool) -> None:
    server, home = lab.host("server"), lab.router("home", nat=Nat.EIM_EIF)
    alice = lab.host("alice", upstream=None if public else home)
    old = alice.ipv4
    with udp(alice) as client, udp(server) as receiver:
        source = mapped(client, receiver)
        alice.change_address()
        assert alice.ipv4 != old
        receiver.sendto(b"old", source)
        with udp(alice) as moved:
            external = mapped(moved, receiver)
            assert external[0] == str(alice.public_address)
            receiver.sendto(b"new", external)
            assert moved.recv(100) == b"new"
        assert nothing_waits(client)


@pytest.mark.parametrize(
    ("unsolicited", "answer"), [(Unsolicited.DROP, Attempt.SILENCE), (Unsolicited.RESET, Attempt.REFUSED)]
)
@pytest.mark.parametrize("nat", Nat)
def test_unsolicited_tcp_gets_the_chosen_answer(lab: Lab, nat: Nat, unsolicited: Unsolicited, answer: Attempt) -> None:
    """Both where the port is mapped but the filter says no, and where nothing is mapped."""
    one, two = lab.host("one"), lab.host("two")
    alice = lab.host("alice", upstream=lab.router("home", nat=nat, unsolicited=unsolicited))
    with listen(one) as server, connection(client := tcp(alice), server) as (accepted, external):
        if nat.filtering is not Filtering.EIF:
            assert attempt(two, external) is answer
        assert attempt(two, (external[0], 9)) is answer
        accepted.sendall(b"undisturbed")
        assert client.recv(100) == b"undisturbed"


def test_a_mapping_must_last_a_second_at_least(lab: Lab) -> None:
    with pytest.raises(LabError, match="one second"):
        lab.router("home", nat=Nat.EIM_APDF, udp_timeout=0)


def test_a_router_without_nat_keeps_its_address(lab: Lab) -> None:
    with pytest.raises(LabError, match="no NAT"):
        lab.router("plain").change_address()
