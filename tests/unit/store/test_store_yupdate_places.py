"""Which roots and keys an update touches, and what is refused because of where it would go."""

from __future__ import annotations

import pytest
from yjs_bytes import item, text, update

from lattica.errors import DocumentUpdateError
from lattica.store.item_runs import Holder, Place, Run, Within
from lattica.store.yupdate import ItemId, read_update
from lattica.store.yupdate_places import ItemParents

VALUE = b"\x01\x7e"
ANY, STRING, TYPE, MAP, TEXT = 8, 4, 7, b"\x01", b"\x02"
SETTINGS = Place("settings", "red")
NOTES = Place("notes", None)
LIST = Place("list", None)


@pytest.fixture
def index() -> ItemParents:
    """Client 7's: settings["red"], a map (0) with a text (1); a list of two values (2, 3); notes: "a😀" (4 to 6)."""
    known = ItemParents(texts={"notes"})
    items = [
        item(TYPE, MAP, root="settings", key="red"),
        item(TYPE, TEXT, parent=(7, 0), key="inner"),
        item(ANY, b"\x02\x7e\x7e", root="list"),
        item(STRING, text("a😀"), root="notes"),
    ]
    known.accept(read_update(update({7: (0, items)})))
    return known


def touched(index: ItemParents, *items: bytes, deleted: tuple[tuple[int, int], ...] = ()) -> set[Place]:
    return index.roots_touched(read_update(update({8: (0, items)} if items else {}, {7: deleted} if deleted else {})))


def test_an_item_of_a_root_touches_it(index: ItemParents) -> None:
    assert touched(index, item(ANY, VALUE, root="settings", key="new")) == {Place("settings", "new")}
    assert touched(index, item(ANY, VALUE, root="list")) == {LIST}


def test_items_below_a_key_touch_that_key(index: ItemParents) -> None:
    assert touched(index, item(ANY, VALUE, parent=(7, 0), key="deep")) == {SETTINGS}
    assert touched(index, item(STRING, text("x"), parent=(7, 1))) == {SETTINGS}


def test_items_between_others_are_where_those_are(index: ItemParents) -> None:
    assert touched(index, item(ANY, VALUE, origin=(7, 0))) == {SETTINGS}
    assert touched(index, item(ANY, VALUE, origin=(7, 2), right=(7, 3))) == {LIST}
    assert touched(index, item(STRING, text("x"), right=(7, 4))) == {NOTES}


def test_deleting_touches_what_the_deleted_is_in(index: ItemParents) -> None:
    assert touched(index, deleted=((1, 1),)) == {SETTINGS}
    assert touched(index, deleted=((3, 2),)) == {LIST, NOTES}
    assert touched(index, deleted=((0, 1), (5, 2))) == {SETTINGS, NOTES}


def test_deleting_what_the_update_itself_brings_touches_its_place(index: ItemParents) -> None:
    raw = update({8: (0, [item(ANY, VALUE, root="list"), b"\0\x02"])}, {8: [(1, 2)]})

    assert index.roots_touched(read_update(raw)) == {LIST}


def test_what_was_sent_as_garbage_is_nowhere(index: ItemParents) -> None:
    index.accept(read_update(update({8: (0, [b"\0\x03"])})))

    assert index.find(ItemId(8, 2)) == Run(2, 3, None, Within.UNKNOWN, Holder.UNKNOWN)
    assert index.roots_touched(read_update(update({}, {8: [(0, 3)]}))) == set()
    assert touched(index) == set()


def test_between_neighbours_nowhere_an_item_is_nowhere(index: ItemParents) -> None:
    index.accept(read_update(update({9: (0, [b"\0\x02"])})))

    assert touched(index, item(ANY, VALUE, origin=(9, 0), right=(9, 1))) == set()


@pytest.mark.parametrize(("origin", "right"), [((9, 0), (7, 2)), ((7, 2), (9, 0))])
def test_what_refers_to_garbage_is_garbage_wherever_else_it_was_to_be(
    index: ItemParents, origin: tuple[int, int], right: tuple[int, int]
) -> None:
    index.accept(read_update(update({9: (0, [b"\0\x01"])})))
    structs = [
        item(ANY, VALUE, origin=origin, right=right),
        item(ANY, VALUE, origin=(8, 0)),
        item(ANY, VALUE, origin=(7, 2)),
    ]

    placement = index.place(read_update(update({8: (0, structs)})))

    assert placement.displaced == {8: {0: None, 1: None}}
    assert [run.place for run in placement.runs[8]] == [None, None, index.find(ItemId(7, 2)).place]
    index.add(placement)
    assert index.find(ItemId(8, 1)) == Run(1, 2, None, Within.UNKNOWN, Holder.UNKNOWN)


