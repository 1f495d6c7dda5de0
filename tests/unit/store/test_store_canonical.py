"""Equal documents have equal bytes, in canonical form."""

from __future__ import annotations

import random
from typing import Any

from document_authors import Authors
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text

from lattica.store.canonical import canonical_update, ordered_update
from lattica.store.yupdate import find_blocks, read_update

steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 255)), min_size=1, max_size=60)


@settings(deadline=None)
@given(steps)
def test_blocks_are_found_where_a_strict_reader_finds_them(story: list[tuple[int, int, int]]) -> None:
    authors = Authors()
    authors.do(story)
    for raw in [*(written.update for written in authors.log), *(author.doc.get_update() for author in authors.authors)]:
        structs, deletions, _ = find_blocks(raw)
        found = read_update(raw)
        assert list(structs) == list(found.structs)
        assert list(deletions) == list(found.deletions)
        places = [*structs.values(), *deletions.values()]
        assert max((end for _, end in places), default=1) == len(raw) - (not deletions)
        for client, (start, end) in structs.items():
            assert read_update(b"\1" + raw[start:end] + b"\0").structs == {client: found.structs[client]}
        for client, (start, end) in deletions.items():
            assert read_update(b"\0\1" + raw[start:end]).deletions == {client: found.deletions[client]}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), values), max_size=20), st.randoms())
def test_documents_of_the_same_updates_have_the_same_bytes(
    writes: list[tuple[int, str, object]], chance: random.Random
) -> None:
    """yrs writes mappings in another order each time."""
    docs: list[Doc[Any]] = [Doc(client_id=client) for client in (2, 2**40, 5)]
    for who, key, value in writes:
        docs[who].get("map:m", type=Map)[key] = value
        docs[who].get("list:l", type=Array).append(value)
        text = docs[who].get("text:t", type=Text)
        text.insert(len(text), key, {"bold": {"a": 1, "b": 2, "c": 3}})
        if chance.random() < 0.3:
            docs[who].apply_update(chance.choice(docs).get_update())
    updates = [doc.get_update() for doc in docs]
    found = set()
    for _ in range(3):
        copy: Doc[Any] = Doc()
        for update in chance.sample(updates, 3):
            copy.apply_update(update)
        found.add(canonical_update(copy.get_update()))
    [canonical] = found
    again: Doc[Any] = Doc()
    again.apply_update(canonical)
    assert canonical_update(again.get_update()) == canonical
    assert again.get("map:m", type=Map).to_py() == copy.get("map:m", type=Map).to_py()
    assert again.get("list:l", type=Array).to_py() == copy.get("list:l", type=Array).to_py()
    assert again.get("text:t", type=Text).diff() == copy.get("text:t", type=Text).diff()


def test_the_clients_are_in_order() -> None:
    one, other = b"\1\7\0" + b"\x08\1\1a\1\x7c\0\0\0\0", b"\1\3\0" + b"\x08\1\1b\1\x7c\0\0\0\0"
    deletions = b"\2" + b"\7\1\0\1" + b"\3\1\0\1"
    assert ordered_update(b"\2" + one + other + deletions) == b"\2" + other + one + b"\2" + b"\3\1\0\1" + b"\7\1\0\1"
