"""The order of lists and texts is the one that documents have, and so it is with new neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_updates import (
    document_of,
    ids_of,
    no_items,
    ordered,
    shown,
    strings_of,
    take,
    without_deletions,
)
from pycrdt import Text
from sequence_authors import ACTIONS, SequenceAuthors
from sequence_strangers import Step, Strangers, changes, deletions
from yjs_bytes import item, text, update

from lattica.store.sequence import Block, in_order, neighbours_anew
from lattica.store.yupdate import ItemId
from lattica.store.yupdate_places import ItemParents
from lattica.store.yupdate_spans import clients_of

Id = tuple[int, int]
Action = tuple[int, int, int]

actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=50
)
roots = st.sampled_from(("list", "text"))

many = settings(deadline=None, max_examples=1000)
some = settings(deadline=None, max_examples=50)


def check_order(updates: list[bytes], known: ItemParents) -> None:
    """What is computed is what a document shows if nothing is deleted, and deletions change nothing."""
    full, undeleted = document_of(updates), document_of(map(without_deletions, updates))
    found = ordered(undeleted, known)
    raw = undeleted.get_update()
    names, parts = shown(undeleted)
    assert strings_of(raw, found.get("list", ())) == names
    assert "".join(strings_of(raw, found.get("text", ()))) == "".join(part for part, _ in parts)
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


def blocks_of(items: Mapping[int, list[bytes]]) -> tuple[bytes, list[Block]]:
    """Blocks as they are in an update, each client's in order of their clocks."""
    raw = update({client: (0, structs) for client, structs in items.items()})
    return raw, [Block(span.client, struct) for span, structs in clients_of(raw) for struct in structs]


def string(value: str, origin: Id | None = None, right: Id | None = None) -> bytes:
    return item(4, text(value), root="text", origin=origin, right=right)


@pytest.mark.parametrize(
    ("items", "order"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({5: [string("ab")], 3: [string("cd")]}, "cdab", id="the lower client first"),
        pytest.param({3: [string("ab")], 5: [string("c", (3, 0)), string("d", (3, 1))]}, "abdc", id="below the last"),
        pytest.param({3: [string("a"), string("b")]}, "ba", id="one client's later one first"),
        pytest.param(
            {3: [string("a")], 5: [string("b", (3, 0), None)], 9: [string("c", (3, 0), (5, 0))]}, "acb", id="its right"
        ),
        pytest.param(
            {3: [string("a")], 5: [string("b")], 9: [string("d", None, (3, 0))], 4: [string("c", None, (5, 0))]},
            "dacb",
            id="by the lowest in their chains",
        ),
        pytest.param({3: [string("a"), string("c", (3, 0))], 5: [string("b", (3, 0), (3, 1))]}, "abc", id="in a run"),
    ],
)
def test_blocks_are_ordered_as_a_document_orders_them(items: Mapping[int, list[bytes]], order: str) -> None:
    raw, blocks = blocks_of(items)
    assert "".join(strings_of(raw, in_order(blocks))) == order
    assert str(document_of([raw]).get("text", type=Text)) == order


def neighbours(*lists: Sequence[Block]) -> dict[Id, tuple[Id | None, Id | None]]:
    return {(*block,): near for block, near in neighbours_anew(lists).items()}


def test_who_lacks_neighbours_gets_those_of_a_lower_id() -> None:
    """As if they had been written by client 3, then 5, then 7, each client's in order of their clocks."""
    gone = {"origin": (9, 0), "right": (9, 1)}
    _, blocks = blocks_of(
        {
            5: [string("ab", **gone), string("c", **gone)],
            3: [string("de", **gone)],
            7: [string("f", **gone), string("g", **gone)],
        }
    )
    first_of_5, last_of_5, of_3, first_of_7, last_of_7 = blocks
    assert neighbours([last_of_7, last_of_5, of_3, first_of_7, first_of_5]) == {
        (7, 1): (None, (5, 2)),
        (5, 2): (None, (3, 0)),
        (3, 0): (None, None),
        (7, 0): ((3, 1), (5, 0)),
        (5, 0): ((3, 1), None),
    }
    assert neighbours() == neighbours([]) == {}


def test_who_has_all_neighbours_keeps_them() -> None:
    """Also where others of the same list lack some, in one or both directions."""
    _, blocks = blocks_of({3: [string("ab")], 5: [string("c", (3, 0), (3, 1)), string("d", (9, 0), (3, 0))]})
    of_3, of_5, last_of_5 = blocks
    split = [of_3.struct._replace(length=1), of_3.struct._replace(clock=1, length=1, origin=ItemId(3, 0))]
    found = neighbours([last_of_5, Block(3, split[0]), of_5, Block(3, split[1])])
    assert found == {(5, 1): (None, (3, 0)), (3, 0): (None, None), (5, 0): ((3, 0), (3, 1)), (3, 1): ((3, 0), None)}


def test_all_of_a_list_get_new_ones_if_the_order_does_not_follow_from_those_that_are_kept() -> None:
    """What 5 has kept says nothing, so that it would come after 3, which has a lower ID. Of the other list all stay."""
    _, blocks = blocks_of(
        {3: [string("a", (9, 0))], 4: [string("c"), string("d", (4, 0)), string("e", (4, 0), (4, 1))], 5: [string("b")]}
    )
    of_3, *other, of_5 = blocks
    kept = {(*block.first,): (block.struct.origin, block.struct.right_origin) for block in other}
    found = neighbours([of_5, of_3], [other[0], other[2], other[1]])
    assert found == kept | {(5, 0): (None, (3, 0)), (3, 0): (None, None)}


def test_all_of_a_list_get_new_ones_if_some_would_not_belong_where_they_are() -> None:
    """The order would follow; but 5 would come after 3 by its new neighbour, and 2 be before 5 and not after 3."""
    _, [of_2, of_3, of_5] = blocks_of({2: [string("x", None, (5, 0))], 3: [string("a")], 5: [string("r", (9, 0))]})
    assert neighbours([of_2, of_3, of_5]) == {(2, 0): (None, None), (3, 0): ((2, 0), None), (5, 0): ((3, 0), None)}


def test_all_get_new_ones_if_lists_would_wait_for_each_other() -> None:
    """In each of two lists the first one of a client has been put before the other client's last one."""
    _, blocks = blocks_of(
        {3: [string("a", None, (5, 1)), string("b")], 5: [string("c", None, (3, 1)), string("d")]},
    )
    first_of_3, last_of_3, first_of_5, last_of_5 = blocks
    assert neighbours([first_of_3, last_of_5], [first_of_5, last_of_3]) == {
        (3, 0): (None, None),
        (5, 1): ((3, 0), None),
        (5, 0): (None, (3, 1)),
        (3, 1): (None, None),
    }
