"""Sets of one document."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from document_replicas import Replica
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Map

from lattica.errors import StoreUsageError, StoreValueError
from lattica.store import Element, ReplicatedSet
from lattica.store.replicated_set import element_key

elements: st.SearchStrategy[Element] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 1)
    | st.text(st.sampled_from('a,()"\\x0@é😀\n'), max_size=4)
    | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def exact(element: Element) -> object:
    return tuple(exact(one) for one in element) if isinstance(element, tuple) else (type(element), element)


@given(st.lists(elements, max_size=6), st.lists(elements, max_size=3))
def test_a_set_holds_what_was_added_and_not_discarded(added: list[Element], discarded: list[Element]) -> None:
    replica = Replica()
    members = ReplicatedSet(replica, "members")
    with replica.transaction():
        for one in added:
            members.add(one)
        for one in [*discarded, *added[::2]]:
            members.discard(one)

    gone = {exact(one) for one in [*discarded, *added[::2]]}
    left = {exact(one) for one in added} - gone
    assert {exact(one) for one in members} == left
    assert len(members) == len(left)
    assert all((one in members) == (exact(one) in left) for one in [*added, *discarded])


@given(elements, elements)
def test_different_elements_have_different_keys(one: Element, other: Element) -> None:
    assert (element_key(one) == element_key(other)) == (exact(one) == exact(other))


@pytest.mark.parametrize(
    ("element", "message"),
    [
        pytest.param(1.5, "sets take None, bool, int", id="float"),
        pytest.param([1], "sets take None, bool, int", id="list"),
        pytest.param(("a", (1.5,)), "sets take None, bool, int", id="float in a tuple"),
        pytest.param({1}, "a set cannot be kept", id="set"),
        pytest.param("\ud800", "surrogate", id="surrogate"),
        pytest.param(2**63, "beyond 64 bits", id="large"),
        pytest.param("x" * 1024, "more than 1024 bytes", id="long"),
    ],
)
def test_an_element_that_cannot_be_kept_is_refused(element: object, message: str) -> None:
    replica = Replica()
    members = ReplicatedSet(replica, "members")
    with replica.transaction():
        with pytest.raises(StoreValueError, match=message):
            members.add(element)  # type: ignore[arg-type]
        members.discard(element)  # type: ignore[arg-type]

    assert element not in members
    assert len(members) == 0


def test_writing_a_set_needs_a_transaction() -> None:
    replica = Replica()
    members = ReplicatedSet(replica, "members")
    with replica.transaction():
        members.add("a")

    writes: list[Callable[[], object]] = [lambda: members.add("b"), lambda: members.discard("a"), members.clear]
    for write in writes:
        with pytest.raises(StoreUsageError, match="transaction"):
            write()

    assert members.to_set() == {"a"}


def test_clearing_a_set_leaves_nothing() -> None:
    replica = Replica()
    members = ReplicatedSet(replica, "members")
    with replica.transaction():
        members.add("a")
        members.clear()

    assert members.to_set() == set()


def test_what_is_not_under_its_own_key_does_not_count() -> None:
    replica = Replica()
    members = ReplicatedSet(replica, "members")
    with replica.transaction():
        shared = replica.ydoc.get("set:members", type=Map)
        shared['"a"@stranger'] = "a"
        shared['"b"@stranger'] = "c"
        shared['"d"'] = "d"
        shared["e"] = {"$tuple": 5}
        shared["[1]@stranger"] = [1]

    assert list(members) == ["a"]
    assert [one for one in ("a", "b", "c", "d", "e", [1]) if one in members] == ["a"]
