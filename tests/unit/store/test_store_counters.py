"""Counters of one document."""

from __future__ import annotations

import numpy as np
import pytest
from document_replicas import Replica
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Map

from lattica.errors import StoreUsageError, StoreValueError
from lattica.store import Counter


@given(st.lists(st.integers(-(2**62), 2**62), max_size=8))
def test_a_counter_is_the_sum_of_what_was_added(amounts: list[int]) -> None:
    replica = Replica()
    steps = Counter(replica, "steps")
    total = 0
    with replica.transaction():
        for amount in amounts:
            if -(2**63) <= total + amount < 2**63:
                steps.add(amount)
                total += amount
            else:
                with pytest.raises(StoreValueError, match="would not fit 64 bits"):
                    steps.add(amount)
            assert steps.value == total

    replica.rebuild()
    assert steps.value == total


@pytest.mark.parametrize("amount", [1.0, True, "1", None, np.int64(1), 2**63])
def test_only_integers_are_added(amount: object) -> None:
    replica = Replica()
    steps = Counter(replica, "steps")
    with replica.transaction():
        steps.add()
        with pytest.raises(StoreValueError, match="a counter takes integers of 64 bits, not this"):
            steps.add(amount)  # type: ignore[arg-type]

    assert steps.value == 1


def test_adding_needs_a_transaction() -> None:
    steps = Counter(Replica(), "steps")

    with pytest.raises(StoreUsageError, match="transaction"):
        steps.add(1)


@pytest.mark.parametrize("foreign", ["1", 1.5, True, None, [1.0], 1e300])
def test_what_is_no_integer_counts_as_zero(foreign: object) -> None:
    replica = Replica()
    steps = Counter(replica, "steps")
    with replica.transaction():
        shared = replica.ydoc.get("counter:steps", type=Map)
        shared["stranger"] = foreign
        shared[replica.author] = foreign
        steps.add(2)

    assert steps.value == 2
    assert steps.by_author() == {replica.author: 2}
