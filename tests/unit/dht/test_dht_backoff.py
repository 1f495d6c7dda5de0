from __future__ import annotations

from lattica.dht.backoff import Backoff
from lattica.dht.limits import BACKOFF_BASE, BACKOFF_FACTOR, BACKOFF_MAX, MAX_TRACKED_FAILURES
from lattica.identity import PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


ALICE = peer(1)


def test_a_peer_that_never_failed_is_neither_suspect_nor_paused() -> None:
    backoff = Backoff()
    assert not backoff.is_suspect(ALICE)
    assert not backoff.is_paused(ALICE, 0.0)


def test_each_failure_makes_the_pause_longer_up_to_the_maximum() -> None:
    backoff, now, pauses = Backoff(), 0.0, []
    for failures in range(1, 9):
        assert backoff.failed(ALICE, now) == failures
        started = now
        while backoff.is_paused(ALICE, now):
            now += 1.0
        pauses.append(now - started)
    assert pauses[:3] == [BACKOFF_BASE, BACKOFF_BASE * BACKOFF_FACTOR, BACKOFF_BASE * BACKOFF_FACTOR**2]
    assert pauses[-1] == BACKOFF_MAX


def test_failures_during_one_pause_count_once() -> None:
    backoff = Backoff()
    assert [backoff.failed(ALICE, now) for now in (0.0, 1.0, BACKOFF_BASE - 1)] == [1, 1, 1]
    assert not backoff.is_paused(ALICE, BACKOFF_BASE)
    assert backoff.failed(ALICE, BACKOFF_BASE) == 2


def test_a_pause_that_ended_leaves_the_peer_suspect_until_it_answers() -> None:
    backoff = Backoff()
    backoff.failed(ALICE, 0.0)
    assert backoff.is_suspect(ALICE)
    assert backoff.succeeded(ALICE, 1000.0)
    assert not backoff.is_suspect(ALICE)
    assert backoff.failed(ALICE, 1000.0) == 1


def test_a_peer_that_broke_the_protocol_is_paused_longest_at_once() -> None:
    backoff = Backoff()
    backoff.misbehaved(ALICE, 0.0)
    assert not backoff.succeeded(ALICE, BACKOFF_MAX - 1), "whatever it does"
    assert backoff.is_paused(ALICE, BACKOFF_MAX - 1)
    assert not backoff.is_paused(ALICE, BACKOFF_MAX)
    assert backoff.succeeded(ALICE, BACKOFF_MAX)
    assert not backoff.is_suspect(ALICE)


def test_only_so_many_failures_are_remembered() -> None:
    backoff = Backoff()
    for number in range(MAX_TRACKED_FAILURES + 10):
        backoff.failed(peer(number), 0.0)
    assert not backoff.is_suspect(peer(9))
    assert backoff.is_suspect(peer(10))
