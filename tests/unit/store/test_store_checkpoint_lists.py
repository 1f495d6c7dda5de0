"""Lists and texts under checkpoints: they are as large as what lives, and nobody's insertion is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, fold_all, key_of
from pycrdt import Array, Doc, Text

from lattica.store.entry import Entry, Lane
from lattica.store.namespace import Policy, create_genesis

AUTHORS = (1, 2, 3)


def replicas() -> list[SimReplica]:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    return [SimReplica(genesis, key_of(number)) for number in AUTHORS]


def log_of(replica: SimReplica) -> list[Any]:
    found: list[Any] = replica.state()["list:log"]
    return found


def notes_of(replica: SimReplica) -> str:
    found: str = replica.state()["text:notes"]
    return found


def insert(replica: SimReplica, at: int, *values: Any) -> Entry:
    def write(doc: Doc[Any]) -> None:
        doc.get("list:log", type=Array)[at:at] = list(values)

    entry = replica.change(write)
    assert entry is not None
    return entry


def delete(replica: SimReplica, at: int, count: int = 1) -> None:
    def write(doc: Doc[Any]) -> None:
        del doc.get("list:log", type=Array)[at : at + count]

    assert replica.change(write) is not None


def type_in(replica: SimReplica, at: int, text: str) -> None:
    def write(doc: Doc[Any]) -> None:
        doc.get("text:notes", type=Text).insert(len(notes_of(replica)[:at].encode()), text)

    assert replica.change(write) is not None


def erase(replica: SimReplica, at: int, end: int) -> None:
    def write(doc: Doc[Any]) -> None:
        before = notes_of(replica)
        del doc.get("text:notes", type=Text)[len(before[:at].encode()) : len(before[:end].encode())]

    assert replica.change(write) is not None


def settle_all(among: list[SimReplica]) -> None:
    """Let all hear all, and fold."""
    converge(among)
    fold_all(among)
    assert len({replica.digest for replica in among}) == 1
    assert all(replica.state() == among[0].state() for replica in among)


def checkpoint(owner: SimReplica, *others: SimReplica) -> None:
    """The owner and some others make a checkpoint; the rest does not hear of it."""
    converge([owner, *others])
    assert owner.compact()
    settle_all([owner, *others])


# How large


@pytest.mark.slow
@pytest.mark.parametrize("times", [20, 200])
def test_a_state_is_as_large_as_what_lives_of_lists_and_texts_that_several_write(times: int) -> None:
    owner, *others = among = replicas()
    for number in range(times):
        for author in among:
            insert(author, len(log_of(author)) // 2, number)
            type_in(author, len(notes_of(author)) // 2, "word ")
        converge(among)
    delete(owner, 5, 3 * times - 10)
    erase(owner, 20, len(notes_of(owner)) - 20)
    for number in range(3):
        insert(owner, 5, f"and {number}")
        type_in(owner, 10, "and ")
        checkpoint(owner, *others)
    assert len(log_of(owner)) == 13
    assert len(owner.state_raw) < 1500


# Who has not heard of checkpoints


@pytest.mark.parametrize("adopts", [False, True])
def test_what_is_put_between_elements_that_were_deleted_meanwhile_stays_where_it_was_put(adopts: bool) -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, "a", "b", "c", "d")
    converge(among)
    delete(third, 1, 2)
    owner.hear(third)
    if not adopts:
        writer.hear(third)
    insert(writer, 1, "x")
    insert(writer, len(log_of(writer)) - 1, "y")
    before = len(writer.stored)
    checkpoint(owner, third)
    owner.hear(writer)
    assert log_of(owner) == ["a", "x", "y", "d"]
    settle_all(among)
    assert log_of(owner) == ["a", "x", "y", "d"]
    assert len([entry for entry in writer.stored if entry.body.author == writer.replica.own]) <= before


def test_who_has_missed_one_checkpoint_may_put_something_between_what_was_deleted_long_before() -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, "a", "b", "c")
    converge(among)
    delete(owner, 0, 3)
    checkpoint(owner, third, writer)
    insert(writer, 0, "x")  # after or before deleted ones
    insert(writer, 1, "y")
    insert(third, 0, "z")
    checkpoint(owner, third)
    owner.hear(writer)
    assert sorted(log_of(owner)) == ["x", "y", "z"]
    settle_all(among)
    assert sorted(log_of(owner)) == ["x", "y", "z"]
    assert log_of(owner).index("x") + 1 == log_of(owner).index("y")


def miss_two(owner: SimReplica, writer: SimReplica, third: SimReplica) -> None:
    """Two checkpoints by which everything has gone that the writer has in its list and text."""
    delete(owner, 0, len(log_of(owner)))
    erase(owner, 0, len(notes_of(owner)))
    for number in range(3):
        insert(owner, 0, f"other {number}")
        checkpoint(owner, third)


@pytest.mark.parametrize("hears", [False, True])
def test_who_has_missed_several_checkpoints_writes_its_elements_again(hears: bool) -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, 1, 2, 3)
    type_in(owner, 0, "ab 😀 cd")
    converge(among)
    insert(writer, 2, "x", {"deep": [1, 2]}, b"raw", [b"in it"])
    insert(writer, 1, "w")
    type_in(writer, 4, "x😀y")
    type_in(writer, 1, "-")
    insert(writer, 3, "gone")
    delete(writer, 3)
    miss_two(owner, writer, third)
    if hears:
        owner.hear(writer)
        assert log_of(owner) == ["other 2", "other 1", "other 0"]
    settle_all(among)
    assert log_of(owner) == ["w", "x", {"deep": [1, 2]}, b"raw", [b"in it"], "other 2", "other 1", "other 0"]
    assert notes_of(owner) == "-x😀y"


def test_what_is_written_again_comes_after_what_was_on_its_left() -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, "a")
    insert(third, 0, "z")
    type_in(owner, 0, "Ünd ")
    converge(among)
    first = log_of(owner)[0]
    insert(owner, 1, "b", "c")
    type_in(owner, 4, "dead😀")
    converge(among)
    insert(writer, 2, "x")
    type_in(writer, 6, "x")
    delete(owner, 1, 2)
    erase(owner, 4, 9)
    for number in range(3):
        insert(owner, len(log_of(owner)), number)
        type_in(owner, len(notes_of(owner)), "!")
        checkpoint(owner, third)
    settle_all(among)
    assert log_of(owner)[:2] == [first, "x"]
    assert notes_of(owner) == "Ünd x!!!"


def test_more_than_one_entry_holds_is_written_again_in_several() -> None:
    owner, writer, third = among = replicas()
    limit = owner.genesis.limits.entry
    insert(owner, 0, "a", "b")
    type_in(owner, 0, "ab")
    converge(among)
    expected = []
    for number in range(3):
        expected.append("x" * (limit * 2 // 3) + str(number))
        insert(writer, 1 + number, expected[-1])
        type_in(writer, 1 + len(notes_of(writer)) - 2, "y" * (limit * 2 // 3))
    miss_two(owner, writer, third)
    settle_all(among)
    assert log_of(owner)[:3] == expected
    assert notes_of(owner) == "y" * (limit * 2 // 3 * 3)


# Everybody alike

Step = tuple[str, int, int, int]
KINDS = (
    ("insert",) * 6
    + ("delete",) * 3
    + ("type",) * 3
    + ("erase",) * 2
    + ("hear",) * 6
    + ("fold", "compact", "restart", "reload")
)
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1 << 12)), max_size=80
)


class Story:
    """Three that edit a list and a text; each element is told from all others."""

    def __init__(self) -> None:
        self.replicas = replicas()
        self.put: set[int] = set()
        self.taken: set[int] = set()
        self.between: dict[int, tuple[int | None, int | None]] = {}
        self.written_again = 0

    def do(self, action: str, who: int, whom: int, number: int) -> None:
        one, other = self.replicas[who], self.replicas[whom]
        log, notes = log_of(one), notes_of(one)
        if action == "insert":
            at, value = number % (len(log) + 1), len(self.put)
            insert(one, at, value)
            self.put.add(value)
            left, right = log[at - 1] if at else None, log[at] if at < len(log) else None
            self.between[value] = (left, right)
        elif action == "delete" and log:
            at = number % len(log)
            self.taken.add(log[at])
            delete(one, at)
        elif action == "type":
            type_in(one, number % (len(notes) + 1), "ab😀c"[: 1 + number % 4])
        elif action == "erase" and notes:
            at = number % len(notes)
            erase(one, at, min(at + 1 + number % 5, len(notes)))
        elif action == "compact":
            self.noting(self.replicas[0], self.replicas[0].compact)
        elif action == "fold":
            self.noting(one, one.fold)
        elif action == "hear":
            self.noting(one, lambda: one.hear(other))
        elif action == "restart":
            one.restart()
        elif action == "reload":
            one.reload()

    def noting(self, one: SimReplica, act: Callable[[], object]) -> None:
        """Do something, and note if elements were written again in that."""
        before = one.replica.tops[Lane.DATA]
        act()
        self.written_again += one.replica.tops[Lane.DATA] - before

    def check(self) -> None:
        settle_all(self.replicas)
        log = log_of(self.replicas[0])
        assert len(set(log)) == len(log)
        assert self.put - self.taken <= set(log)
        for value, (left, right) in self.between.items():
            if value in log and not self.written_again:
                assert left not in log or log.index(left) < log.index(value)
                assert right not in log or log.index(value) < log.index(right)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_what_nobody_deletes_is_there_in_the_end_between_what_it_was_put(history: list[Step]) -> None:
    story = Story()
    for step in history:
        story.do(*step)
    story.check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=1500)
@given(steps)
def test_what_nobody_deletes_is_there_in_the_end_in_long_stories(history: list[Step]) -> None:
    story = Story()
    for step in history:
        story.do(*step)
    story.check()
