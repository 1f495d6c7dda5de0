"""Things are handed over at their deadlines, each once, by a few timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.dht.testing import in_virtual_time, run_in_virtual_time
from lattica.rpc import deadlines as module
from lattica.rpc.deadlines import TICK_S, Deadlines

LATEST_S = 2 * TICK_S
ROUNDING_S = 1e-9
FAR_S = 10.0**9


class Watched(Deadlines[str]):
    """Notes when what was handed over."""

    def __init__(self) -> None:
        super().__init__(self._note)
        self.loop = asyncio.get_running_loop()
        self.seen: list[tuple[float, str]] = []
        self.timers = 0
        self.then: Callable[[str], None] = lambda thing: None

    def _note(self, things: list[str]) -> None:
        self.timers += 1
        for thing in things:
            self.seen.append((self.loop.time(), thing))
            self.then(thing)

    def names(self) -> list[str]:
        return [thing for _, thing in self.seen]


@contextmanager
def loop_clock() -> Iterator[None]:
    """The module's clock is that of the running loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()))
        yield


@pytest.fixture(autouse=True)
def _virtual_clock() -> Iterator[None]:
    with loop_clock():
        yield


added = st.lists(st.tuples(st.floats(-1, 5), st.floats(0, 5)), max_size=40)
"""Pairs of when a thing is added, and how long it has from then; what should have been before is added at the start."""


@given(added, st.sets(st.integers(0, 39)))
def test_each_is_handed_over_once_not_before_its_deadline_and_not_much_later(
    times: list[tuple[float, float]], forgotten: set[int]
) -> None:
    async def scenario() -> None:
        watched, expected = Watched(), {}
        for number, (start, left) in sorted(enumerate(times), key=lambda each: each[1]):
            await asyncio.sleep(start - watched.loop.time())
            deadline = start + left
            watched.add(deadline, str(number))
            if number in forgotten:
                watched.discard(deadline, str(number))
            else:
                expected[str(number)] = max(deadline, watched.loop.time())
        await asyncio.sleep(20)
        assert sorted(watched.names()) == sorted(expected)
        for at, thing in watched.seen:
            assert -ROUNDING_S <= at - expected[thing] <= LATEST_S + ROUNDING_S
        assert len(watched) == 0

    run_in_virtual_time(scenario())


@in_virtual_time
async def test_things_of_one_tick_share_a_timer() -> None:
    watched = Watched()
    for number in range(1000):
        watched.add(1.0 + number * TICK_S / 1000, str(number))
    await asyncio.sleep(2)
    assert len(watched.seen) == 1000
    assert watched.timers <= 2


@in_virtual_time
async def test_a_sooner_deadline_is_not_held_up_by_a_later_one_before_it() -> None:
    watched = Watched()
    watched.add(100.0, "late")
    watched.add(1.0, "soon")
    await asyncio.sleep(1 + LATEST_S)
    assert watched.names() == ["soon"]
    await asyncio.sleep(100)
    assert watched.names() == ["soon", "late"]


@in_virtual_time
async def test_what_is_added_while_others_are_handed_over_holds_up_none() -> None:
    watched = Watched()
    watched.then = lambda thing: watched.add(50.0, "added") if thing == "first" else None
    watched.add(1.0, "first")
    watched.add(2.0, "second")
    await asyncio.sleep(2 + LATEST_S)
    assert watched.names() == ["first", "second"]
    await asyncio.sleep(60)
    assert watched.names() == ["first", "second", "added"]


@in_virtual_time
async def test_what_has_ended_is_not_kept_until_its_deadline() -> None:
    watched = Watched()
    watched.add(1.0, "kept")
    for number in range(1000):
        watched.add(FAR_S + number, str(number))
        watched.discard(FAR_S + number, str(number))
    assert len(watched) == 1
    await asyncio.sleep(2)
    assert watched.names() == ["kept"]


@in_virtual_time
async def test_forgetting_twice_or_after_the_deadline_does_nothing() -> None:
    watched = Watched()
    watched.add(1.0, "a")
    watched.add(1.0, "b")
    for _ in range(2):
        watched.discard(1.0, "a")
    watched.discard(7.0, "never added")
    await asyncio.sleep(2)
    watched.discard(1.0, "b")
    assert watched.names() == ["b"]


@in_virtual_time
async def test_a_deadline_that_has_passed_is_noticed_at_once() -> None:
    watched = Watched()
    await asyncio.sleep(10)
    watched.add(3.0, "late")
    await asyncio.sleep(0.001)
    assert watched.names() == ["late"]


@in_virtual_time
async def test_after_closing_nothing_is_handed_over() -> None:
    watched = Watched()
    watched.add(1.0, "a")
    watched.add(5.0, "b")
    watched.close()
    await asyncio.sleep(10)
    assert watched.seen == []
    watched.close()
    assert len(watched) == 0


@in_virtual_time
async def test_closing_while_things_are_handed_over_ends_it() -> None:
    watched = Watched()
    watched.then = lambda _: watched.close()
    watched.add(1.0, "a")
    watched.add(5.0, "b")
    await asyncio.sleep(10)
    assert watched.names() == ["a"]
