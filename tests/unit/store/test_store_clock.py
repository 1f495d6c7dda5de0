"""The hybrid clock: near the time of day, later than what was heard, and not led far into the future by others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import EntryRefusedError
from lattica.store.clock import MAX_LEAD_S, MAX_SKEW_S, MAX_TIME, HybridClock, check_time, to_hybrid, to_seconds

NOW = 1_700_000_000.0
seconds = st.floats(0, 4e9)
events = st.lists(st.one_of(st.tuples(st.just("tick"), seconds), st.tuples(st.just("observe"), seconds)), max_size=50)


@given(events)
def test_each_time_is_later_than_all_given_before_and_than_what_was_heard(history: list[tuple[str, float]]) -> None:
    """Of what was heard, that which is not further ahead of our clock than it may lead."""
    clock = HybridClock()
    given, heard = -1, -1
    for what, when in history:
        if what == "tick":
            time = clock.tick(when)
            assert time > max(given, min(heard, to_hybrid(when + MAX_LEAD_S)))
            given = time
        else:
            heard = max(heard, to_hybrid(when))
            clock.observe(to_hybrid(when))


@given(st.lists(st.floats(0, MAX_SKEW_S), min_size=1, max_size=20), st.lists(st.floats(0, 10), max_size=20))
def test_whoever_is_ahead_leads_our_times_by_half_the_skew_at_most(leads: list[float], pauses: list[float]) -> None:
    """So that those take them whose clocks are behind ours by the other half."""
    clock, now = HybridClock(), NOW
    for lead, pause in zip(leads, pauses, strict=False):
        clock.observe(to_hybrid(now + lead))
        now += pause

        check_time(clock.tick(now), now - (MAX_SKEW_S - MAX_LEAD_S) + 0.001)


def test_a_clock_that_is_set_back_goes_on_by_single_steps() -> None:
    clock = HybridClock()
    first = clock.tick(NOW)

    assert [clock.tick(NOW - 3600) for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_a_clock_that_nobody_leads_shows_the_time_of_day() -> None:
    clock = HybridClock()
    clock.tick(NOW)

    assert to_seconds(clock.tick(NOW + 10)) == pytest.approx(NOW + 10, abs=0.001)


def test_more_writes_in_a_millisecond_than_the_counter_holds_run_ahead_by_a_millisecond() -> None:
    clock = HybridClock()
    first = clock.tick(NOW)
    for _ in range(1 << 16):
        last = clock.tick(NOW)

    assert to_seconds(last) - to_seconds(first) == pytest.approx(0.001, rel=0.01)


@given(seconds)
def test_a_time_of_day_survives_to_the_millisecond(when: float) -> None:
    assert to_seconds(to_hybrid(when)) == pytest.approx(when, abs=0.0011)


@pytest.mark.parametrize("ahead", [-1e9, 0, MAX_SKEW_S - 1, MAX_SKEW_S])
def test_past_times_and_small_skews_are_taken(ahead: float) -> None:
    check_time(to_hybrid(NOW + ahead), NOW)


@pytest.mark.parametrize("time", [to_hybrid(NOW + MAX_SKEW_S + 1), to_hybrid(NOW + 1e6), MAX_TIME])
def test_times_too_far_ahead_are_refused(time: int) -> None:
    with pytest.raises(EntryRefusedError, match="ahead of ours; at most 60 s"):
        check_time(time, NOW)