@pytest.mark.parametrize(
    ("struct", "reason"),
    [
        pytest.param(item(ANY, VALUE, origin=(7, 7)), "nobody has written", id="unknown neighbour"),
        pytest.param(item(ANY, VALUE, right=(9, 0)), "nobody has written", id="neighbour of an unknown client"),
        pytest.param(item(ANY, VALUE, parent=(7, 7)), "nobody has written", id="unknown parent"),
        pytest.param(item(ANY, VALUE, parent=(7, 2)), "holds nothing", id="parent is a value"),
        pytest.param(item(ANY, VALUE, origin=(7, 0), right=(7, 2)), "different places", id="between two places"),
        pytest.param(item(ANY, VALUE, right=(7, 0)), "before another", id="value before a key's last"),
        pytest.param(item(STRING, text("x"), right=(7, 6)), "cut in two", id="right half of a character"),
        pytest.param(item(STRING, text("x"), origin=(7, 5)), "cut in two", id="left half of a character"),
        pytest.param(item(STRING, text("x"), root="list"), "no text", id="text in a list"),
        pytest.param(item(STRING, text("x"), root="notes", key="red"), "no text", id="text as an attribute"),
        pytest.param(item(STRING, text("x"), parent=(7, 0), key="k"), "no text", id="text as a map's value"),
        pytest.param(item(5, text("1"), origin=(7, 2)), "no text", id="embed in a list"),
        pytest.param(item(ANY, VALUE, root="notes"), "a text holds", id="value in a text"),
        pytest.param(item(ANY, VALUE, parent=(7, 1)), "a text holds", id="value in a text below a map"),
        pytest.param(item(ANY, VALUE, right=(7, 4)), "a text holds", id="value before text"),
    ],
)
def test_an_item_that_cannot_be_there_is_refused_and_changes_nothing(
    index: ItemParents, struct: bytes, reason: str
) -> None:
    found = read_update(update({8: (0, [item(ANY, VALUE, root="list"), struct])}))

    for use in (index.roots_touched, index.accept):
        with pytest.raises(DocumentUpdateError, match=reason):
            use(found)
    assert index.end(8) == 0


@pytest.mark.parametrize(
    ("deleted", "reason"),
    [
        pytest.param((6, 2), "has not written", id="beyond the end"),
        pytest.param((6, 1), "cut in two", id="right half of a character"),
        pytest.param((4, 2), "cut in two", id="left half of a character"),
    ],
)
def test_deleting_what_cannot_be_deleted_is_refused(index: ItemParents, deleted: tuple[int, int], reason: str) -> None:
    with pytest.raises(DocumentUpdateError, match=reason):
        touched(index, deleted=(deleted,))


def test_cutting_a_character_that_the_update_brings_is_refused(index: ItemParents) -> None:
    items = [item(STRING, text("😀"), root="notes"), item(STRING, text("x"), origin=(8, 0))]

    with pytest.raises(DocumentUpdateError, match="cut in two"):
        touched(index, *items)


@pytest.mark.parametrize("first", [6, 8])
def test_a_client_goes_on_where_it_was(index: ItemParents, first: int) -> None:
    found = read_update(update({7: (first, [item(ANY, VALUE, root="list")])}))

    with pytest.raises(DocumentUpdateError, match=f"goes on at {first}, not at 7"):
        index.accept(found)


def test_without_knowing_the_roots_only_what_is_below_is_checked() -> None:
    index = ItemParents()
    index.accept(read_update(update({7: (0, [item(STRING, text("x"), root="list"), item(TYPE, MAP, root="list")])})))

    with pytest.raises(DocumentUpdateError, match="no text"):
        touched(index, item(STRING, text("x"), parent=(7, 1)))


def test_clients_of_one_update_may_refer_to_each_other() -> None:
    index = ItemParents()
    raw = update(
        {
            7: (0, [item(ANY, VALUE, root="list"), item(ANY, VALUE, origin=(8, 0))]),
            8: (0, [item(ANY, VALUE, origin=(7, 0)), item(ANY, VALUE, origin=(7, 1))]),
        }
    )

    index.accept(read_update(raw))

    assert index.find(ItemId(8, 1)).place == LIST


def test_clients_that_wait_for_each_other_are_refused() -> None:
    raw = update({7: (0, [item(ANY, VALUE, origin=(8, 0))]), 8: (0, [item(ANY, VALUE, origin=(7, 0))])})

    with pytest.raises(DocumentUpdateError, match="nobody has written"):
        ItemParents().accept(read_update(raw))
