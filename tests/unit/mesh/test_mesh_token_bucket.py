"""The budget: never more than the rate and one burst, never less for who asks in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.mesh.token_bucket import TokenBucket

rates = st.floats(min_value=0.1, max_value=1e10)
bursts = st.floats(min_value=1, max_value=1e9)
pauses = st.lists(st.floats(min_value=0, max_value=100), max_size=30)


def test_it_is_full_at_first_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(100, 50, now=1000.0)
    assert bucket.available(1000.0) == 50
    bucket.spend(50)
    assert bucket.available(1000.0) == 0
    assert bucket.ready_at(20, 1000.0) == pytest.approx(1000.2)
    assert bucket.available(1000.1) == 10
    assert bucket.available(2000.0) == 50


def test_a_debt_is_paid_off_first() -> None:
    bucket = TokenBucket(100, 50, now=0.0)
    bucket.spend(150)
    assert bucket.available(0.9) == 0
    assert bucket.ready_at(10, 0.9) == pytest.approx(1.1)
    assert bucket.available(1.5) == 50


def test_who_wants_more_than_it_holds_gets_a_full_one() -> None:
    bucket = TokenBucket(100, 50, now=0.0)
    bucket.spend(50)
    assert bucket.ready_at(10_000, 0.0) == pytest.approx(0.5)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(100, 50, now=10.0)
    bucket.spend(50)
    assert bucket.available(10.0) == bucket.available(5.0) == 0
    assert bucket.available(10.5) == 50


@pytest.mark.parametrize(("rate", "burst"), [(0, 10), (-1, 10), (10, 0), (float("nan"), 10)])
def test_a_budget_of_nothing_is_a_mistake(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, burst, 0.0)


@given(rates, bursts, pauses)
def test_a_greedy_holder_gets_the_rate_and_one_burst_at_most(rate: float, burst: float, waits: list[float]) -> None:
    bucket, now, spent = TokenBucket(rate, burst, 0.0), 0.0, 0
    for wait in waits:
        now += wait
        available = bucket.available(now)
        bucket.spend(available)
        spent += available
        assert spent <= burst + rate * now + 1e-6 * (burst + rate * now)


@given(rates, bursts, st.integers(min_value=0, max_value=10**9), st.integers(min_value=1, max_value=10**9))
def test_at_the_time_it_names_there_is_enough(rate: float, burst: float, spent: int, wanted: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    bucket.spend(spent)
    ready = bucket.ready_at(wanted, 0.0)
    assert bucket.available(ready + 1e-3 + 1 / rate) >= min(wanted, int(burst)) - 1
