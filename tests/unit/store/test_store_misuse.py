"""Whatever is given to a container, it raises an ordinary error or does it; pycrdt's panics are no `Exception`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from document_replicas import Replica
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import StoreUsageError
from lattica.store import Counter, OwnMap, Register, ReplicatedList, ReplicatedMap, ReplicatedSet, ReplicatedText

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 5)
    | st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), -1])
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=4)
    | st.sampled_from(["😀", "\ud83d", "a", "value", object(), np.float64(1), np.int64(2), {1}, Replica])
    | st.binary(max_size=4)
    | st.builds(slice, st.none() | st.integers(-5, 5), st.none() | st.integers(), st.none() | st.integers(-1, 2)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)

# Mostly what gets past the first check.
arguments = st.one_of(
    st.integers(-3, 5),
    st.text(st.sampled_from("a😀\ud83d@\0"), max_size=3),
    st.builds(slice, st.none() | st.integers(-5, 5), st.none() | st.integers(), st.none() | st.integers(-1, 2)),
    anything,
)

CALLS: dict[str, Callable[[Replica, Any, Any], object]] = {
    "map set": lambda replica, one, two: ReplicatedMap(replica, "m").__setitem__(one, two),
    "map delete": lambda replica, one, two: ReplicatedMap(replica, "m").__delitem__(one),
    "map get": lambda replica, one, two: ReplicatedMap(replica, "m")[one],
    "map has": lambda replica, one, two: one in ReplicatedMap(replica, "m"),
    "map update": lambda replica, one, two: ReplicatedMap(replica, "m").update(one),
    "list get": lambda replica, one, two: ReplicatedList(replica, "l")[one],
    "list delete": lambda replica, one, two: ReplicatedList(replica, "l").__delitem__(one),
    "list insert": lambda replica, one, two: ReplicatedList(replica, "l").insert(one, two),
    "list append": lambda replica, one, two: ReplicatedList(replica, "l").append(one),
    "list extend": lambda replica, one, two: ReplicatedList(replica, "l").extend(one),
    "text insert": lambda replica, one, two: ReplicatedText(replica, "t").insert(one, two),
    "text append": lambda replica, one, two: ReplicatedText(replica, "t").append(one),
    "text delete": lambda replica, one, two: ReplicatedText(replica, "t").delete(one, two),
    "counter": lambda replica, one, two: Counter(replica, "c").add(one),
    "set add": lambda replica, one, two: ReplicatedSet(replica, "s").add(one),
    "set discard": lambda replica, one, two: ReplicatedSet(replica, "s").discard(one),
    "set has": lambda replica, one, two: one in ReplicatedSet(replica, "s"),
    "register": lambda replica, one, two: Register(replica, "r").set(one),
    "own set": lambda replica, one, two: OwnMap(replica, "o").set(one),
    "own get": lambda replica, one, two: OwnMap(replica, "o")[one],
    "name": lambda replica, one, two: ReplicatedMap(replica, one),
}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CALLS)), arguments, arguments), min_size=5, max_size=20))
def test_misuse_raises_ordinary_errors_and_leaves_the_document_readable(calls: list[tuple[str, Any, Any]]) -> None:
    replica = Replica()
    with replica.transaction():
        ReplicatedText(replica, "t").append("a😀b")
        ReplicatedList(replica, "l").extend([1, "😀"])
        for name, one, two in calls:
            with contextlib.suppress(StoreUsageError, LookupError, TypeError, ValueError):
                CALLS[name](replica, one, two)

    copy = Replica(1, 2)
    copy.write(replica.ydoc.get_update())
    for read in (lambda at: ReplicatedMap(at, "m").to_dict(), lambda at: ReplicatedList(at, "l").to_list()):
        assert repr(read(copy)) == repr(read(replica))
    assert str(ReplicatedText(copy, "t")) == str(ReplicatedText(replica, "t"))
    assert list(map(repr, ReplicatedSet(copy, "s"))) == list(map(repr, ReplicatedSet(replica, "s")))
