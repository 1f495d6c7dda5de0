"""Which of a peer's addresses are dialled, and in which order."""

from __future__ import annotations

from lattica.identity import IdentityKey, PeerAddress
from lattica.swarm.dialing import MAX_CIRCUIT_RACE, MAX_RACE, dialable

US, PEER, RELAY = (IdentityKey.from_seed(seed * 32).peer_id for seed in (b"u", b"p", b"r"))
TCP = PeerAddress.tcp("192.0.2.1", 4001)
CIRCUIT = PeerAddress.circuit(PeerAddress.tcp("192.0.2.9", 4001, RELAY))


def test_addresses_are_dialled_in_the_order_in_which_they_are_given() -> None:
    assert dialable(US, PEER, [CIRCUIT, TCP], direct=False) == [CIRCUIT, TCP]
    assert dialable(US, PEER, [TCP, CIRCUIT], direct=False) == [TCP, CIRCUIT]


def test_a_direct_dial_leaves_circuits_out() -> None:
    assert dialable(US, PEER, [CIRCUIT, TCP], direct=True) == [TCP]


def test_addresses_of_others_and_circuits_through_the_ends_are_left_out() -> None:
    through_us, through_peer = (PeerAddress.circuit(TCP.with_peer(end)) for end in (US, PEER))
    elsewhere = [TCP.with_peer(RELAY), CIRCUIT.with_peer(RELAY), through_us, through_peer]
    assert dialable(US, PEER, [*elsewhere, PeerAddress.parse("/ip4/192.0.2.1/udp/1/quic-v1")], direct=False) == []
    assert dialable(US, PEER, [CIRCUIT.with_peer(PEER)], direct=False) == [CIRCUIT.with_peer(PEER)]


def test_many_tcp_addresses_leave_room_for_circuits() -> None:
    many = [PeerAddress.tcp("192.0.2.1", port) for port in range(1, 100)]
    relays = [PeerAddress.circuit(PeerAddress.tcp("192.0.2.9", port, RELAY)) for port in range(1, 100)]
    found = dialable(US, PEER, many + relays, direct=False)
    assert found == many[: MAX_RACE - MAX_CIRCUIT_RACE] + relays[:MAX_CIRCUIT_RACE]
    assert dialable(US, PEER, many, direct=False) == many[:MAX_RACE]


def test_an_address_is_dialled_once() -> None:
    assert dialable(US, PEER, [TCP, TCP, CIRCUIT, CIRCUIT], direct=False) == [TCP, CIRCUIT]
