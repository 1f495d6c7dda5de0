"""Lists and texts in a checkpoint's state: it shows what they show, and is as large as what lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_updates import (
    Settlement,
    document_of,
    ids_of,
    no_items,
    ordered,
    settle,
    shown,
    take,
)
from pycrdt import Array, Doc, Text
from sequence_authors import ACTIONS, CLIENTS, SequenceAuthor, SequenceAuthors
from sequence_strangers import Step, Strangers, changes, deletions
from yjs_bytes import item, text, update

from lattica.store.burial import bury_settled
from lattica.store.canonical import canonical_update, joined_update
from lattica.store.sequence import Block
from lattica.store.yupdate import ItemId, Kind
from lattica.store.yupdate_places import ItemParents
from lattica.store.yupdate_spans import clients_of

Id = tuple[int, int]
Action = tuple[int, int, int]

actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=50
)
roots = st.sampled_from(("list", "text"))
rounds = st.lists(actions, min_size=1, max_size=4)
strange_rounds = st.lists(deletions | changes, min_size=1, max_size=4)

many = settings(deadline=None, max_examples=1000)
some = settings(deadline=None, max_examples=50)


def check_settled(doc: Doc[Any], known: ItemParents) -> tuple[Settlement, Settlement]:
    """A document's state, and the next one if nothing is written meanwhile.

    Both show the same. The first one has what lives and what was deleted since the state before, the second one only
    what lives, and one after that is no other.
    """
    state = check_state(doc, known, keeps_deleted=True)
    bare = check_state(document_of([state.update]), state.known(), keeps_deleted=False)
    assert settle(document_of([bare.update]), bare.known()) == Settlement(bare.update, [])
    assert gone_in(doc, known) == anchored_in(state)
    assert gone_in(document_of([state.update]), state.known()) == anchored_in(bare)
    assert state.known().ends() == bare.known().ends() == known.ends()
    return state, bare


def check_state(doc: Doc[Any], known: ItemParents, *, keeps_deleted: bool) -> Settlement:
    """It shows what the document shows, in one way only."""
    raw = bury_settled(joined_update(doc.get_update()), known.dump()).update
    state = settle(doc, known)
    assert state.update == canonical_update(raw) == canonical_update(state.update)
    for made in (raw, state.update):
        assert shown(document_of([made])) == shown(doc)
        kinds = {struct.kind for _, structs in clients_of(made) for struct in structs}
        assert keeps_deleted or Kind.DELETED not in kinds
    stays = {
        root: [block for block in blocks if not block.is_grave] for root, blocks in settled_order(doc, known).items()
    }
    is_deleted = {block.first for blocks in stays.values() for block in blocks if not block.lives}
    found = settled_order(document_of([state.update]), state.known())
    assert ids_of(found) == {root: ids for root, ids in ids_of(stays).items() if ids}
    assert is_deleted <= {item for items in ids_of(only_deleted(found)).values() for item in items}
    return state


def settled_order(doc: Doc[Any], known: ItemParents) -> dict[str, list[Block]]:
    """What is in it, in order; authors' documents keep deleted elements whole, to undo that."""
    return ordered(document_of([canonical_update(doc.get_update())]), known)


def only_deleted(blocks: Mapping[str, list[Block]]) -> dict[str, list[Block]]:
    return {root: [block for block in found if not block.lives] for root, found in blocks.items()}


def gone_in(doc: Doc[Any], known: ItemParents) -> set[ItemId]:
    """What the state before has found deleted already."""
    graves = {root: [block for block in found if block.is_grave] for root, found in settled_order(doc, known).items()}
    return {item for items in ids_of(graves).values() for item in items}


def anchored_in(state: Settlement) -> set[ItemId]:
    return {ItemId(anchor.client, clock) for anchor in state.anchors for clock in range(anchor.first, anchor.end)}


def check_rounds_of_authors(stories: list[list[Action]]) -> None:
    """Authors go on with the state of all that they have written, again and again; it makes no difference to them."""
    authors = SequenceAuthors()
    for story in stories:
        authors.do(story)
        authors.meet()
        docs = [author.doc for author in authors.authors]
        [content] = {repr(shown(doc)) for doc in docs}
        states = [check_settled(author.doc, author.items)[0] for author in authors.authors]
        assert states == [states[0]] * len(states)
        for who, author in enumerate(authors.authors):
            authors.fold(who, states[0], list(author.known))
            assert repr(shown(authors.authors[who].doc)) == content


