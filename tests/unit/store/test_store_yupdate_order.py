"""Items whose neighbours are named in a strange order: documents that take what is accepted hold the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Text
from sequence_authors import ACTIONS, SequenceAuthors
from yjs_bytes import item, text, uint, update

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import read_update
from lattica.store.yupdate_places import ItemParents

ANY, STRING, TYPE = 8, 4, 7
CLIENTS = (5, 3, 2**33, 2**53 - 1)
Id = tuple[int, int]
Step = tuple[int, int | None, int | None, int]

OWN = -1
sides = st.none() | st.integers(0, 3) | st.integers(0, 20)  # how many items ago the neighbour was written
steps = st.lists(st.tuples(st.integers(0, 3), sides | st.just(OWN), sides, st.integers(1, 3)), max_size=20)


class Sent(NamedTuple):
    """An update of one run, and the numbers of those in which what it refers to is."""

    client: int
    raw: bytes
    needs: frozenset[int]


class Story:
    """Updates of authors that name any item on either side; those that are refused are not sent."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.index = ItemParents(texts={"text"})
        self.log: list[Sent] = []
        self.origins: dict[Id, Id | None] = {}
        self._in: dict[Id, int] = {}
        self._ends = dict.fromkeys(CLIENTS, 0)

    def write(self, step: Step) -> tuple[Sent, bool]:
        """The update that a step means, and whether it was accepted."""
        client = CLIENTS[step[0]]
        origin, right = (self._near(client, side) for side in step[1:3])
        if origin == right:
            right = None
        end = self._ends[client]
        raw = update({client: (end, [self._run(client, end, step[3], origin, right)])})
        before = [(client, end - 1)] if end else []
        sent = Sent(client, raw, frozenset(self._in[near] for near in (origin, right, *before) if near))
        accepted = accepts(self.index, raw)
        if accepted:
            for clock in range(end, end + step[3]):
                self._in[client, clock] = len(self.log)
                self.origins[client, clock] = origin if clock == end else (client, clock - 1)
            self._ends[client] += step[3]
            self.log.append(sent)
        return sent, accepted

    def _near(self, client: int, side: int | None) -> Id | None:
        items = [near for near in self._in if side != OWN or near[0] == client]
        return items[-1 - max(side, 0) % len(items)] if items and side is not None else None

    def _run(self, client: int, end: int, length: int, origin: Id | None, right: Id | None) -> bytes:
        names = [self.name((client, end + more)) for more in range(length)]
        if self.root == "text":
            return item(STRING, text("".join(names)), root="text", origin=origin, right=right)
        values = b"".join(b"\x77" + text(name) for name in names)
        return item(ANY, uint(length) + values, root="list", origin=origin, right=right)

    def name(self, near: Id) -> str:
        """The value that the item has in the list, or its character."""
        return chr(0x4E00 + 1000 * CLIENTS.index(near[0]) + near[1])

    def past(self, sent: Sent) -> list[int]:
        """What the update refers to, directly or not, in order."""
        found: set[int] = set()
        left = set(sent.needs)
        while left:
            number = left.pop()
            found.add(number)
            left |= self.log[number].needs - found
        return sorted(found)

    def shuffled(self, random: Random) -> list[int]:
        """The log's numbers, each after those that it needs."""
        order: list[int] = []
        left = set(range(len(self.log)))
        favour = [random.random() for _ in self.log]
        while left:
            ready = [number for number in left if self.log[number].needs.isdisjoint(left)]
            order.append(max(ready, key=favour.__getitem__))
            left.remove(order[-1])
        return order

    def document(self, order: Iterable[int]) -> Doc[Any]:
        doc: Doc[Any] = Doc(client_id=77)
        for number in order:
            doc.apply_update(self.log[number].raw)
        return doc

    def state(self, doc: Doc[Any]) -> str:
        if self.root == "text":
            return str(doc.get("text", type=Text))
        return str(doc.get("list", type=Array).to_py())


def accepts(index: ItemParents, raw: bytes) -> bool:
    try:
        index.accept(read_update(raw))
    except DocumentUpdateError:
        return False
    return True


def place_of(places: Mapping[Id, int], near: Id | None) -> int:
    return -1 if near is None else places[near]


