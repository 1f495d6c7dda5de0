"""What a server remembers of a caller's calls, and what it may forget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.rpc.batch_wire import MAX_SMALL, RAISED, Failure
from lattica.rpc.call_memory import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, CallMemory, Entry

MIB = 1 << 20
RUNNING: Any = object()
"""Stands for a task; what it does is not looked at."""


class Caller:
    """A memory, and calls that begin and end in it."""

    def __init__(self) -> None:
        self.memory = CallMemory()

    def begin(self, number: int, *, once: bool = True) -> Entry:
        entry = Entry(number, None, once, task=RUNNING)
        self.memory.entries[number] = entry
        return entry

    def end(self, entry: Entry, size: int = 1, *, keep: bool = False) -> None:
        self.memory.answered(entry, b"answer", size, keep=keep)

    def ended(self, number: int, size: int = 1, *, once: bool = True, keep: bool = False) -> Entry:
        entry = self.begin(number, once=once)
        self.end(entry, size, keep=keep)
        return entry

    @property
    def kept_bytes(self) -> int:
        return sum(entry.size for entry in self.memory.entries.values())


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_call_that_must_not_run_twice_is_remembered_until_its_answer_has_come(caller: Caller) -> None:
    entry = caller.ended(7)
    assert caller.memory.entries == {7: entry}
    assert entry.answer == b"answer"
    assert entry.task is None
    caller.memory.acknowledged([7])
    assert caller.memory.entries == {}


def test_one_that_may_run_twice_is_forgotten_when_it_has_ended(caller: Caller) -> None:
    caller.ended(7, once=False)
    assert caller.memory.entries == {}


def test_a_result_that_has_to_be_fetched_is_kept_whatever_the_call_is(caller: Caller) -> None:
    entry = caller.ended(7, once=False, keep=True)
    assert caller.memory.entries == {7: entry}
    assert entry.answer == b"answer"


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_nothing_is_kept_for_a_caller_that_gave_the_call_up(caller: Caller, once: bool, keep: bool) -> None:
    entry = caller.begin(7, once=once)
    entry.cancelled = True
    caller.end(entry, MIB, keep=keep)
    assert caller.memory.entries == {}
    assert entry.answer is None


def test_a_failure_is_an_answer_like_another(caller: Caller) -> None:
    entry, failure = caller.begin(7), Failure(7, RAISED, "ValueError", "no")
    caller.memory.answered(entry, failure, 256, keep=False)
    assert caller.memory.entries[7].answer is failure


def test_an_acknowledgement_of_a_call_that_runs_is_no_reason_to_run_it_again(caller: Caller) -> None:
    entry = caller.begin(7)
    caller.memory.acknowledged([7, 8])
    assert caller.memory.entries == {7: entry}
    caller.end(entry)
    assert entry.answer == b"answer"


def test_acknowledging_twice_does_nothing(caller: Caller) -> None:
    caller.ended(7)
    caller.ended(8)
    caller.memory.acknowledged([7, 7])
    caller.memory.acknowledged([7])
    assert set(caller.memory.entries) == {8}


def test_the_oldest_results_are_forgotten_first_but_not_that_their_calls_ran(caller: Caller) -> None:
    entries = [caller.ended(number, MAX_REMEMBERED_BYTES // 4) for number in range(6)]
    assert [entry.answer is None for entry in entries] == [True, True, False, False, False, False]
    assert set(caller.memory.entries) == set(range(6))
    assert caller.kept_bytes == MAX_REMEMBERED_BYTES


def test_a_result_larger_than_all_that_may_be_kept_is_kept_alone(caller: Caller) -> None:
    before = caller.ended(0, MIB)
    large = caller.ended(1, 2 * MAX_REMEMBERED_BYTES)
    assert (before.answer, large.answer) == (None, b"answer")
    after = caller.ended(2, MIB)
    assert (large.answer, after.answer) == (None, b"answer")
    assert caller.kept_bytes == MIB


def test_acknowledged_results_make_room_for_others(caller: Caller) -> None:
    for number in range(50):
        entry = caller.ended(number, MAX_REMEMBERED_BYTES // 2)
        assert entry.answer == b"answer"
        caller.memory.acknowledged([number])
    first, second = caller.ended(100, MAX_REMEMBERED_BYTES // 2), caller.ended(101, MAX_REMEMBERED_BYTES // 2)
    assert (first.answer, second.answer) == (b"answer", b"answer")


def test_who_acknowledges_nothing_may_not_begin_ever_more_calls(caller: Caller) -> None:
    for number in range(MAX_REMEMBERED):
        assert not caller.memory.is_full
        caller.ended(number)
    assert caller.memory.is_full
    caller.memory.acknowledged([3])
    assert not caller.memory.is_full


def test_what_was_acknowledged_leaves_nothing_behind(caller: Caller) -> None:
    still = caller.ended(0)
    for number in range(1, 10_000):
        caller.ended(number)
        caller.memory.acknowledged([number])
    assert caller.memory.entries == {0: still}
    assert len(caller.memory._small.entries) + len(caller.memory._large.entries) < 100


@pytest.fixture
async def tasks() -> AsyncIterator[list[asyncio.Task[Any]]]:
    made = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(2)]
    yield made
    for task in made:
        task.cancel()
    await asyncio.wait(made)


async def test_running_calls_are_those_with_a_task(caller: Caller, tasks: list[asyncio.Task[Any]]) -> None:
    for number, task in enumerate(tasks):
        caller.begin(number).task = task
    caller.ended(5)
    running = caller.memory.running()
    assert [entry.task for entry in running] == tasks
    caller.end(running[0])
    assert [entry.id for entry in caller.memory.running()] == [1]


# Any order of events

SIZES = st.sampled_from([0, 1, MIB, MAX_REMEMBERED_BYTES // 3, MAX_REMEMBERED_BYTES - 1, MAX_REMEMBERED_BYTES + 1])
begin = st.tuples(st.just("begin"), st.booleans())
end = st.tuples(st.just("end"), st.integers(0, 30), SIZES, st.booleans())
cancel = st.tuples(st.just("cancel"), st.integers(0, 30))
acknowledge = st.tuples(st.just("acknowledge"), st.lists(st.integers(0, 30), max_size=5))


@settings(max_examples=300)
@given(st.lists(begin | end | cancel | acknowledge, max_size=80))
def test_no_call_is_forgotten_too_soon_and_no_more_is_kept_than_allowed(events: list[tuple[Any, ...]]) -> None:
    """The entries are exactly the calls that run or that must be known again; their results are within the limit."""
    caller, begun = Caller(), 0
    running: dict[int, Entry] = {}
    ended: dict[int, Entry] = {}
    for event in events:
        match event:
            case ("begin", once):
                running[begun] = caller.begin(begun, once=once)
                begun += 1
            case ("end", number, size, keep) if number in running:
                entry = running.pop(number)
                caller.end(entry, size, keep=keep)
                if (entry.once or keep) and not entry.cancelled:
                    ended[number] = entry
                    assert entry.answer == b"answer", "the newest result is there"
            case ("cancel", number) if number in running:
                running[number].cancelled = True
            case ("acknowledge", numbers):
                caller.memory.acknowledged(numbers)
                for number in numbers:
                    ended.pop(number, None)
        assert caller.memory.entries == running | ended
        kept = [entry for entry in ended.values() if entry.answer is not None]
        for sort, own in ((caller.memory._small, False), (caller.memory._large, True)):
            sizes = [entry.size for entry in kept if (entry.size > MAX_SMALL) is own]
            assert sum(sizes) <= MAX_REMEMBERED_BYTES or len(sizes) == 1
            assert sort.bytes == sum(sizes)
