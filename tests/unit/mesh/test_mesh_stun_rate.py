"""How much the UDP responder sends to whom."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lattica.mesh.stun_udp import RateLimit


def a_limit(*, limit: int = 10) -> RateLimit:
    return RateLimit(rate=1.0, burst=3.0, total_rate=4.0, total_burst=6.0, limit=limit)


def test_a_burst_passes_and_then_one_each_second() -> None:
    limit = a_limit()
    assert [limit.take("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take("a", at) for at in (0.5, 1.0, 1.5, 2.0)] == [False, True, False, True]


def test_one_that_is_refused_does_not_wait_longer_for_it() -> None:
    limit = a_limit()
    for _ in range(100):
        limit.take("a", 0.0)
    assert limit.take("a", 1.0)


def test_others_are_not_affected_until_the_total_is_used_up() -> None:
    limit = a_limit()
    assert all(limit.take(name, 0.0) for name in "aaabbb")
    assert not limit.take("c", 0.0)
    assert limit.take("c", 0.25)


def test_refused_strangers_are_not_remembered() -> None:
    limit = a_limit()
    for number in range(1000):
        limit.take(f"host {number}", 0.0)
    assert len(limit) == 6


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 2)), max_size=200))
def test_no_order_of_senders_gets_more_than_the_total(steps: Sequence[tuple[str, float]]) -> None:
    limit, now, passed = a_limit(limit=4), 0.0, 0
    for name, pause in steps:
        now += pause
        passed += limit.take(name, now)
        assert passed <= 6.0 + 4.0 * now + 1e-6
        assert len(limit) <= 4
