"""Cached descriptors: few are open, and none is closed while somebody uses it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lattica.content.store_descriptors import DescriptorCache


@pytest.fixture
def opener(tmp_path: Path) -> Callable[[str], Callable[[], int]]:
    def opener_of(name: str) -> Callable[[], int]:
        (tmp_path / name).write_text(name)
        return lambda: os.open(tmp_path / name, os.O_RDONLY)

    return opener_of


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_file_is_opened_once(opener: Callable[[str], Callable[[], int]]) -> None:
    cache = DescriptorCache()
    with cache.use("a", opener("a")) as first, cache.use("a", lambda: pytest.fail("opened again")) as second:
        assert first == second
    cache.close()
    assert not is_open(first)


def test_the_one_used_longest_ago_makes_room(opener: Callable[[str], Callable[[], int]]) -> None:
    cache = DescriptorCache(2)
    numbers = {}
    for name in ("a", "b", "a", "c"):
        with cache.use(name, opener(name)) as numbers[name]:
            pass
    assert os.read(numbers["a"], 1) == b"a"
    assert os.read(numbers["c"], 1) == b"c"
    with cache.use("b", opener("b")) as number:
        assert os.read(number, 1) == b"b"
    cache.close()


def test_one_in_use_is_closed_when_its_last_user_is_done(opener: Callable[[str], Callable[[], int]]) -> None:
    cache = DescriptorCache(1)
    with cache.use("a", opener("a")) as outer:
        with cache.use("a", opener("a")), cache.use("b", opener("b")):
            cache.discard("a")
        assert is_open(outer)
        with cache.use("a", opener("a")) as again:
            assert again != outer
        cache.close()
        assert os.read(outer, 1) == b"a"
    assert not is_open(outer)
    cache.discard("a")


def test_one_that_cannot_be_opened_is_tried_again(opener: Callable[[str], Callable[[], int]]) -> None:
    def fail() -> int:
        raise FileNotFoundError

    cache = DescriptorCache()
    with pytest.raises(FileNotFoundError), cache.use("a", fail):
        pass
    with cache.use("a", opener("a")) as number:
        assert os.read(number, 1) == b"a"
    cache.close()
