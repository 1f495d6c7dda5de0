"""Lists and texts under checkpoints: they are as large as what lives, and nobody's insertion is lost."""

from __future__ import annotations

from random import Random
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
@pytest.mark.parametrize("times", [10, 50])
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


def test_what_had_no_effect_at_the_next_checkpoint_either_is_written_again_by_who_takes_that_over() -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, 1, 2, 3)
    type_in(owner, 0, "abc")
    converge(among)
    insert(writer, 1, "x")
    type_in(writer, 1, "y")
    sent = writer.counting
    miss_two(owner, writer, third)
    owner.receive(sent)
    for number in range(2):
        insert(owner, 0, f"more {number}")
        assert owner.compact()  # covers what had no effect
        assert owner.base is not None
        assert owner.base.state.rejected
    writer.hear(owner)
    assert log_of(writer)[0] == "x"
    settle_all(among)
    assert (log_of(owner)[0], notes_of(owner)) == ("x", "y")
    for _ in range(2):
        insert(writer, 0, "and")
        checkpoint(owner, writer, third)
    assert owner.base is not None
    assert owner.base.state.rejected == ()


def test_who_has_heard_of_a_checkpoint_and_not_folded_it_is_told_what_had_no_effect() -> None:
    owner, writer, third = among = replicas()
    insert(owner, 0, "a")
    converge(among)
    delete(third, 0)
    owner.hear(third)
    writer.hear(third)
    insert(writer, 0, "x")
    for _ in range(3):
        assert owner.compact()
    owner.hear(writer)
    assert owner.compact()  # covers what had no effect
    writer.hear(owner)
    assert writer.replica.ledger.unfolded
    type_in(writer, 0, "w")
    type_in(owner, 0, "4")
    owner.hear(writer)
    assert owner.compact()
    settle_all(among)
    assert log_of(owner) == ["x"]


@pytest.mark.parametrize("policy", [Policy.OPEN, Policy.ALLOW_LIST])
def test_who_gets_a_right_after_a_checkpoint_that_it_has_not_folded_can_use_it(policy: Policy) -> None:
    genesis = create_genesis(key_of(1), policy=policy)
    owner, writer, third = among = [SimReplica(genesis, key_of(number)) for number in AUTHORS]
    insert(owner, 0, "a")
    converge([owner, third])
    assert owner.compact()
    owner.grant(writer.key)
    writer.receive(third.counting)
    writer.receive([entry for entry in owner.counting if entry.body.lane is Lane.CONTROL])
    assert writer.replica.ledger.unfolded
    type_in(writer, 0, "w")
    settle_all(among)
    assert notes_of(owner) == "w"


# Everybody alike

Step = tuple[str, int, int, int]
WRITING = ("insert",) * 5 + ("delete",) * 3 + ("type",) * 3 + ("erase",) * 2
KINDS = (*WRITING, *("hear",) * 6, "fold", "compact", "restart", "reload")


def histories(kinds: tuple[str, ...], size: int) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(st.sampled_from(kinds), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1 << 12))
    return st.lists(step, max_size=size)


