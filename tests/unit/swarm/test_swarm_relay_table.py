"""A relay's books: who may have what, and that everything given is given back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import ConfigError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm.connection import MAX_CIRCUITS
from lattica.swarm.relay_server import reachable
from lattica.swarm.relay_table import Circuit, RelayLimits, RelayTable
from lattica.swarm.relay_wire import CircuitLimit, RelayStatus

PEERS = [IdentityKey.from_seed(bytes([number]) * 32).peer_id for number in range(12)]
ALICE, BOB, CAROL, DAVE = PEERS[:4]
OK, REFUSED = RelayStatus.OK, RelayStatus.RESERVATION_REFUSED


def reserved(limits: RelayLimits | None = None, *peers: PeerId) -> RelayTable:
    table = RelayTable(limits or RelayLimits())
    for number, peer in enumerate(peers):
        assert table.reserve(peer, f"192.0.2.{number}", 0.0) is OK
    return table


def opened(table: RelayTable, client: PeerId, target: PeerId, now: float = 1.0) -> Circuit:
    circuit = table.open(client, target, now)
    assert isinstance(circuit, Circuit), circuit
    return circuit


def test_the_defaults_allow_what_the_issue_asks_for() -> None:
    limits = RelayLimits()
    assert limits.circuits_per_target >= 256
    assert limits.circuits >= 256
    assert limits.announced == CircuitLimit(duration=limits.circuit_duration, data=limits.circuit_data)
    assert limits.circuit_duration > 0
    assert limits.circuit_data > 0


@pytest.mark.parametrize("field", ["circuits_per_target", "circuits_per_client"])
def test_limits_that_no_connection_can_keep_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=str(MAX_CIRCUITS)):
        RelayLimits(**{field: MAX_CIRCUITS + 1})


def test_a_reservation_holds_for_its_time_and_is_renewed() -> None:
    table = reserved(RelayLimits(reservation_ttl=100.0), ALICE)
    opened(table, BOB, ALICE, 99.9)
    assert table.reserve(ALICE, "192.0.2.0", 99.9) is OK
    opened(table, BOB, ALICE, 199.8)
    assert table.open(BOB, ALICE, 200.0) is RelayStatus.NO_RESERVATION
    assert table.counters.reservations == 0


def test_a_full_relay_refuses_new_peers_and_renews_old_ones() -> None:
    table = reserved(RelayLimits(reservations=2, reservation_ttl=10.0), ALICE, BOB)
    assert table.reserve(CAROL, "192.0.2.9", 1.0) is REFUSED
    assert table.reserve(ALICE, "192.0.2.0", 1.0) is OK
    assert table.reserve(CAROL, "192.0.2.9", 10.5) is OK, "Bob's time is over"
    assert table.counters.refused_total == {"reservation_refused": 1}


@pytest.mark.parametrize(
    ("hosts", "together"),
    [
        (("192.0.2.1", "192.0.2.1"), True),
        (("192.0.2.1", "192.0.2.2"), False),
        (("2001:db8::1", "2001:db8:0:0:ffff::2"), True),
        (("2001:db8:0:1::1", "2001:db8:0:2::1"), False),
    ],
)
def test_peers_of_one_place_share_its_reservations(hosts: tuple[str, str], together: bool) -> None:
    table = RelayTable(RelayLimits(reservations_per_ip=1))
    assert table.reserve(ALICE, hosts[0], 0.0) is OK
    assert table.reserve(ALICE, hosts[0], 1.0) is OK, "a renewal takes no second place"
    assert table.reserve(BOB, hosts[1], 1.0) is (REFUSED if together else OK)
    table.forget(ALICE)
    assert table.reserve(BOB, hosts[1], 2.0) is OK


def test_a_peer_that_moves_takes_its_place_along() -> None:
    table = RelayTable(RelayLimits(reservations_per_ip=1))
    assert table.reserve(ALICE, "192.0.2.1", 0.0) is OK
    assert table.reserve(ALICE, "192.0.2.2", 1.0) is OK
    assert table.reserve(BOB, "192.0.2.1", 2.0) is OK
    assert table.reserve(CAROL, "192.0.2.2", 2.0) is REFUSED


@pytest.mark.parametrize(
    "limits",
    [RelayLimits(circuits=2), RelayLimits(circuits_per_client=2), RelayLimits(circuits_per_target=2)],
)
def test_circuits_are_limited_and_given_back(limits: RelayLimits) -> None:
    table = reserved(limits, ALICE)
    circuits = [opened(table, BOB, ALICE) for _ in range(2)]
    assert table.open(BOB, ALICE, 1.0) is RelayStatus.RESOURCE_LIMIT_EXCEEDED
    table.close(circuits[0])
    assert table.counters.circuits == 1
    opened(table, BOB, ALICE)


def test_limits_of_one_client_or_target_are_nobody_elses() -> None:
    table = reserved(RelayLimits(circuits_per_client=1, circuits_per_target=2), ALICE, BOB)
    opened(table, CAROL, ALICE)
    assert table.open(CAROL, BOB, 1.0) is RelayStatus.RESOURCE_LIMIT_EXCEEDED
    opened(table, DAVE, ALICE)
    assert table.open(BOB, ALICE, 1.0) is RelayStatus.RESOURCE_LIMIT_EXCEEDED
    opened(table, ALICE, BOB)


def test_nobody_gets_a_circuit_to_itself() -> None:
    assert reserved(None, ALICE).open(ALICE, ALICE, 1.0) is RelayStatus.PERMISSION_DENIED


def test_a_circuit_outlives_the_reservation_that_it_came_by() -> None:
    table = reserved(None, ALICE)
    circuit = opened(table, BOB, ALICE)
    table.forget(ALICE)
    assert table.open(CAROL, ALICE, 1.0) is RelayStatus.NO_RESERVATION
    assert table.counters.circuits == 1
    table.close(circuit)


def test_two_circuits_of_the_same_peers_are_two() -> None:
    table = reserved(None, ALICE)
    one, other = opened(table, BOB, ALICE), opened(table, BOB, ALICE)
    assert one != other
    table.close(one)
    table.close(other)
    assert table.counters.circuits == 0


def test_a_snapshot_does_not_change() -> None:
    table = reserved(None, ALICE)
    before = table.counters.snapshot()
    table.refuse(RelayStatus.NO_RESERVATION)
    opened(table, BOB, ALICE)
    assert (before.circuits, before.refused_total) == (0, {})


@given(st.integers(0, 1 << 32))
def test_books_balance_after_any_history(seed: int) -> None:
    choose = random.Random(seed)
    limits = RelayLimits(
        reservations=4, reservations_per_ip=2, reservation_ttl=20.0, circuits=6, circuits_per_client=3,
        circuits_per_target=4,
    )  # fmt: skip
    table, running, now = RelayTable(limits), [], 0.0
    for _ in range(100):
        now += choose.random()
        peer, other = choose.choice(PEERS), choose.choice(PEERS)
        match choose.randrange(4):
            case 0:
                table.reserve(peer, f"192.0.2.{choose.randrange(3)}", now)
            case 1:
                table.forget(peer)
            case 2:
                circuit = table.open(peer, other, now)
                if isinstance(circuit, Circuit):
                    running.append(circuit)
            case _ if running:
                table.close(running.pop(choose.randrange(len(running))))
        assert table.counters.circuits == len(running) <= limits.circuits
        assert table.counters.reservations <= limits.reservations
        assert all(count <= limits.reservations_per_ip for count in table._places.values())
        assert all(count <= limits.circuits_per_client for count in table._clients.values())
        assert all(count <= limits.circuits_per_target for count in table._targets.values())
    for circuit in running:
        table.close(circuit)
    table.expire(now + 100)
    assert not any([table._places, table._clients, table._targets, table._reservations, table._circuits])


def test_addresses_that_nobody_can_dial_are_not_handed_out() -> None:
    public, private, name, other = (
        PeerAddress.parse(text)
        for text in (
            "/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.2/tcp/1", "/dns4/x.example.com/tcp/1", "/ip4/8.8.8.8/udp/1/quic-v1",
        )
    )  # fmt: skip
    assert reachable([private, public, name, other]) == [public, name]
    assert reachable([private, other]) == [private], "a relay on a LAN"
    assert reachable([]) == []
