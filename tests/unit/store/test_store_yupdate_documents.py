"""The reader of Yjs updates against what documents write: each transaction's update, whole ones, merged ones."""

from __future__ import annotations

from document_authors import ACTIONS, Authors
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import merge_updates

from lattica.store.item_runs import Place
from lattica.store.yupdate import YUpdate, check_own, read_update
from lattica.store.yupdate_places import ItemParents
from lattica.store.yupdate_wire import read_uint

steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 5), st.integers(0, 255)), min_size=1, max_size=60
)


def clocks(state: bytes) -> dict[int, int]:
    """A state vector: each client's next clock."""
    count, at = read_uint(state, 0)
    found = {}
    for _ in range(count):
        client, at = read_uint(state, at)
        found[client], at = read_uint(state, at)
    return {client: clock for client, clock in found.items() if clock}


def ends(update: YUpdate) -> dict[int, int]:
    return {client: update.span(client)[1] for client in update.structs}


@settings(deadline=None)
@given(steps)
def test_a_transactions_update_holds_what_its_author_wrote(story: list[tuple[int, int, int]]) -> None:
    authors = Authors()
    authors.do(story)

    for written in authors.log:
        found = read_update(written.update)
        before, after = clocks(written.before), clocks(written.after)
        assert check_own(found, written.client, before.get(written.client, 0)) == after.get(written.client, 0)
        assert found.deletions == read_update(b"\0" + written.deleted).deletions
        assert all(end <= before.get(client, 0) for client, end in found.needs().items())


@settings(deadline=None)
@given(steps)
def test_the_places_touched_are_those_that_were_written(story: list[tuple[int, int, int]]) -> None:
    authors = Authors()
    authors.do(story)
    index = ItemParents(texts={"text"})

    for written in authors.log:
        found = read_update(written.update)
        touched = index.roots_touched(found)
        index.accept(found)
        assert {place.root for place in touched} <= {written.root}
        if written.root == "map" and written.key is not None:
            assert touched <= {Place("map", written.key)}
        if any(struct.parent == written.root for structs in found.structs.values() for struct in structs):
            assert touched


@settings(deadline=None)
@given(steps)
def test_whole_and_merged_updates_are_read_and_placed(story: list[tuple[int, int, int]]) -> None:
    authors = Authors()
    authors.do(story)
    for author in authors.authors[1:]:
        authors.take_over(authors.authors[0], author)
    doc = authors.authors[0].doc
    expected = clocks(doc.get_state())

    whole = read_update(doc.get_update())
    assert ends(whole) == expected
    assert whole.needs() == {}
    whole_index = ItemParents(texts={"text"})
    whole_index.accept(whole)

    if authors.log:
        merged = read_update(merge_updates(*(written.update for written in authors.log)))
        assert ends(merged) == expected
        index = ItemParents(texts={"text"})
        index.accept(merged)
        assert {client: index.end(client) for client in expected} == expected
