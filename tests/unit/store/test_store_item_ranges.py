"""Items by ranges of clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.store.item_ranges import ItemRanges
from lattica.store.yupdate import ItemId

clocks = st.sets(st.integers(0, 30))


@given(clocks, st.integers(0, 30), st.integers(0, 30))
def test_parts_are_what_single_items_say(chosen: set[int], first: int, length: int) -> None:
    ranges = ItemRanges((7, clock, clock + 1) for clock in chosen)
    found = list(ranges.parts(7, first, first + length))
    told = [(clock, is_among) for start, end, is_among in found for clock in range(start, end)]
    assert told == [(clock, clock in chosen) for clock in range(first, first + length)]
    assert [ItemId(7, clock) in ranges for clock in range(32)] == [clock in chosen for clock in range(32)]


def test_what_is_among_longer_ones() -> None:
    ranges = ItemRanges([(7, 10, 20), (7, 30, 31), (3, 0, 100)])
    assert list(ranges.parts(7, 5, 40)) == [
        (5, 10, False),
        (10, 20, True),
        (20, 30, False),
        (30, 31, True),
        (31, 40, False),
    ]
    assert list(ranges.parts(7, 12, 15)) == [(12, 15, True)]
    assert list(ranges.parts(8, 1, 2)) == [(1, 2, False)]
    assert ItemId(3, 99) in ranges
    assert ItemId(3, 100) not in ranges
    assert ItemId(4, 0) not in ranges
