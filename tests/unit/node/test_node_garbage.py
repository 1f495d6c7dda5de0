from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lattica.node.garbage import CollectorPace


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_nodes_raise_the_threshold_and_the_last_puts_it_back() -> None:
    pace = CollectorPace()
    with pace.rarer(10_000):
        with pace.rarer(20_000):
            assert gc.get_threshold() == (20_000, 10, 10)
        assert gc.get_threshold() == (20_000, 10, 10)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [0, 50_000])
def test_a_program_that_has_its_own_threshold_keeps_it(own: int) -> None:
    gc.set_threshold(own, 10, 10)
    with CollectorPace().rarer(10_000):
        assert gc.get_threshold() == (own, 10, 10)
    assert gc.get_threshold() == (own, 10, 10)


def test_what_the_program_sets_meanwhile_stays() -> None:
    with CollectorPace().rarer(10_000):
        gc.set_threshold(0)
    assert gc.get_threshold()[0] == 0


def test_zero_leaves_it_as_it_is() -> None:
    with CollectorPace().rarer(0):
        assert gc.get_threshold() == (700, 10, 10)
    assert gc.get_threshold() == (700, 10, 10)


def test_it_is_put_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), CollectorPace().rarer(10_000):
        raise ValueError("x")
    assert gc.get_threshold() == (700, 10, 10)
