"""Lists of one document."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from document_replicas import Replica
from hypothesis import given
from hypothesis import strategies as st
from yjs_bytes import item, text, update

from lattica.errors import StoreUsageError, StoreValueError
from lattica.store import ReplicatedList

places = st.none() | st.integers(-9, 9)
slices = st.builds(slice, places, places, st.sampled_from([None, 1, 2, -1, -3]))
steps = st.lists(
    st.tuples(st.just("insert"), st.integers(-9, 9))
    | st.tuples(st.just("delete"), st.integers(-9, 9) | slices)
    | st.tuples(st.just("extend"), st.integers(0, 3)),
    max_size=12,
)


@given(steps, slices)
def test_a_list_does_as_pythons_do_within_its_bounds(story: list[tuple[str, int | slice]], read: slice) -> None:
    replica = Replica()
    layers = ReplicatedList(replica, "layers")
    model: list[int] = []

    with replica.transaction():
        for value, (action, where) in enumerate(story):
            if action == "extend" and isinstance(where, int):
                layers.extend(range(value, value + where))
                model.extend(range(value, value + where))
            elif action == "insert" and isinstance(where, int):
                insert_alike(layers, model, where, value)
            else:
                delete_alike(layers, model, where)
            assert layers.to_list() == model

    assert layers[read] == model[read]
    assert list(layers) == model
    assert [layers[index] for index in range(-len(model), len(model))] == model * 2


def insert_alike(layers: ReplicatedList, model: list[int], where: int, value: int) -> None:
    if -len(model) <= where <= len(model):
        layers.insert(where, value)
        model.insert(where, value)
    else:
        with pytest.raises(IndexError):
            layers.insert(where, value)


def delete_alike(layers: ReplicatedList, model: list[int], where: int | slice) -> None:
    if isinstance(where, slice) or -len(model) <= where < len(model):
        del layers[where]
        del model[where]
    else:
        with pytest.raises(IndexError):
            del layers[where]


def test_an_element_that_is_not_there_cannot_be_read() -> None:
    layers = ReplicatedList(Replica(), "layers")

    for index in (0, -1, 2**70):
        with pytest.raises(IndexError):
            layers[index]
    with pytest.raises(TypeError):
        layers["a"]  # type: ignore[call-overload]


def test_a_list_is_extended_by_all_values_or_none() -> None:
    replica = Replica()
    layers = ReplicatedList(replica, "layers")

    with replica.transaction():
        layers.append("a")
        with pytest.raises(StoreValueError, match=r"^layers\[2\]: a set cannot be kept"):
            layers.extend(["b", {"c"}])  # type: ignore[list-item]

    assert layers.to_list() == ["a"]


def test_writing_a_list_needs_a_transaction() -> None:
    replica = Replica()
    layers = ReplicatedList(replica, "layers")
    with replica.transaction():
        layers.append(1)

    writes: list[Callable[[], object]] = [
        lambda: layers.append(2),
        lambda: layers.extend([]),
        layers.clear,
        lambda: layers.__delitem__(0),
    ]
    for write in writes:
        with pytest.raises(StoreUsageError, match="transaction"):
            write()

    assert layers.to_list() == [1]


def test_what_is_read_from_a_list_is_a_copy() -> None:
    replica = Replica()
    layers = ReplicatedList(replica, "layers")
    with replica.transaction():
        layers.append([1])

    layers.to_list().clear()
    first = layers[0]
    assert isinstance(first, list)
    first.append(2)

    assert layers.to_list() == [[1]]


def test_a_list_survives_the_replacement_of_its_document() -> None:
    replica = Replica()
    layers = ReplicatedList(replica, "layers")
    with replica.transaction():
        layers.extend("ab")
    elements = iter(layers)
    replica.rebuild()
    with replica.transaction():
        del layers[0]

    assert layers.to_list() == ["b"]
    assert list(elements) == ["a", "b"]


def test_what_other_programs_put_into_a_list_can_be_read() -> None:
    replica = Replica()
    replica.write(
        update(
            {
                7: (0, [item(7, b"\x01", root="list:l")]),
                6: (0, [item(9, text("guid") + b"\x76\x00", root="list:l")]),
                5: (0, [item(4, text("ab"), root="list:l")]),
                4: (0, [item(8, b"\x02\x7d\x05\x7f", root="list:l")]),
                3: (0, [item(8, b"\x01\x7d\x05", root="list:l", key="a")]),
            }
        )
    )
    found = ReplicatedList(replica, "l")

    assert found.to_list() == [5, None, "a", "b", None, None]
    with replica.transaction():
        found.clear()
    assert len(found) == 0
