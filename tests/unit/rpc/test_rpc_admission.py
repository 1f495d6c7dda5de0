"""Who may make a call when as many as allowed are under way."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.rpc.admission import Admission

KIB = 1024


class Door:
    """An admission, who has entered it in which order, and who waits."""

    def __init__(self, calls: int = 3, size: int = 100 * KIB) -> None:
        self.admission = Admission(calls, size)
        self.entered: list[str] = []
        self.waiting: list[asyncio.Task[None]] = []

    def fill(self, calls: int, size: int = 0) -> None:
        for _ in range(calls):
            assert self.admission.enter_nowait(size)

    def wait(self, lane: str, size: int = 0) -> asyncio.Task[None]:
        async def enter() -> None:
            await self.admission.wait_entered(lane, size)
            self.entered.append(lane)

        task = asyncio.ensure_future(enter())
        self.waiting.append(task)
        return task

    async def leave(self, calls: int = 1, size: int = 0) -> None:
        for _ in range(calls):
            self.admission.leave(size)
        await settled()

    async def close(self) -> None:
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)


async def settled() -> None:
    """Return when all that could go on has."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_there_is_room_up_to_the_number_and_each_end_makes_some() -> None:
    door = Door(3)
    door.fill(3)
    assert not door.admission.enter_nowait(0)
    await door.leave()
    assert door.admission.enter_nowait(0)
    assert not door.admission.enter_nowait(0)


async def test_the_size_is_exceeded_by_one_call_at_most() -> None:
    door = Door(100, 10 * KIB)
    door.fill(1, 9 * KIB)
    door.fill(1, 64 * KIB)
    assert not door.admission.enter_nowait(0)
    await door.leave(1, 9 * KIB)
    assert not door.admission.enter_nowait(0)
    await door.leave(1, 64 * KIB)
    assert door.admission.enter_nowait(0)


async def test_each_end_lets_one_in_and_wakes_no_others() -> None:
    door = Door(3)
    door.fill(3)
    for _ in range(10):
        door.wait("a")
    await settled()
    for number in range(1, 6):
        await door.leave()
        assert len(door.entered) == number
    await door.close()


async def test_a_lane_with_one_call_does_not_stand_behind_the_thousand_of_another() -> None:
    door = Door(1)
    door.fill(1)
    for _ in range(1000):
        door.wait("many")
    await settled()
    door.wait("few")
    await settled()
    await door.leave()
    await door.leave()
    assert door.entered == ["many", "few"]
    await door.close()


async def test_within_a_lane_who_came_first_is_first() -> None:
    door = Door(1)
    door.fill(1)
    order: list[int] = []

    async def enter(number: int) -> None:
        await door.admission.wait_entered("a", 0)
        order.append(number)

    tasks = [asyncio.ensure_future(enter(number)) for number in range(10)]
    await settled()
    await door.leave(10)
    await asyncio.gather(*tasks)
    assert order == list(range(10))


async def test_who_gives_up_takes_no_place_and_holds_up_nobody() -> None:
    door = Door(1)
    door.fill(1)
    gone, next_one = door.wait("a"), door.wait("a")
    await settled()
    gone.cancel()
    await settled()
    await door.leave()
    assert next_one.done()
    assert not door.admission.enter_nowait(0)
    await door.leave()
    assert door.admission.enter_nowait(0)


async def test_who_gives_up_when_let_in_passes_the_place_on() -> None:
    door = Door(1)
    door.fill(1)
    let_in, next_one = door.wait("a"), door.wait("b")
    await settled()
    door.admission.leave(0)
    let_in.cancel()  # before it could notice
    await settled()
    assert let_in.cancelled()
    assert next_one.done()
    await door.leave()
    assert door.admission.enter_nowait(0)


ACTIONS = st.lists(
    st.tuples(st.just("enter"), st.sampled_from("abc"), st.integers(0, 40 * KIB))
    | st.tuples(st.sampled_from(["leave", "cancel"]), st.just(""), st.integers(0, 30)),
    max_size=60,
)


@given(ACTIONS)
def test_in_any_order_of_events_the_bounds_hold_and_no_place_is_lost(actions: list[tuple[str, str, int]]) -> None:
    asyncio.run(scenario(actions))


async def scenario(actions: list[tuple[str, str, int]], calls: int = 4, size: int = 100 * KIB) -> None:
    admission = Admission(calls, size)
    inside: list[int] = []
    waiting: list[asyncio.Task[None]] = []

    async def enter(lane: str, amount: int) -> None:
        if not admission.enter_nowait(amount):
            await admission.wait_entered(lane, amount)
        inside.append(amount)

    for what, lane, number in actions:
        match what:
            case "enter":
                waiting.append(asyncio.ensure_future(enter(lane, number)))
            case "leave" if inside:
                admission.leave(inside.pop(number % len(inside)))
            case "cancel" if waiting:
                waiting[number % len(waiting)].cancel()
        if number % 2:
            await settled()
        assert len(inside) <= calls
        assert sum(inside) < size + 40 * KIB
    await settled()
    while inside:
        admission.leave(inside.pop())
        await settled()
    assert all(task.done() for task in waiting)
    for _ in range(calls):
        assert admission.enter_nowait(0)
    assert not admission.enter_nowait(0)


@pytest.mark.parametrize("lanes", [1, 2, 10])
async def test_lanes_take_turns(lanes: int) -> None:
    door = Door(1)
    door.fill(1)
    for lane in range(lanes):
        for _ in range(5):
            door.wait(str(lane))
    await settled()
    for _ in range(5 * lanes):
        await door.leave()
    for turn in range(5):
        assert Counter(door.entered[turn * lanes : (turn + 1) * lanes]) == Counter(map(str, range(lanes)))