def check_rounds_of_strangers(root: str, histories: list[list[Step]], random: Random) -> None:
    """The same with items between any two, also such that a state has left out."""
    strangers = Strangers(root)
    for history in histories:
        strangers.do(history)
        doc = strangers.document()
        state = check_settled(doc, strangers.known)[0]
        other = strangers.document(strangers.shuffled(random))
        assert settle(other, strangers.known) == state
        strangers.go_on(state)
        assert shown(strangers.document()) == shown(doc)


@some
@given(rounds)
def test_a_state_shows_what_authors_have_written_and_they_go_on_with_it(stories: list[list[Action]]) -> None:
    check_rounds_of_authors(stories)


@some
@given(roots, strange_rounds, st.randoms(use_true_random=False))
def test_a_state_shows_what_strangers_have_written_and_they_go_on_with_it(
    root: str, histories: list[list[Step]], random: Random
) -> None:
    check_rounds_of_strangers(root, histories, random)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@many
@given(rounds)
def test_states_show_what_authors_have_written_in_many_stories(stories: list[list[Action]]) -> None:
    check_rounds_of_authors(stories)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@many
@given(roots, strange_rounds, st.randoms(use_true_random=False))
def test_states_show_what_strangers_have_written_in_many_stories(
    root: str, histories: list[list[Step]], random: Random
) -> None:
    check_rounds_of_strangers(root, histories, random)


# How large


def edited(root: str, number: int, at: Callable[[int, Random], int]) -> tuple[Doc[Any], ItemParents]:
    """A document into which three authors have put elements in turns, and deleted all but ten."""
    random = Random(number)
    doc, known = document_of([]), no_items()
    order: list[Id] = []
    for written in range(number):
        client, clock, place = CLIENTS[written % 3], written // 3, at(len(order), random)
        left, right = order[place - 1] if place else None, order[place] if place < len(order) else None
        kind, content = (4, text("v")) if root == "text" else (8, b"\1\x77\1v")
        struct = item(kind, content, root=root, origin=left, right=right)
        doc.apply_update(take(known, update({client: (clock, [struct])})))
        order.insert(place, (client, clock))
    gone: dict[int, list[Id]] = {}
    for client, clock in sorted(set(order) - set(order[:: number // 10])):
        gone.setdefault(client, []).append((clock, 1))
    doc.apply_update(take(known, update({}, gone)))
    return doc, known


@pytest.mark.parametrize("root", ["list", "text"])
@pytest.mark.parametrize(
    "at",
    [
        pytest.param(lambda size, random: size, id="at the end"),
        pytest.param(lambda size, random: 0, id="at the start"),
        pytest.param(lambda size, random: random.randint(0, size), id="anywhere"),
    ],
)
def test_a_state_is_as_large_as_what_is_left(root: str, at: Callable[[int, Random], int]) -> None:
    """Whatever was there; clocks of 2,000 elements have a byte more than those of 200."""
    sizes = {}
    for number in (200, 2000):
        doc, known = edited(root, number, at)
        before = len(canonical_update(doc.get_update()))
        state = check_settled(doc, known)[1]
        values, parts = shown(document_of([state.update]))
        assert "".join([*values, *(part for part, _ in parts)]) == "v" * 10
        sizes[number] = len(state.update)
        assert sizes[number] < min(before, 250)
    assert sizes[2000] - sizes[200] < 6 * 10


def test_what_stands_for_the_deleted_is_one_for_each_run_that_an_author_has_written() -> None:
    """Three authors' turns between each two of those that are left: three, however long they are."""
    for number in (200, 2000):
        doc, known = edited("list", number, lambda size, random: size)
        state, bare = check_settled(doc, known)
        assert len(state.anchors) == 0
        assert len(bare.anchors) == 3 * 10


def test_rounds_of_writing_and_deleting_leave_nothing_behind() -> None:
    """Each goes on with the state of the one before; all is deleted in the end."""
    author = SequenceAuthor(CLIENTS[1], [], count())
    sizes = []
    for _ in range(20):
        for number in range(1, 100):
            author.write(number % 6, number + (not number % 10))
        for root in author.doc.get("list", type=Array), author.doc.get("text", type=Text):
            del root[:]
        state, bare = check_settled(author.doc, author.items)
        sizes.append(len(state.update))
        assert len(bare.update) < 40
        author = author.folded(state, author.known)
    assert max(sizes) < sizes[0] + 200  # what was deleted since the one before, by longer numbers than at first
    assert shown(author.doc) == ([], [])