class Story:
    """Three that edit a list and a text; each element of the list is told from all others."""

    def __init__(self) -> None:
        self.replicas = replicas()
        self.put: set[int] = set()
        self.taken: set[int] = set()
        self.between: dict[int, tuple[int | None, int | None]] = {}
        self.written = [0, 0, 0]

    def tell(self, history: list[Step]) -> None:
        for action, who, whom, number in history:
            one, other = self.replicas[who], self.replicas[whom]
            if action in WRITING:
                top = one.replica.tops[Lane.DATA]
                self.write(action, one, number)
                self.written[who] += one.replica.tops[Lane.DATA] - top
            elif action == "hear":
                one.hear(other)
            elif action == "compact":
                self.replicas[0].compact()
            else:
                {"fold": one.fold, "restart": one.restart, "reload": one.reload}[action]()

    def write(self, action: str, one: SimReplica, number: int) -> None:
        log, notes = log_of(one), notes_of(one)
        if action == "insert":
            at, value = number % (len(log) + 1), len(self.put)
            self.put.add(value)
            self.between[value] = (log[at - 1] if at else None, log[at] if at < len(log) else None)
            insert(one, at, value)
        elif action == "delete" and log:
            self.taken.add(log[number % len(log)])
            delete(one, number % len(log))
        elif action == "type":
            type_in(one, number % (len(notes) + 1), "ab😀c"[: 1 + number % 4])
        elif action == "erase" and notes:
            at = number % len(notes)
            erase(one, at, min(at + 1 + number % 5, len(notes)))

    @property
    def written_again(self) -> int:
        """Entries by which something was written again."""
        return sum(replica.replica.tops[Lane.DATA] for replica in self.replicas) - sum(self.written)

    def check_lost(self) -> None:
        """Whatever nobody has deleted is there once."""
        settle_all(self.replicas)
        log = log_of(self.replicas[0])
        assert len(set(log)) == len(log)
        assert self.put - self.taken <= set(log)

    def check_order(self) -> None:
        """All is between what it was put between."""
        log = log_of(self.replicas[0])
        for value, (left, right) in self.between.items():
            if value in log:
                assert left not in log or log.index(left) < log.index(value)
                assert right not in log or log.index(value) < log.index(right)


@settings(deadline=None, max_examples=60)
@given(histories(KINDS, 80))
def test_what_nobody_deletes_is_there_in_the_end(history: list[Step]) -> None:
    story = Story()
    story.tell(history)
    story.check_lost()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(300))
def test_what_nobody_deletes_is_there_in_the_end_of_long_stories(seed: int) -> None:
    chance = Random(seed)
    kinds = (*KINDS, *chance.choice((("compact",) * 4, ("delete",) * 8, ("compact", "compact", "delete", "delete"))))
    steps = [
        (chance.choice(kinds), chance.randrange(3), chance.randrange(3), chance.randrange(4096))
        for _ in range(chance.randrange(60, 160))
    ]
    story = Story()
    story.tell(steps)
    story.check_lost()


Round = tuple[list[Step], bool, list[Step], list[Step]]
HEARING = (*WRITING, *("hear",) * 4)


def tell_in_flight(rounds: list[Round]) -> Story:
    """Checkpoints that come while all write, each before the next."""
    story = Story()
    for before, hears, meanwhile, after in rounds:
        story.tell(before)
        if hears:
            story.tell([("hear", 0, 1, 0), ("hear", 0, 2, 0)])
        story.tell(meanwhile)
        story.replicas[0].compact()
        story.tell(after)
        settle_all(story.replicas)
    story.check_lost()
    return story


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.tuples(histories(HEARING, 20), st.booleans(), histories(WRITING, 8), histories(WRITING, 15)), max_size=5
    )
)
def test_who_has_the_checkpoint_before_has_to_write_nothing_again(rounds: list[Round]) -> None:
    assert not tell_in_flight(rounds).written_again


def check_order_in_flight(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever IDs the authors have: in rare cases it is their order that tells where something goes."""
    chance = Random(seed)
    monkeypatch.setattr("secrets.token_bytes", chance.randbytes)

    def steps(kinds: tuple[str, ...], size: int) -> list[Step]:
        numbers = (0, 0, 1, 2, chance.randrange(4096))
        return [
            (chance.choice(kinds), chance.randrange(3), chance.randrange(3), chance.choice(numbers))
            for _ in range(chance.randrange(size))
        ]

    rounds = [
        (steps(HEARING, 20), chance.random() < 0.5, steps(WRITING, 8), steps(WRITING, 15))
        for _ in range(chance.randrange(1, 6))
    ]
    tell_in_flight(rounds).check_order()


@pytest.mark.parametrize("seed", range(5))
def test_what_was_written_while_a_checkpoint_came_is_where_it_was_put(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_order_in_flight(seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 250))
def test_what_was_written_while_a_checkpoint_came_is_where_it_was_put_in_long_stories(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_order_in_flight(seed, monkeypatch)
