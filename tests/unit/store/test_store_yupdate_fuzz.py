"""Damaged and hostile updates: one error or none, and a document takes what was accepted, where it was said to go."""

from __future__ import annotations

from document_authors import ACTIONS, CLIENTS, Author, Authors, Written
from hypothesis import given, settings
from hypothesis import strategies as st
from yjs_bytes import item, text, update

from lattica.errors import DocumentUpdateError
from lattica.store.burial import as_placed
from lattica.store.item_runs import Place
from lattica.store.yupdate import YUpdate, read_update
from lattica.store.yupdate_places import ItemParents

STRANGER = 77
Hostile = tuple[tuple[int, bytes], str, str | None, int | None, int | None, int | None]
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 5), st.integers(0, 255)), min_size=1, max_size=40
)
damages = st.lists(st.tuples(st.sampled_from("rid"), st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
neighbours = st.none() | st.integers(0, 1 << 16)
contents = st.sampled_from(
    [(4, text("😀z")), (8, b"\x01\x7e"), (7, b"\x01"), (7, b"\x02"), (1, b"\x02"), (3, text("b"))]
)
hostile_items = st.tuples(
    contents,
    st.sampled_from(["map", "array", "text", "xml"]),
    st.sampled_from([None, "red", "green"]),
    neighbours,
    neighbours,
    neighbours,
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
    for key in author.map:
        value = author.map[key]
        found[Place("map", key)] = value.to_py() if hasattr(value, "to_py") else value
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
    index = ItemParents(texts={"text"})
    for written in authors.log:
        replica.doc.apply_update(written.update)
        index.accept(read_update(written.update))
    return replica, index


def apply_if_placed(authors: Authors, found: YUpdate, raw: bytes) -> None:
    """If the index places it, a document takes it as placed, and nothing changes in other places."""
    replica, index = replica_of(authors)
    try:
        placement = index.place(found)
    except DocumentUpdateError:
        return
    before = parts(replica)
    replica.doc.apply_update(as_placed(raw, placement.displaced))
    after = parts(replica)
    assert {place for place in before | after if before.get(place) != after.get(place)} <= placement.touched
    assert_usable(replica)


def assert_usable(replica: Author) -> None:
    """Its document can be read, copied, and written further."""
    whole = replica.doc.get_update()
    assert read_update(whole).needs() == {}
    copy = Author(STRANGER + 2)
    copy.doc.apply_update(whole)
    assert parts(copy) == parts(replica)
    for action in range(ACTIONS):
        replica.write(action, 4)
    parts(replica)


def clocks_after(entry: Written, client: int) -> int:
    return read_update(entry.update).span(client)[1]


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        found = read_update(raw)
    except DocumentUpdateError:
        return
    assert found.needs() is not None


@settings(deadline=None)
@given(steps, st.lists(hostile_items, max_size=4), st.lists(st.integers(0, 1 << 16), max_size=3))
def test_items_hung_anywhere_go_where_is_said(
    story: list[tuple[int, int, int]], hostile: list[Hostile], deleted: list[int]
) -> None:
    authors = Authors()
    authors.do(story)
    written = [
        (client, clock)
        for client in CLIENTS
        for clock in range(max((clocks_after(entry, client) for entry in authors.log), default=0))
    ]

    def one(number: int | None) -> tuple[int, int] | None:
        if number is None:
            return None
        return written[number % len(written)] if written and number % 8 else (STRANGER, number % 4)

    items = [
        item(kind, content, root=root, key=key, parent=one(parent), origin=one(origin), right=one(right))
        for (kind, content), root, key, parent, origin, right in hostile
    ]
    deletions = {client: [(clock, 1)] for client, clock in filter(None, map(one, deleted))}
    raw = update({STRANGER: (0, items)} if items else {}, deletions)
    try:
        found = read_update(raw)
    except DocumentUpdateError:
        return
    apply_if_placed(authors, found, raw)
