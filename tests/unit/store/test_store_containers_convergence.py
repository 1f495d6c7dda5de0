"""Replicas that have seen the same updates read the same, whatever the order; and nothing that was added is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import pytest
from document_replicas import Replica, Replicas
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.store import (
    Counter,
    Element,
    OwnMap,
    Register,
    ReplicatedList,
    ReplicatedMap,
    ReplicatedSet,
    ReplicatedText,
)

REPLICAS = 3
DELIVER, REBUILD = "deliver", "rebuild"
ACTIONS = (
    *(DELIVER,) * 8,
    REBUILD,
    "map set",
    "map delete",
    "map clear",
    "list insert",
    "list delete",
    "text insert",
    "text delete",
    "counter",
    "set add",
    "set discard",
    "set clear",
    "register set",
    "register clear",
    "own set",
    "own clear",
)
ELEMENTS: tuple[Element, ...] = ("a", 1, True, ("a", b"\0"))
KEYS = ("red", "green")
Step = tuple[int, str, int]


def stories_of(*actions: str) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(st.integers(0, REPLICAS - 1), st.sampled_from(actions), st.integers(0, 1 << 10))
    return st.integers(0, 60).flatmap(lambda size: st.lists(step, min_size=size, max_size=size))


# Of one container only as well: there it takes few steps until two are in each other's way.
stories = st.one_of(
    stories_of(*ACTIONS),
    *(
        stories_of(*(DELIVER,) * 2, *(action for action in ACTIONS if action.startswith(kind)))
        for kind in ("map", "list", "text", "set", "counter")
    ),
)


@dataclass
class Expected:
    """What has to be there in the end, computed from who has seen what."""

    total: int = 0
    inserted: set[object] = field(default_factory=set)
    deleted: set[object] = field(default_factory=set)
    characters: str = ""
    erased: str = ""
    additions: dict[int, str] = field(default_factory=dict)
    """The elements added, by the number of the log's entry."""
    discards: dict[int, set[int]] = field(default_factory=dict)
    """The additions undone, by the number of the log's entry that did."""
    known: list[set[int]] = field(default_factory=lambda: [set() for _ in range(REPLICAS)])
    """Which entries of the log each replica has seen."""

    def standing(self, seen: Iterable[int]) -> dict[int, str]:
        """The additions among the entries seen that none of these has undone."""
        undone = {one for entry in seen for one in self.discards.get(entry, ())}
        return {one: self.additions[one] for one in seen if one in self.additions and one not in undone}


class Story:
    """Replicas that do what they are told, and what is expected of them."""

    def __init__(self) -> None:
        self.replicas = Replicas(REPLICAS)
        self.expected = Expected()

    def do(self, story: list[Step]) -> None:
        for number, action, choice in story:
            if action == DELIVER:
                self._deliver(number, choice)
            elif action == REBUILD:
                self.replicas.replicas[number].rebuild()
            else:
                self._write(number, action, choice)

    def _deliver(self, number: int, choice: int) -> None:
        written = self.replicas.deliver_one(number, choice)
        if written is not None:
            self.expected.known[number].add(self.replicas.log.index(written))

    def _write(self, number: int, action: str, choice: int) -> None:
        entry = len(self.replicas.log)
        kind, _, what = action.partition(" ")
        with self.replicas.transaction(number) as replica:
            {
                "map": self._write_map,
                "list": self._write_list,
                "text": self._write_text,
                "counter": self._write_counter,
                "set": self._write_set,
                "register": self._write_register,
                "own": self._write_own,
            }[kind](replica, what, choice)
        if len(self.replicas.log) > entry:
            self.expected.known[number].add(entry)

    def _write_map(self, replica: Replica, what: str, choice: int) -> None:
        shared = ReplicatedMap(replica, "m")
        key = KEYS[choice % len(KEYS)]
        if what == "set":
            shared[key] = [choice, float(choice)]
            assert shared[key] == [choice, float(choice)]
        elif what == "delete":
            shared.pop(key, None)
            assert key not in shared
        else:
            shared.clear()
            assert not shared

    def _write_list(self, replica: Replica, what: str, choice: int) -> None:
        shared = ReplicatedList(replica, "l")
        if what == "insert":
            value = f"{replica.author}:{len(self.expected.inserted)}"
            shared.insert(choice % (len(shared) + 1), value)
            self.expected.inserted.add(value)
        elif shared:
            index = choice % len(shared)
            self.expected.deleted.add(shared[index])
            del shared[index]

    def _write_text(self, replica: Replica, what: str, choice: int) -> None:
        shared = ReplicatedText(replica, "t")
        if what == "insert":
            # Each character once: some of four bytes, some of three.
            base = 0x1F300 if choice % 2 else 0x4E00
            piece = "".join(chr(base + len(self.expected.characters) + step) for step in range(2))
            shared.insert(choice % (len(shared) + 1), piece)
            self.expected.characters += piece
        elif len(shared):
            start = choice % len(shared)
            stop = min(len(shared), start + 3)
            self.expected.erased += str(shared)[start:stop]
            shared.delete(start, stop)

    def _write_counter(self, replica: Replica, what: str, choice: int) -> None:
        Counter(replica, "c").add(choice - 500)
        self.expected.total += choice - 500

    def _write_set(self, replica: Replica, what: str, choice: int) -> None:
        shared = ReplicatedSet(replica, "s")
        element = ELEMENTS[choice % len(ELEMENTS)]
        standing = self.expected.standing(self.expected.known[replica.number])
        assert sorted(map(repr, shared)) == sorted(set(standing.values()))
        if what == "add":
            shared.add(element)
            self.expected.additions[len(self.replicas.log)] = repr(element)
            return
        if what == "discard":
            shared.discard(element)
            standing = {one: text for one, text in standing.items() if text == repr(element)}
        else:
            shared.clear()
        if standing:
            self.expected.discards[len(self.replicas.log)] = set(standing)

    def _write_register(self, replica: Replica, what: str, choice: int) -> None:
        shared = Register(replica, "r")
        if what == "set":
            shared.set(choice)
        else:
            shared.clear()
        assert shared.get() == (choice if what == "set" else None)

    def _write_own(self, replica: Replica, what: str, choice: int) -> None:
        shared = OwnMap(replica, "o")
        if what == "set":
            shared.set({"at": choice})
        else:
            shared.clear()
        assert shared.get(replica.author) == ({"at": choice} if what == "set" else None)


