"""Authors that hear late of checkpoints: all hold the same in the end, and what they put somewhere is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_updates import Settlement, document_of, ids_of, ordered, settle, shown, take
from pycrdt import Doc
from sequence_authors import ACTIONS, SequenceAuthor, SequenceAuthors

from lattica.store.yupdate import ItemId, Struct, YUpdate, read_update
from lattica.store.yupdate_places import ItemParents

Action = tuple[int, int, int]
Round = tuple[list[Action], set[int]]
Spot = tuple[str, int]
"""A root, and a place in it."""

actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=40
)


def is_ready(update: YUpdate, ends: dict[int, int]) -> bool:
    """Whether all that the update needs is known."""
    return all(ends.get(client, 0) >= end for client, end in update.needs().items())


def check_late_authors(stories: list[Round], random: Random) -> None:
    """After each story the owner makes a checkpoint, of which some hear, and others when all have written again."""
    authors = SequenceAuthors()
    states: list[tuple[Settlement, list[int]]] = []
    folded = [0, 0, 0]

    def fold(who: int) -> None:
        for state, covered in states[folded[who] :]:
            authors.fold(who, state, covered)
        folded[who] = len(states)

    for story, hearing in stories:
        authors.do(story)
        owner = authors.authors[0]
        old = spots(owner.doc, owner.items)
        states.append((settle(owner.doc, owner.items), list(owner.known)))
        for who in {0, *hearing}:
            fold(who)
    authors.do(stories[0][0])
    authors.meet()
    for number in set(folded):
        among = [author for who, author in enumerate(authors.authors) if folded[who] == number]
        assert len({repr((shown(author.doc), where(author))) for author in among}) == 1

    for who in range(3):
        fold(who)
    [content] = {repr(shown(author.doc)) for author in authors.authors}
    state, covered = states[-1]
    beyond = [raw for number, raw in enumerate(authors.log) if number not in covered]
    for _ in range(2):
        known, placed = state.known(), [state.update]
        left = beyond[:]
        while left:
            raw = random.choice([raw for raw in left if is_ready(read_update(raw), known.ends())])
            left.remove(raw)
            placed.append(take(known, raw))
        assert repr(shown(document_of(placed))) == content
        at = spots(document_of(placed), known)
        check_placed(state, placed[1:], at)
        check_sides(state, beyond, old, at)


def where(author: SequenceAuthor) -> dict[str, list[ItemId]]:
    """What is in its document, in order; that may keep deleted elements whole to undo it, hence the copy."""
    return ids_of(ordered(document_of([author.doc.get_update()]), author.items))


def spots(doc: Doc[Any], known: ItemParents) -> dict[ItemId, Spot]:
    """Where each element is: its root, and at which place in that."""
    found = ids_of(ordered(document_of([doc.get_update()]), known))
    return {item: (root, number) for root, items in found.items() for number, item in enumerate(items)}


def structs_of(updates: Iterable[bytes]) -> Iterator[tuple[ItemId, Struct]]:
    """What they insert, and its first elements."""
    for raw in updates:
        for client, structs in read_update(raw).structs.items():
            for struct in structs:
                yield ItemId(client, struct.clock), struct


def living_in(state: Settlement) -> list[list[ItemId]]:
    """What a state has left of each root, in order."""
    return list(ids_of(ordered(document_of([state.update]), state.known())).values())


def check_placed(state: Settlement, placed: Sequence[bytes], at: Mapping[ItemId, Spot]) -> None:
    """All that lives in the state is in its order, and each later one is between those that it was placed between."""
    for items in living_in(state):
        found = [at[item] for item in items]
        assert found == sorted(found)
    for item, struct in structs_of(placed):
        if item in at:  # it is no garbage
            assert struct.origin is None or at[struct.origin] < at[item]
            assert struct.right_origin is None or at[item] < at[struct.right_origin]


def check_sides(
    state: Settlement, beyond: Iterable[bytes], old: Mapping[ItemId, Spot], at: Mapping[ItemId, Spot]
) -> None:
    """What was put between two of before is after all that live and were on the left, and before those on the right."""
    for item, struct in structs_of(beyond):
        near = [item for item in (struct.origin, struct.right_origin) if item is not None]
        if not near or not old.keys() >= set(near) or old[near[0]] > old[near[-1]]:
            continue  # who has not folded may have two late ones the other way round
        for other in (other for items in living_in(state) for other in items if old[other][0] == old[near[0]][0]):
            assert struct.origin is None or old[other] > old[struct.origin] or at[other] < at[item]
            assert struct.right_origin is None or old[other] < old[struct.right_origin] or at[item] < at[other]


rounds = st.lists(st.tuples(actions, st.sets(st.integers(1, 2))), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(rounds, st.randoms(use_true_random=False))
def test_authors_that_hear_late_of_checkpoints_hold_the_same_in_the_end(stories: list[Round], random: Random) -> None:
    check_late_authors(stories, random)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=1000)
@given(rounds, st.randoms(use_true_random=False))
def test_authors_that_hear_late_of_checkpoints_hold_the_same_in_many_stories(
    stories: list[Round], random: Random
) -> None:
    check_late_authors(stories, random)
