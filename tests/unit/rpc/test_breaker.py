"""A breaker opens after failures in a row, lets one probe go after each pause, and closes at the first success."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lattica.rpc.breaker import JITTER, PAUSE_MAX_S, PAUSE_MIN_S, PROBE_TIMEOUT_S, TRIP_AFTER, Breaker, BreakerState


def opened(now: float = 0.0) -> tuple[Breaker, float]:
    breaker = Breaker(random.Random(1))
    for _ in range(TRIP_AFTER):
        breaker.failed(now)
    assert breaker.retry_at is not None
    return breaker, breaker.retry_at


def test_one_failure_does_not_open_it() -> None:
    breaker = Breaker(random.Random(1))
    breaker.failed(0.0)
    assert breaker.try_call(0.0)
    breaker.succeeded()
    breaker.failed(1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED


def test_failures_in_a_row_open_it_for_a_pause() -> None:
    breaker, retry_at = opened()
    assert PAUSE_MIN_S * (1 - JITTER) <= retry_at <= PAUSE_MIN_S
    assert breaker.state(0.0) is BreakerState.OPEN
    assert not breaker.try_call(retry_at - 0.001)


def test_one_probe_goes_after_the_pause() -> None:
    breaker, retry_at = opened()
    assert breaker.state(retry_at) is BreakerState.HALF_OPEN
    assert breaker.try_call(retry_at)
    assert not breaker.try_call(retry_at)


def test_a_probe_that_is_given_up_makes_way_for_another() -> None:
    breaker, retry_at = opened()
    assert breaker.try_call(retry_at)
    breaker.abandoned()
    assert breaker.try_call(retry_at)


def test_a_probe_of_which_nobody_hears_makes_way_for_another() -> None:
    breaker, retry_at = opened()
    assert breaker.try_call(retry_at)
    assert not breaker.try_call(retry_at + PROBE_TIMEOUT_S - 0.001)
    assert breaker.try_call(retry_at + PROBE_TIMEOUT_S)


def test_a_success_closes_it_and_forgets() -> None:
    breaker, retry_at = opened()
    breaker.failed(retry_at)
    breaker.succeeded()
    assert breaker.state(retry_at) is BreakerState.CLOSED
    for _ in range(TRIP_AFTER):
        breaker.failed(100.0)
    assert breaker.retry_at is not None
    assert breaker.retry_at <= 100.0 + PAUSE_MIN_S


def test_failures_during_a_pause_count_as_one() -> None:
    breaker, retry_at = opened()
    for _ in range(100):  # calls that were under way when it opened
        breaker.failed(0.01)
    assert breaker.retry_at == retry_at


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_pauses_grow_to_a_bound(seed: int, probes: int) -> None:
    breaker, pauses, now = Breaker(random.Random(seed)), [], 0.0
    for _ in range(TRIP_AFTER):
        breaker.failed(now)
    for _ in range(probes):
        assert breaker.retry_at is not None
        pauses.append(breaker.retry_at - now)
        now = breaker.retry_at
        assert breaker.try_call(now)
        breaker.failed(now)
    for step, pause in enumerate(pauses):
        longest = min(PAUSE_MIN_S * 2.0**step, PAUSE_MAX_S)
        assert longest * (1 - JITTER) - 1e-6 <= pause <= longest + 1e-6