def everything(replica: Replica) -> list[object]:
    return [
        ReplicatedMap(replica, "m").to_dict(),
        ReplicatedList(replica, "l").to_list(),
        str(ReplicatedText(replica, "t")),
        Counter(replica, "c").by_author(),
        [repr(element) for element in ReplicatedSet(replica, "s")],
        Register(replica, "r").get(),
        list(OwnMap(replica, "o").items()),
    ]


@settings(deadline=None)
@given(stories, st.randoms(use_true_random=False))
def test_replicas_that_have_seen_the_same_read_the_same(steps: list[Step], order: Random) -> None:
    story = Story()
    story.do(steps)

    story.replicas.deliver_all(order)

    first, *others = story.replicas.replicas
    for other in [*others, story.replicas.late_reader(order)]:
        assert everything(other) == everything(first)
    read = everything(first)
    first.rebuild()
    assert everything(first) == read


@settings(deadline=None)
@given(stories, st.randoms(use_true_random=False))
def test_nothing_that_was_added_is_lost_and_nothing_deleted_comes_back(steps: list[Step], order: Random) -> None:
    story = Story()
    story.do(steps)

    story.replicas.deliver_all(order)

    expected, replica = story.expected, story.replicas.replicas[0]
    assert Counter(replica, "c").value == expected.total
    assert sorted(map(repr, ReplicatedList(replica, "l"))) == sorted(map(repr, expected.inserted - expected.deleted))
    assert sorted(str(ReplicatedText(replica, "t"))) == sorted(set(expected.characters) - set(expected.erased))
    standing = expected.standing(range(len(story.replicas.log)))
    assert sorted(map(repr, ReplicatedSet(replica, "s"))) == sorted(set(standing.values()))


def test_an_element_added_while_another_discards_it_is_in_the_set() -> None:
    replicas = Replicas(2)
    with replicas.transaction(0) as alice:
        ReplicatedSet(alice, "s").add("a")
    replicas.deliver_all(Random(1))

    with replicas.transaction(0) as alice:
        ReplicatedSet(alice, "s").add("a")
    with replicas.transaction(1) as bob:
        ReplicatedSet(bob, "s").discard("a")
    replicas.deliver_all(Random(1))

    assert all("a" in ReplicatedSet(replica, "s") for replica in replicas.replicas)


@pytest.mark.parametrize("adder", [0, 1])
def test_an_element_that_two_add_survives_when_one_of_them_discards_it(adder: int) -> None:
    """Under a common key, Yjs would have dropped one addition for the other, which then is discarded."""
    replicas = Replicas(2)
    with replicas.transaction(adder) as replica:
        ReplicatedSet(replica, "s").add("a")
    with replicas.transaction(1 - adder) as other:
        ReplicatedSet(other, "s").add("a")
    with replicas.transaction(1 - adder) as other:
        ReplicatedSet(other, "s").discard("a")
    replicas.deliver_all(Random(1))

    assert all("a" in ReplicatedSet(replica, "s") for replica in replicas.replicas)
