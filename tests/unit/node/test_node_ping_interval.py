"""What a control client may ask for between two pings."""

import math

import pytest

from lattica.node.control import MAX_PING_INTERVAL_S, _ping_interval


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(0.0, 0.0), (0.1, 0.1), (-1.0, 0.0), (math.nan, 0.0), (math.inf, MAX_PING_INTERVAL_S), (1e9, MAX_PING_INTERVAL_S)],
)
def test_a_pause_is_bounded_whatever_is_asked_for(asked: float, pause: float) -> None:
    assert _ping_interval(asked) == pause
