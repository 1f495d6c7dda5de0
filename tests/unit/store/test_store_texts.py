"""Texts of one document."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from document_replicas import Replica
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Text

from lattica.errors import StoreUsageError, StoreValueError
from lattica.store import ReplicatedText

pieces = st.text(st.sampled_from("aé😀\u0301\0\n漢"), max_size=4)
steps = st.lists(st.tuples(st.sampled_from("id"), st.integers(-2, 12), st.integers(-2, 12), pieces), max_size=12)


@given(steps)
def test_positions_are_in_characters_and_none_is_cut(story: list[tuple[str, int, int, str]]) -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes")
    model = ""

    with replica.transaction():
        for action, start, stop, piece in story:
            model = (
                insert_alike(notes, model, start, piece) if action == "i" else delete_alike(notes, model, start, stop)
            )
            assert str(notes) == model
            assert len(notes) == len(model)

    copy = Replica(1, 2)
    copy.write(replica.ydoc.get_update())
    assert str(ReplicatedText(copy, "notes")) == model


def insert_alike(notes: ReplicatedText, model: str, where: int, piece: str) -> str:
    if not 0 <= where <= len(model):
        with pytest.raises(IndexError, match=f"notes has {len(model)} characters; there is no place {where}"):
            notes.insert(where, piece)
        return model
    notes.insert(where, piece)
    return model[:where] + piece + model[where:]


def delete_alike(notes: ReplicatedText, model: str, start: int, stop: int) -> str:
    if not 0 <= start <= stop <= len(model):
        with pytest.raises(IndexError, match="there is no place"):
            notes.delete(start, stop)
        return model
    notes.delete(start, stop)
    return model[:start] + model[stop:]


def test_text_that_cannot_be_kept_changes_nothing() -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes", max_bytes=10)
    with replica.transaction():
        notes.append("abc")
        with pytest.raises(StoreValueError, match="surrogate"):
            notes.append("\ud83d")
        with pytest.raises(StoreValueError, match="it has 12 bytes, and may have 10"):
            notes.append("é" * 6)
        with pytest.raises(StoreValueError, match="a plain string is needed"):
            notes.append(b"x")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            notes.insert("0", "x")  # type: ignore[arg-type]

    assert str(notes) == "abc"


def test_writing_a_text_needs_a_transaction() -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes")
    with replica.transaction():
        notes.append("abc")

    writes: list[Callable[[], object]] = [
        lambda: notes.append("d"),
        lambda: notes.append(""),
        lambda: notes.delete(0, 0),
        notes.clear,
    ]
    for write in writes:
        with pytest.raises(StoreUsageError, match="transaction"):
            write()

    assert str(notes) == "abc"


def test_clearing_a_text_leaves_nothing() -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes")
    with replica.transaction():
        notes.append("a😀b")
        notes.clear()

    assert str(notes) == ""


objects = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=4)


@given(objects, st.integers(0, 4), st.integers(0, 4))
def test_formats_and_objects_of_other_programs_do_not_shift_positions(
    inserted: list[tuple[int, bool]], start: int, stop: int
) -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes")
    with replica.transaction():
        notes.append("a😀éb")
        shared = replica.ydoc.get("text:notes", type=Text)
        for where, is_format in inserted:
            if is_format:
                shared.format(1, 5, {"bold": True})
            else:
                # At the ends and around the character of four bytes: never within one.
                shared.insert_embed([0, 1, len(shared)][where % 3], {"image": where})
    assert str(notes) == "a😀éb"

    with replica.transaction():
        notes.insert(start, "漢")
        model = "a😀éb"[:start] + "漢" + "a😀éb"[start:]
        assert str(notes) == model
        low, high = sorted((start, stop))
        notes.delete(low, high)

    assert str(notes) == model[:low] + model[high:]


def test_deleting_leaves_the_objects_beside_what_is_deleted() -> None:
    replica = Replica()
    notes = ReplicatedText(replica, "notes")
    shared = replica.ydoc.get("text:notes", type=Text)
    with replica.transaction():
        notes.append("abc")
        shared.insert_embed(1, {"image": 1})
        shared.insert_embed(3, {"image": 2})
        notes.delete(1, 2)
        notes.insert(1, "x")

    assert [content for content, _ in shared.diff()] == ["ax", {"image": 1.0}, {"image": 2.0}, "c"]
