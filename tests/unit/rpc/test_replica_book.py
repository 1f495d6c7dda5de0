"""Which records hold: leases by our clock, whatever the clocks of others say, and bounds for what others make up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_records import NAME, WALL, peer, record

from lattica.rpc.replicas.book import Admission, RecordBook
from lattica.rpc.replicas.limits import (
    MAX_GOODBYES,
    MAX_HEARSAY,
    MAX_HEARSAY_PER_SOURCE,
    MAX_REPLICAS,
    MAX_SKEW_S,
)
from lattica.rpc.replicas.record import ServiceRecord

GOSSIP = peer(99)


@pytest.fixture
def book() -> RecordBook:
    return RecordBook(NAME, peer(0))


def hear(
    book: RecordBook, one: ServiceRecord, *, source: int = 99, remaining: float = 30.0, now: float = 0.0,
    wall: float | None = None,
) -> Admission:  # fmt: skip
    wall = WALL + now if wall is None else wall
    return book.admit_hearsay(one, peer(source), remaining=remaining, now=now, wall=wall)


def holds(book: RecordBook, number: int, now: float) -> bool:
    book.expire(now)
    return book.get(peer(number)) is not None


def test_a_lease_ends_when_it_was_not_renewed(book: RecordBook) -> None:
    assert book.admit_own(record(1, lease=30), 5.0) is Admission.NEW
    assert holds(book, 1, 34.9)
    assert not holds(book, 1, 35.0)


def test_a_lease_is_renewed_by_a_newer_record(book: RecordBook) -> None:
    book.admit_own(record(1, sequence=1), 0.0)
    assert book.admit_own(record(1, sequence=2), 20.0) is Admission.RENEWED
    assert holds(book, 1, 49.9)
    assert not holds(book, 1, 50.0)


@given(skew=st.floats(-1e9, 1e9), lease=st.floats(0.001, 120))
def test_a_replica_s_own_word_counts_whatever_its_clock(skew: float, lease: float) -> None:
    book = RecordBook(NAME, peer(0))
    assert book.admit_own(record(1, issued_at=max(0.0, WALL + skew), lease=lease), 0.0) is Admission.NEW
    assert holds(book, 1, lease * 0.99 - 0.002) or lease < 0.01
    assert not holds(book, 1, lease + 0.001)


@given(skew=st.floats(-MAX_SKEW_S, MAX_SKEW_S), delays=st.lists(st.floats(0, 12), min_size=1, max_size=6))
def test_a_lease_shrinks_on_its_way_through_honest_peers(skew: float, delays: list[float]) -> None:
    """However many pass it on, and whatever the clock of the replica: it ends when it should."""
    now, first = 0.0, RecordBook(NAME, peer(0))
    signed = record(1, issued_at=WALL + skew, lease=30)
    first.admit_own(signed, now)
    entry = first.get(peer(1))
    for delay in delays:
        now += delay
        assert entry is not None
        if entry.expires_at <= now:
            return
        further = RecordBook(NAME, peer(0))
        hear(further, signed, remaining=entry.expires_at - now, now=now)
        entry = further.get(peer(1))
        assert entry is None or entry.expires_at <= 30.0 + 1e-6


def test_a_liar_cannot_keep_up_a_dead_replica(book: RecordBook) -> None:
    """Whoever passes an old record on for ever, as if it were new, gains `MAX_SKEW_S`."""
    old, last = record(1, lease=30), 0.0
    for now in range(0, 600, 5):
        hear(book, old, remaining=1e9, now=float(now))
        if holds(book, 1, float(now)):
            last = now
    assert 30 <= last <= 30 + MAX_SKEW_S


def test_a_record_from_the_future_is_refused(book: RecordBook) -> None:
    assert hear(book, record(1, issued_at=WALL + MAX_SKEW_S + 1)) is Admission.FUTURE
    assert hear(book, record(1, issued_at=WALL + MAX_SKEW_S - 1)) is Admission.NEW


def test_an_expired_record_is_refused(book: RecordBook) -> None:
    assert hear(book, record(1, issued_at=WALL - 30 - MAX_SKEW_S)) is Admission.EXPIRED
    assert hear(book, record(1), remaining=0.0) is Admission.EXPIRED
    assert hear(book, record(1, lease=0)) is Admission.EXPIRED
    assert not len(book)


def test_a_replayed_record_changes_nothing(book: RecordBook) -> None:
    book.admit_own(record(1, sequence=2, capacity=8), 0.0)
    assert hear(book, record(1, sequence=1)) is Admission.OLD
    assert hear(book, record(1, instance=0, sequence=9, issued_at=WALL - 60)) is Admission.OLD
    assert book.admit_own(record(1, sequence=1), 0.0) is Admission.OLD
    entry = book.get(peer(1))
    assert entry is not None
    assert entry.record == record(1, sequence=2, capacity=8)


def test_a_replica_that_restarts_with_a_clock_set_back_is_taken_by_its_own_word(book: RecordBook) -> None:
    book.admit_own(record(1, instance=1, sequence=500), 0.0)
    restarted = record(1, instance=2, sequence=1, issued_at=WALL - 3600)
    assert hear(book, restarted) is Admission.EXPIRED
    assert book.admit_own(restarted, 1.0) is Admission.RENEWED


def test_hearsay_does_not_stretch_what_the_replica_said_itself(book: RecordBook) -> None:
    book.admit_own(record(1), 0.0)
    assert hear(book, record(1), now=29.0) is Admission.KNOWN
    assert not holds(book, 1, 30.0)


def test_a_newer_record_renews_a_lease_by_way_of_others(book: RecordBook) -> None:
    book.admit_own(record(1), 0.0)
    assert hear(book, record(1, sequence=2, issued_at=WALL + 20), now=20.0) is Admission.RENEWED
    entry = book.get(peer(1))
    assert entry is not None
    assert entry.is_confirmed
    assert entry.expires_at == 50.0


def test_a_goodbye_ends_a_lease_at_once_and_for_good(book: RecordBook) -> None:
    book.admit_own(record(1, sequence=1), 0.0)
    assert book.admit_own(record(1, sequence=2, lease=0), 1.0) is Admission.GONE
    assert not holds(book, 1, 1.0)
    assert hear(book, record(1, sequence=1), now=2.0) is Admission.OLD
    assert book.admit_own(record(1, sequence=1), 2.0) is Admission.OLD
    assert hear(book, record(1, sequence=3, issued_at=WALL + 3), now=3.0) is Admission.NEW  # announced again


def test_goodbyes_of_strangers_are_bounded(book: RecordBook) -> None:
    for number in range(1, MAX_GOODBYES + 50):
        book.admit_own(record(number, lease=0), 0.0)
    assert len(book._goodbyes) == MAX_GOODBYES


def test_records_of_other_names_and_of_ourselves_are_refused(book: RecordBook) -> None:
    assert book.admit_own(record(1, name="other"), 0.0) is Admission.FOREIGN
    assert hear(book, record(1, name="other")) is Admission.FOREIGN
    assert hear(book, record(0)) is Admission.FOREIGN


def test_what_one_hostile_peer_makes_up_is_bounded(book: RecordBook) -> None:
    """Records of 10,000 identities, all well signed."""
    signed = [record(number) for number in range(1000, 1200)]
    verdicts = [hear(book, signed[number % len(signed)], now=number * 1e-6) for number in range(10_000)]
    assert verdicts.count(Admission.NEW) == len(book) == MAX_HEARSAY_PER_SOURCE


def test_what_many_hostile_peers_make_up_leaves_room_for_what_is_real(book: RecordBook) -> None:
    for number in range(1000, 1200):
        hear(book, record(number), source=number + 1000)
    assert len(book) == MAX_HEARSAY
    for number in range(1, MAX_REPLICAS + 1):
        assert book.admit_own(record(number), 0.0) is Admission.NEW
    assert book.admit_own(record(500), 0.0) is Admission.FULL
    assert all(entry.is_confirmed for entry in book)
    assert len(book) == MAX_REPLICAS
