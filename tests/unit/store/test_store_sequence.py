"""The order of lists and texts, and what is left of them in a checkpoint's state: what they show, and no more."""

from __future__ import annotations

from random import Random

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
    strings_of,
    take,
    without_deletions,
)
from pycrdt import Doc
from sequence_authors import ACTIONS, SequenceAuthors
from sequence_strangers import Step, Strangers, changes, deletions

from lattica.store.burial import bury_settled
from lattica.store.canonical import canonical_update
from lattica.store.yupdate import ItemId, Kind
from lattica.store.yupdate_places import ItemParents
from lattica.store.yupdate_spans import clients_of

Action = tuple[int, int, int]

actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=50
)
roots = st.sampled_from(("list", "text"))
rounds = st.lists(actions, min_size=1, max_size=4)
strange_rounds = st.lists(deletions | changes, min_size=1, max_size=4)

many = settings(deadline=None, max_examples=2000)
some = settings(deadline=None, max_examples=50)


# The order


def check_order(updates: list[bytes], known: ItemParents) -> None:
    """What is computed is what a document shows if nothing is deleted, and deletions change nothing."""
    full, undeleted = document_of(updates), document_of(map(without_deletions, updates))
    found = ordered(undeleted, known)
    raw = undeleted.get_update()
    names, text = shown(undeleted)
    assert strings_of(raw, found.get("list", ())) == names
    assert "".join(strings_of(raw, found.get("text", ()))) == "".join(part for part, _ in text)
    assert ids_of(ordered(full, known)) == ids_of(found)


def check_order_of_authors(story: list[Action]) -> None:
    authors = SequenceAuthors()
    authors.do(story)
    known = no_items()
    check_order([take(known, raw) for raw in authors.log], known)


def check_order_of_strangers(root: str, history: list[Step]) -> None:
    strangers = Strangers(root)
    strangers.do(history)
    check_order([sent.placed for sent in strangers.log], strangers.known)


@some
@given(actions)
def test_the_order_of_what_authors_write_is_the_document_s(story: list[Action]) -> None:
    check_order_of_authors(story)


@some
@given(roots, deletions | changes)
def test_the_order_of_what_strangers_write_is_the_document_s(root: str, history: list[Step]) -> None:
    check_order_of_strangers(root, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@many
@given(actions)
def test_the_order_of_what_authors_write_is_the_document_s_in_many_stories(story: list[Action]) -> None:
    check_order_of_authors(story)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@many
@given(roots, deletions | changes)
def test_the_order_of_what_strangers_write_is_the_document_s_in_many_stories(root: str, history: list[Step]) -> None:
    check_order_of_strangers(root, history)


# States


def check_settled(doc: Doc[object], known: ItemParents) -> Settlement:
    """A state shows what its document showed, and holds what lives and nothing else, in one way only."""
    raw = bury_settled(canonical_update(doc.get_update()), known.dump()).update
    state = settle(doc, known)
    assert state.update == canonical_update(raw) == canonical_update(state.update)
    for made in (raw, state.update):
        kinds = {struct.kind for _, structs in clients_of(made) for struct in structs}
        assert Kind.DELETED not in kinds
        assert shown(document_of([made])) == shown(doc)

    anew = state.known()
    assert anew.ends() == known.ends()
    living = ids_of(ordered(document_of([state.update]), anew))
    assert living == {root: ids for root, ids in _living(doc, known).items() if ids}
    again = settle(document_of([state.update]), anew)
    assert again == Settlement(state.update, [])
    return state


def _living(doc: Doc[object], known: ItemParents) -> dict[str, list[ItemId]]:
    update = canonical_update(doc.get_update())
    found = ordered(document_of([update]), known)
    return ids_of({root: [block for block in blocks if block.lives] for root, blocks in found.items()})


def check_rounds_of_authors(stories: list[list[Action]]) -> None:
    """Authors go on with the state of all that they have written, again and again; it makes no difference to them."""
    authors = SequenceAuthors()
    for story in stories:
        authors.do(story)
        authors.meet()
        docs = [author.doc for author in authors.authors]
        [content] = {repr(shown(doc)) for doc in docs}
        states = [check_settled(author.doc, author.items) for author in authors.authors]
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
        state = check_settled(doc, strangers.known)
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
