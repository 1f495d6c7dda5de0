"""When there is processor time to spare."""

from __future__ import annotations

import sys

import pytest

from lattica.rpc.spare import WINDOW_S, SpareTime, processor_times


class Machine:
    """A thread and two processors, of which it is said how busy they are."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ran = 5.0
        self.times: tuple[int, int] | None = (10_000, 100_000)
        self.looks = 0
        self.spare = SpareTime(lambda: self.ran, self._look)

    def _look(self) -> tuple[int, int] | None:
        self.looks += 1
        return self.times

    def passes(self, *, thread_busy: float, machine_idle: float) -> None:
        """A window goes by."""
        self.now += WINDOW_S
        self.ran += WINDOW_S * thread_busy
        if self.times is not None:
            self.times = (self.times[0] + int(1000 * machine_idle), self.times[1] + 1000)

    def has_some(self) -> bool:
        return self.spare.is_there(self.now)


def test_nothing_is_known_at_first() -> None:
    assert not Machine().has_some()


@pytest.mark.parametrize(
    ("thread_busy", "machine_idle", "expected"),
    [(0.5, 0.5, True), (0.8, 0.9, False), (0.5, 0.01, False), (1.0, 0.0, False), (0.0, 1.0, True)],
)
def test_both_the_thread_and_the_processors_have_to_be_idle(
    thread_busy: float, machine_idle: float, expected: bool
) -> None:
    machine = Machine()
    machine.has_some()
    machine.passes(thread_busy=thread_busy, machine_idle=machine_idle)
    assert machine.has_some() is expected


def test_it_changes_with_the_load() -> None:
    machine = Machine()
    machine.has_some()
    for is_idle in (True, False, True):
        machine.passes(thread_busy=0.5, machine_idle=0.5 if is_idle else 0.0)
        assert machine.has_some() is is_idle


def test_it_looks_once_in_a_window() -> None:
    machine = Machine()
    for _ in range(100):
        machine.has_some()
    assert machine.looks == 1


def test_there_is_none_where_nobody_says_how_idle_the_processors_are() -> None:
    machine = Machine()
    machine.times = None
    for _ in range(3):
        machine.passes(thread_busy=0.0, machine_idle=1.0)
        assert not machine.has_some()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc; run it there")
def test_this_machine_says_how_idle_its_processors_are() -> None:
    times = processor_times()
    assert times is not None
    idle, total = times
    assert 0 <= idle <= total