def copy_of(*docs: Doc[Any]) -> Doc[Any]:
    copy: Doc[Any] = Doc(client_id=78)
    for doc in docs:
        copy.apply_update(doc.get_update(copy.get_state()))
    return copy


@settings(deadline=None)
@given(st.sampled_from(("list", "text")), steps, st.randoms(use_true_random=False))
def test_what_is_accepted_makes_equal_documents_in_any_order(root: str, history: list[Step], random: Random) -> None:
    story = Story(root)
    for step in history:
        story.write(step)
    first = story.document(range(len(story.log)))

    for _ in range(3):
        order = story.shuffled(random)
        other = story.document(order)
        some = story.document(order[: random.randint(0, len(order))])
        states = [story.state(doc) for doc in (first, other, copy_of(other), copy_of(some, other))]
        assert states == [states[0]] * 4


@settings(deadline=None)
@given(steps)
def test_two_are_in_order_if_the_document_has_them_so(history: list[Step]) -> None:
    """Of any two, the right one's origin must not be after the left one, nor this after the right one."""
    story = Story("list")
    for step in history:
        story.write(step)
    doc = story.document(range(len(story.log)))
    at = {named: number for number, named in enumerate(doc.get("list", type=Array).to_py() or ())}
    places = {near: at[story.name(near)] for near in story.origins}

    for origin, right in permutations((None, *story.origins), 2):
        fits = right is None or place_of(places, story.origins[right]) <= place_of(places, origin) < places[right]
        probe = update({1: (0, [item(ANY, b"\x01\x7e", root="list", origin=origin, right=right)])})
        try:
            story.index.roots_touched(read_update(probe))
        except DocumentUpdateError:
            assert not fits
        else:
            assert fits


@settings(deadline=None)
@given(steps)
def test_whether_one_is_accepted_hangs_on_what_it_refers_to_alone(history: list[Step]) -> None:
    story = Story("list")
    for step in history:
        sent, accepted = story.write(step)
        index = ItemParents(texts={"text"})
        for number in story.past(sent):
            index.accept(read_update(story.log[number].raw))
        assert accepts(index, sent.raw) == accepted


Near = tuple[int, Id | None, Id | None]
CHAIN: list[Near] = [(5, None, None), (5, (5, 0), None), (5, (5, 1), None)]


def sent(nears: Sequence[Near]) -> list[Sent]:
    """An update for each client and its item's neighbours."""
    found: list[Sent] = []
    ids: list[Id] = []
    for number, (client, origin, right) in enumerate(nears):
        clock = sum(client == other for other, _, _ in nears[:number])
        raw = update(
            {client: (clock, [item(ANY, b"\x01\x7d" + uint(number), root="list", origin=origin, right=right)])}
        )
        before = (client, clock - 1)
        found.append(Sent(client, raw, frozenset(ids.index(near) for near in (origin, right, before) if near in ids)))
        ids.append((client, clock))
    return found


def states(log: Sequence[Sent]) -> set[str]:
    """What documents hold that get the updates in one order or another."""
    story = Story("list")
    story.log.extend(log)
    orders = (
        order
        for order in permutations(range(len(log)))
        if all(log[number].needs <= set(order[:at]) for at, number in enumerate(order))
    )
    return {story.state(story.document(order)) for order in orders}


@pytest.mark.parametrize(
    ("known", "last", "reason"),
    [
        pytest.param(
            [*CHAIN, (9, None, None)], (5, (5, 2), (5, 1)), "not in this order", id="left one after right one"
        ),
        pytest.param([*CHAIN, (9, (5, 1), None)], (8, (5, 0), (5, 2)), "not in this order", id="right one far below"),
        pytest.param([*CHAIN[:2], (9, (5, 0), None)], (8, None, (5, 1)), "put first", id="first but before a second"),
    ],
)
def test_what_would_make_documents_differ_is_refused(known: list[Near], last: Near, reason: str) -> None:
    log = sent([*known, last])
    index = ItemParents(texts={"text"})
    for one in log[:-1]:
        index.accept(read_update(one.raw))

    with pytest.raises(DocumentUpdateError, match=reason):
        index.accept(read_update(log[-1].raw))
    assert len(states(log[:-1])) == 1
    assert len(states(log)) > 1


actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(actions)
def test_what_honest_authors_write_is_accepted(story: list[tuple[int, int, int]]) -> None:
    authors = SequenceAuthors()
    authors.do(story)

    for known in (range(len(authors.log)), *(author.known for author in authors.authors)):
        index = ItemParents(texts={"text"})
        for number in known:
            index.accept(read_update(authors.log[number]))


def value(**near: Id | str) -> bytes:
    """An item's struct; the keywords are those of `item`."""
    return item(ANY, b"\x01\x7e", **{"root": "list", **near})  # type: ignore[arg-type]


def test_what_was_only_looked_at_leaves_no_trace() -> None:
    index = ItemParents(texts={"text"})
    for clock, items in (
        (0, [value(), value(right=(5, 0))]),
        (0, [value(root="more"), value(), value(right=(5, 1))]),
        (0, [value(root="more"), value(root="other")]),
    ):
        index.roots_touched(read_update(update({5: (clock, items)})))
    index.accept(read_update(update({5: (0, [value(), value(origin=(5, 0))])})))

    index.roots_touched(read_update(update({9: (0, [value(origin=(5, 0), right=(5, 1))])})))
    with pytest.raises(DocumentUpdateError, match="not in this order"):
        index.roots_touched(read_update(update({9: (0, [value(origin=(5, 1), right=(5, 0))])})))


def test_what_an_item_dropped_had_on_its_right_is_no_excuse_for_the_next() -> None:
    index = ItemParents(texts={"text"})
    index.accept(read_update(update({9: (0, [value()]), 5: (0, [value(origin=(9, 0))])})))

    index.roots_touched(read_update(update({5: (1, [value(right=(9, 0))])})))

    with pytest.raises(DocumentUpdateError, match="not in this order"):
        index.accept(read_update(update({5: (1, [value(origin=(5, 0), right=(9, 0))])})))


def test_one_may_go_on_before_what_another_has_put_there() -> None:
    """With the lower client ID, the other's item would come first if it was not named."""
    index = ItemParents(texts={"text"})
    index.accept(read_update(update({5: (0, [value()]), 3: (0, [value(origin=(5, 0))])})))
    index.accept(read_update(update({5: (1, [value(origin=(5, 0), right=(3, 0))])})))

    index.roots_touched(read_update(update({9: (0, [value(origin=(5, 1), right=(3, 0))])})))
    with pytest.raises(DocumentUpdateError, match="not in this order"):
        index.roots_touched(read_update(update({9: (0, [value(origin=(3, 0), right=(5, 1))])})))


def test_two_lists_below_one_key_are_two() -> None:
    index = ItemParents(texts={"text"})
    lists = [item(TYPE, b"\0", root="map", key="key"), item(TYPE, b"\0", origin=(5, 0))]
    below = [item(ANY, b"\x01\x7e", parent=(5, 0)), item(ANY, b"\x01\x7e", parent=(5, 1))]
    index.accept(read_update(update({5: (0, lists + below)})))

    with pytest.raises(DocumentUpdateError, match="not in this order"):
        index.accept(read_update(update({9: (0, [item(ANY, b"\x01\x7e", origin=(5, 2), right=(5, 3))])})))


def test_the_way_up_a_deep_tree_is_found() -> None:
    """Two that take turns, each after the other's last item; a third's first item is beside the first of these."""
    index = ItemParents(texts={"text"})
    turns, aside = (5, 6), (7, 0)
    index.accept(read_update(update({7: (0, [item(ANY, b"\x01\x7e", root="list")])})))
    index.accept(read_update(update({5: (0, [item(ANY, b"\x01\x7e", root="list")])})))
    last = (5, 0)
    for number in range(1, 3000):
        client = turns[number % 2]
        index.accept(read_update(update({client: (number // 2, [item(ANY, b"\x01\x7e", origin=last)])})))
        last = (client, number // 2)

    index.accept(read_update(update({8: (0, [item(ANY, b"\x01\x7e", origin=last, right=aside)])})))
    for origin, right in (aside, last), (aside, (5, 700)), (last, (6, 1400)), ((5, 700), last):
        with pytest.raises(DocumentUpdateError, match="not in this order"):
            index.accept(read_update(update({9: (0, [item(ANY, b"\x01\x7e", origin=origin, right=right)])})))
