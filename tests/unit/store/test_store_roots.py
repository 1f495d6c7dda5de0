"""Names of roots: made and read alike, and refused when they could not be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import DocumentUpdateError, StoreUsageError
from lattica.store import Counter, OwnMap, Register, ReplicatedList, ReplicatedMap, ReplicatedSet, ReplicatedText
from lattica.store.roots import MAX_NAME_BYTES, RootKind, TextRoots, parse_root, root_name

BAD_NAMES = ["", "a\n", "\x7f", "a\u2028b", "\ud800", "x" * 201, "é" * 101]


@given(st.sampled_from(RootKind), st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_a_root_is_named_by_kind_and_name(kind: RootKind, name: str) -> None:
    if len(name.encode()) <= MAX_NAME_BYTES:
        assert parse_root(root_name(kind, name)) == (kind, name)


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        (Counter, "counter:"),
        (OwnMap, "own:"),
        (Register, "register:"),
        (ReplicatedList, "list:"),
        (ReplicatedMap, "map:"),
        (ReplicatedSet, "set:"),
        (ReplicatedText, "text:"),
    ],
)
def test_prefixes_are_what_stored_documents_hold(container: type[ReplicatedMap], prefix: str) -> None:
    assert f"{container.KIND}:" == prefix


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_not_be_shown_are_refused(name: str) -> None:
    with pytest.raises(StoreUsageError, match="choose another name"):
        root_name(RootKind.MAP, name)
    with pytest.raises(DocumentUpdateError):
        parse_root(f"map:{name}")


@pytest.mark.parametrize("text", ["settings", "MAP:settings", "xml:page", ":a", ""])
def test_a_root_of_no_known_kind_is_refused(text: str) -> None:
    with pytest.raises(DocumentUpdateError, match="tells no kind"):
        parse_root(text)


def test_the_reader_of_updates_can_ask_which_roots_are_texts() -> None:
    texts = TextRoots()

    assert root_name(RootKind.TEXT, "notes") in texts
    assert root_name(RootKind.LIST, "text") not in texts
    assert "text" not in texts
    assert 5 not in texts
