"""Damaged and hostile updates: one error or none, and a document takes what was accepted, where it was said to go."""

from __future__ import annotations

from document_authors import ACTIONS, CLIENTS, Author, Authors
from hypothesis import given
from hypothesis import strategies as st
from yjs_bytes import item, text, update

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import YUpdate, read_update
from lattica.store.yupdate_places import ItemParents, Place

STRANGER = 77
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 5), st.integers(0, 255)), min_size=1, max_size=40
)
damages = st.lists(st.tuples(st.sampled_from("rid"), st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
item_ids = st.tuples(st.sampled_from((*CLIENTS, STRANGER)), st.integers(0, 60))
contents = st.sampled_from([(4, text("😀z")), (8, b"\x01\x7e"), (7, b"\x01"), (7, b"\x02"), (1, b"\x02"), (3, text("b"))])
hostile_items = st.tuples(
    contents,
    st.sampled_from(["map", "array", "text", "xml"]),
    st.sampled_from([None, "red", "green"]),
    st.none() | item_ids,
    st.none() | item_ids,
    st.none() | item_ids,
)


def damaged(raw: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(raw)
    for how, where, value in damage:
        at = where % (len(out) + 1)
        if how == "r":
            out[at : at + 1] = bytes([value])
        elif how == "i":
            out.insert(at, value)
        else:
            del out[at : at + value % 4]
    return bytes(out)


def parts(author: Author) -> dict[Place, object]:
    """What the author's document holds, by place; lists, text and XML have no keys."""
    found: dict[Place, object] = {
        Place("array", None): author.array.to_py(),
        Place("text", None): author.text.diff(),
        Place("xml", None): "".join(sorted(str(author.xml))),
    }
    for key, value in (author.map.to_py() or {}).items():
        found[Place("map", key)] = value
    return {place: comparable(value) for place, value in found.items()}


def comparable(value: object) -> str:
    """As text, since subdocuments and mappings have no equality and no order."""
    if isinstance(value, dict):
        return str(sorted((key, comparable(inner)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return str([comparable(inner) for inner in value])
    return type(value).__name__ if type(value).__module__.startswith("pycrdt") else repr(value)


def replica_of(authors: Authors) -> tuple[Author, ItemParents]:
    """A replica that knows all of the log, and where everything in it is."""
    replica = Author(STRANGER + 1)
    index = ItemParents()
    for written in authors.log:
        replica.doc.apply_update(written.update)
        index.accept(read_update(written.update))
    return replica, index


def apply_if_placed(authors: Authors, found: YUpdate, raw: bytes) -> None:
    """If the index places it, a document takes it, and nothing changes in other places."""
    replica, index = replica_of(authors)
    try:
        touched = index.roots_touched(found)
    except DocumentUpdateError:
        return
    before = parts(replica)
    replica.doc.apply_update(raw)
    after = parts(replica)
    assert {place for place in before | after if before.get(place) != after.get(place)} <= touched
    assert read_update(replica.doc.get_update()).needs() == {}


@given(steps, st.integers(0, 1 << 16), damages)
def test_damaged_updates_are_refused_or_do_what_is_said(
    story: list[tuple[int, int, int]], which: int, damage: list[tuple[str, int, int]]
) -> None:
    authors = Authors()
    authors.do(story)
    if not authors.log:
        return
    at = which % len(authors.log)
    raw = damaged(authors.log.pop(at).update, damage)
    del authors.log[at:]
    try:
        found = read_update(raw)
    except DocumentUpdateError:
        return
    apply_if_placed(authors, found, raw)


@given(steps, st.integers(0, 1 << 16))
def test_updates_cut_short_are_refused(story: list[tuple[int, int, int]], where: int) -> None:
    authors = Authors()
    authors.do(story)
    for written in authors.log:
        cut = written.update[: where % len(written.update)]
        try:
            read_update(cut)
        except DocumentUpdateError:
            continue
        raise AssertionError(cut)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        found = read_update(raw)
    except DocumentUpdateError:
        return
    assert found.needs() is not None


@given(steps, st.lists(hostile_items, max_size=4), st.lists(item_ids, max_size=3, unique_by=lambda one: one[0]))
def test_items_hung_anywhere_go_where_is_said(
    story: list[tuple[int, int, int]], hostile: list[tuple], deleted: list[tuple[int, int]]
) -> None:
    authors = Authors()
    authors.do(story)
    items = [
        item(kind, content, root=root, key=key, parent=parent, origin=origin, right=right)
        for (kind, content), root, key, parent, origin, right in hostile
    ]
    structs = {STRANGER: (0, items)} if items else {}
    raw = update(structs, {client: [(clock, 1 + clock % 3)] for client, clock in deleted})
    try:
        found = read_update(raw)
    except DocumentUpdateError:
        return
    apply_if_placed(authors, found, raw)
