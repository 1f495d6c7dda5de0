"""When something is due, whatever becomes of the clocks."""

from __future__ import annotations

from lattica.store.due import Due


class WallClock:
    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        return self.time


async def test_it_is_past_at_first() -> None:
    assert Due(WallClock()).left() <= 0


async def test_it_is_that_many_seconds_ahead_at_most() -> None:
    due = Due(WallClock())
    due.set(60)

    assert 0 < due.left() <= 60


async def test_a_computer_that_slept_does_it_at_once() -> None:
    clock = WallClock()
    due = Due(clock)
    due.set(60)
    clock.time += 3600

    assert due.left() <= 0


async def test_a_clock_set_back_does_not_put_it_off() -> None:
    clock = WallClock()
    due = Due(clock)
    due.set(60)
    clock.time -= 3600

    assert due.left() <= 60
