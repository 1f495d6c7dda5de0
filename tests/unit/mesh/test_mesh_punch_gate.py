"""A peer that asks for a thousand punches gets a few."""

from __future__ import annotations

from lattica.identity import IdentityKey, PeerId
from lattica.mesh.punch_gate import (
    MAX_PER_MINUTE,
    MAX_PER_PEER_AND_MINUTE,
    MAX_PUNCHES,
    MAX_PUNCHES_PER_PEER,
    PunchGate,
)


def a_peer(number: int) -> PeerId:
    return IdentityKey.from_seed(number.to_bytes(32, "big")).peer_id


MALLORY, ALICE = a_peer(0), a_peer(1)


def test_a_thousand_at_once_are_two() -> None:
    gate = PunchGate()
    assert sum(gate.enter(MALLORY, 0.0) is None for _ in range(1000)) == MAX_PUNCHES_PER_PEER
    assert gate.enter(ALICE, 0.0) is None


def test_a_thousand_in_a_minute_are_twelve() -> None:
    gate, admitted = PunchGate(), 0
    for number in range(1000):
        if gate.enter(MALLORY, number * 0.06) is None:
            admitted += 1
            gate.leave(MALLORY)
    assert admitted == MAX_PER_PEER_AND_MINUTE
    assert gate.enter(ALICE, 59.9) is None
    assert gate.enter(MALLORY, 60.1) is None


def test_many_peers_together_have_a_limit_at_one_time() -> None:
    gate = PunchGate()
    peers = [a_peer(number) for number in range(MAX_PUNCHES + 10)]
    assert sum(gate.enter(peer, 0.0) is None for peer in peers) == MAX_PUNCHES
    gate.leave(peers[0])
    assert gate.enter(peers[-1], 0.0) is None


def test_and_in_a_minute() -> None:
    gate, admitted = PunchGate(), 0
    for number in range(MAX_PER_MINUTE + 50):
        peer = a_peer(number)
        if gate.enter(peer, 1.0) is None:
            admitted += 1
            gate.leave(peer)
    assert admitted == MAX_PER_MINUTE
    assert "too many" in str(gate.enter(ALICE, 60.9))
    assert gate.enter(ALICE, 61.1) is None


def test_a_refusal_says_why_to_the_peer() -> None:
    gate = PunchGate()
    for _ in range(MAX_PUNCHES_PER_PEER):
        gate.enter(MALLORY, 0.0)
    assert gate.enter(MALLORY, 0.0) == "2 punches with you are running"
