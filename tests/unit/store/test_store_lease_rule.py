"""When a lease counts: a function of the record, its author's latest entry, and the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_documents import key_of

from lattica.errors import StoreUsageError
from lattica.store.clock import MAX_SKEW_S, HybridClock, to_hybrid, to_seconds
from lattica.store.lease import MAX_TTL_S, MIN_TTL_S, Held, check_ttl, lease_record, leases_at, read_lease
from lattica.store.values import Storable, Value, decode_value, encode_value

NOW = 1_700_000_000.0
ALICE, BOB = key_of(0).peer_id, key_of(1).peer_id

times = st.floats(NOW - 2 * MAX_TTL_S, NOW + 2 * MAX_TTL_S)
ttls = st.floats(MIN_TTL_S, MAX_TTL_S)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["until", "value"]), inner),
    max_leaves=8,
)


def kept(record: Storable) -> Value:
    """As it comes back from a document."""
    return decode_value(encode_value(record, "record"))


def test_a_lease_counts_until_it_ends() -> None:
    held = read_lease(kept(lease_record("x", NOW + 30)))

    assert held == Held(round((NOW + 30) * 1000), "x")
    assert held.counts(NOW, NOW)
    assert held.counts(NOW + 29.999, NOW)
    assert not held.counts(NOW + 30, NOW)


def test_a_lease_longer_than_allowed_never_counts() -> None:
    longest = Held(round((NOW + MAX_TTL_S + MAX_SKEW_S) * 1000), 1)

    assert longest.counts(NOW, NOW)
    assert not longest._replace(until=longest.until + 1).counts(NOW, NOW)


def test_a_lease_of_the_future_does_not_begin_to_count_later() -> None:
    held = Held(round((NOW + 10 * MAX_TTL_S) * 1000), 1)

    assert not held.counts(NOW + 10 * MAX_TTL_S - 1, NOW)


@given(ttls, st.floats(0, MAX_SKEW_S), st.floats(0, MAX_TTL_S))
def test_a_ghost_vanishes_after_its_duration_and_the_skew(ttl: float, skew: float, later: float) -> None:
    """Whatever the author's clock says, an entry is taken in only if that is less than the skew ahead of ours."""
    arrived, entry_time = NOW, NOW + skew
    held = read_lease(kept(lease_record(1, entry_time + ttl)))

    assert held is not None
    assert held.counts(arrived + ttl - 0.001, entry_time)
    assert not held.counts(arrived + ttl + MAX_SKEW_S + 0.001 + later, entry_time)


@given(st.integers(-(2**63), 2**63 - 1), st.floats(0, MAX_SKEW_S), st.floats(0, MAX_TTL_S))
def test_even_a_liar_vanishes_after_the_longest_duration_and_twice_the_skew(
    until: int, skew: float, later: float
) -> None:
    assert not Held(until, 1).counts(NOW + MAX_TTL_S + 2 * MAX_SKEW_S + 0.001 + later, NOW + skew)


@given(st.dictionaries(st.sampled_from([str(ALICE), str(BOB), "", "12D3Koo", "\0"]), values), times, times)
def test_whatever_is_in_the_map_is_ignored_or_a_lease(records: dict[str, Value], now: float, written: float) -> None:
    found = leases_at(records.items(), now, lambda _: written)

    assert found.keys() <= {ALICE, BOB}
    assert all(now < held.until / 1000 for held in found.values())


def test_who_may_not_write_any_more_has_no_lease() -> None:
    lease_of_9: Value = {"until": round(NOW + 9) * 1000, "value": 1}
    records = [(str(peer), lease_of_9) for peer in (ALICE, BOB)]

    found = leases_at(records, NOW, lambda peer: NOW if peer == ALICE else None)

    assert found == {ALICE: Held(round(NOW + 9) * 1000, 1)}


@pytest.mark.parametrize("record", [None, 1, [], {}, {"until": True, "value": 1}, {"until": 1.5, "value": 1}])
def test_a_malformed_record_is_no_lease(record: Value) -> None:
    assert read_lease(record) is None


@pytest.mark.parametrize("ttl", [MIN_TTL_S, 30, MAX_TTL_S])
def test_durations_in_range_are_taken(ttl: float) -> None:
    check_ttl(ttl)


@pytest.mark.parametrize("ttl", [-1, 0, 0.999, 86_400.1, float("inf"), float("nan")])
def test_durations_out_of_range_are_refused(ttl: float) -> None:
    with pytest.raises(StoreUsageError, match="from 1 to 86400 seconds"):
        check_ttl(ttl)


@given(st.lists(st.tuples(st.booleans(), times)), times)
def test_an_entry_is_never_earlier_than_what_a_peek_told(history: list[tuple[bool, float]], now: float) -> None:
    clock = HybridClock()
    for is_own, time in history:
        if is_own:
            clock.tick(time)
        else:
            clock.observe(to_hybrid(time))

    peeked = clock.peek(now)

    assert to_seconds(clock.tick(now)) > peeked - 0.001


def test_a_clock_set_back_does_not_bring_ghosts_back() -> None:
    clock = HybridClock(to_hybrid(NOW))

    assert clock.day_time(0.0) == NOW - MAX_SKEW_S
    assert clock.day_time(NOW - 1) == NOW - 1
