"""Values of documents: what is read equals what was written, or nothing is written."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict, namedtuple
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, XmlFragment

from lattica.errors import StoreValueError
from lattica.store.values import MAX_DEPTH, check_key, check_text, decode_value, encode_value
from lattica.store.yupdate import read_update

Pair = namedtuple("Pair", ["left", "right"])


class Color(IntEnum):
    RED = 1


BORDERS = [0, 2**53, 2**63, 2**31, 2**24]
integers = st.sampled_from(
    sorted(
        {
            sign * border + step
            for border in BORDERS
            for sign in (1, -1)
            for step in (-2, -1, 0, 1, 2)
            if -(2**63) <= sign * border + step < 2**63
        }
    )
) | st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=True) | integers.map(float) | st.just(2.0**63)
keys = st.text(max_size=8) | st.sampled_from(["$float", "$tuple", "$dict", "__proto__", ""])
scalars = st.none() | st.booleans() | integers | floats | st.text(max_size=8) | st.binary(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def exact(value: object) -> object:
    """The value with its types, so that equal means the same."""
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, (list, tuple)):
        return type(value), [exact(one) for one in value]
    if isinstance(value, dict):
        return dict, {key: exact(one) for key, one in value.items()}
    return type(value), value


def through_documents(plain: object) -> object:
    """Write, send to another document, and from there to a third."""
    first: Doc[Any] = Doc(client_id=1)
    first.get("map:m", type=Map)["k"] = plain
    first.get("list:l", type=Array).append(plain)
    second: Doc[Any] = Doc(client_id=2)
    second.apply_update(first.get_update())
    third: Doc[Any] = Doc(client_id=3)
    third.apply_update(second.get_update())
    found: Map[Any] = third.get("map:m", type=Map)
    assert exact(decode_value(found["k"])) == exact(decode_value(third.get("list:l", type=Array)[0]))
    return found["k"]


@given(values)
@example(2**63 - 1)
@example(2.0**63)
@example([1, 1.0, -0.0, 0.0, True])
@example({"$dict": {"$dict": {"$float": 1}}})
@example({"$float": 1.0})
def test_what_is_read_equals_what_was_written_in_type_too(value: object) -> None:
    read = decode_value(through_documents(encode_value(value, "value")))

    assert exact(read) == exact(value)


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        pytest.param(3.0, 3, id="whole number"),
        pytest.param(-0.0, -0.0, id="negative zero"),
        pytest.param({"$float": "x"}, {"$float": "x"}, id="mark without its number"),
        pytest.param({"$float": True}, {"$float": True}, id="mark with a truth value"),
        pytest.param({"$tuple": 1.0}, {"$tuple": 1}, id="mark without its list"),
        pytest.param({"$dict": [1.0]}, {"$dict": [1]}, id="mark without its dictionary"),
        pytest.param(1e300, 1e300, id="beyond 64 bits"),
        pytest.param(object(), None, id="unknown"),
        pytest.param([Doc(), XmlFragment()], [None, None], id="shared types"),
    ],
)
def test_what_other_programs_write_is_read(raw: object, read: object) -> None:
    assert exact(decode_value(raw)) == exact(read)


def test_keys_are_read_in_one_order() -> None:
    raw = through_documents(encode_value(dict.fromkeys("hgfedcba"), "value"))

    assert list(decode_value(raw)) == list("abcdefgh")  # type: ignore[arg-type]


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def marked(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = (value,)
    return value


def endless() -> object:
    cycle: list[object] = []
    cycle.extend([cycle, cycle])
    return cycle


def wide() -> object:
    value: object = "x"
    for _ in range(MAX_DEPTH - 1):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({"a": [1, 2, 3, {4}]}, "settings['a'][3]: a set cannot be kept", id="set"),
        pytest.param([np.float32(1)], "settings[0]: a numpy.float32 cannot be kept", id="numpy"),
        pytest.param(np.float64(1), "settings: a numpy.float64 would come back as float", id="numpy's float"),
        pytest.param(np.bool_(True), "settings: a numpy.bool cannot be kept", id="numpy's bool"),
        pytest.param([Color.RED], "would come back as int; convert it with int()", id="enum"),
        pytest.param(Pair(1, 2), "would come back as tuple", id="named tuple"),
        pytest.param(OrderedDict(a=1), "settings: a collections.OrderedDict would come back as dict", id="ordered"),
        pytest.param(bytearray(b"x"), "settings: a bytearray cannot be kept", id="bytearray"),
        pytest.param({"a": {1: 2}}, "settings['a']: its key 1 is no plain string", id="key"),
        pytest.param({math.nan: 2}, "settings: its key nan is no plain string", id="nan as key"),
        pytest.param({10**9999: 2}, "settings: its key of type int is no plain string", id="endless key"),
        pytest.param({(1, 2): 2}, "settings: its key of type tuple is no plain string", id="tuple as key"),
        pytest.param(["\ud83d"], "settings[0]: it has half of a surrogate pair", id="surrogate"),
        pytest.param({"\ud83d": 1}, "settings['\\ud83d']: it has half of a surrogate pair", id="surrogate in a key"),
        pytest.param({"x" * 99: {1}}, f"settings['{'x' * 40}'...]: a set cannot be kept", id="long key"),
        pytest.param([2**63], "settings[0]: an integer beyond 64 bits", id="large"),
        pytest.param([-(2**63) - 1], "settings[0]: an integer beyond 64 bits", id="low"),
        pytest.param(nested(MAX_DEPTH + 1), "it is nested more than 32 deep", id="deep"),
        pytest.param(endless(), "or holds itself", id="endless"),
        pytest.param(wide(), "the value has more than 65536 bytes here", id="wide"),
        pytest.param("x" * 65536, "settings: the value has more than 65536 bytes here", id="long text"),
        pytest.param({"a": b"x" * 65536}, "settings['a']: the value has more than 65536 bytes", id="long bytes"),
        pytest.param(["é" * 30000, "é" * 30000], "settings[1]: the value has more", id="long in UTF-8"),
        pytest.param(object, "settings: a type cannot be kept", id="class"),
    ],
)
def test_a_value_that_cannot_be_kept_is_refused_with_its_place(value: object, message: str) -> None:
    with pytest.raises(StoreValueError) as caught:
        encode_value(value, "settings")

    assert message in str(caught.value)


@pytest.mark.parametrize("value", [nested(MAX_DEPTH), marked(MAX_DEPTH // 2)])
def test_as_deep_as_allowed_can_be_written_and_passes_other_replicas(value: object) -> None:
    plain = encode_value(value, "value")

    assert decode_value(through_documents(plain)) == value
    doc: Doc[Any] = Doc(client_id=1)
    doc.get("map:m", type=Map)["k"] = plain
    assert read_update(doc.get_update()).structs


def test_what_is_kept_under_a_mark_is_deeper() -> None:
    with pytest.raises(StoreValueError, match="nested more than 32 deep"):
        encode_value(marked(MAX_DEPTH // 2 + 1), "value")


def written_size(plain: object) -> int:
    doc: Doc[Any] = Doc(client_id=1)
    doc.get("map:m", type=Map)["k"] = plain
    return len(doc.get_update())


@given(values)
def test_no_value_is_larger_than_it_was_counted(value: object) -> None:
    size = 1 + written_size(encode_value(value, "value")) - written_size(None)

    with pytest.raises(StoreValueError, match="more than"):
        encode_value(value, "value", size - 1)
    assert exact(encode_value(value, "value", 100 + 4 * size)) == exact(encode_value(value, "value"))


def test_what_was_written_is_a_copy() -> None:
    value = {"a": [1]}
    plain = encode_value(value, "value")
    value["a"].append(2)

    assert plain == {"a": [1]}


@pytest.mark.parametrize("key", [pytest.param(5, id="number"), "\udc00", "x" * 1025, "é" * 513])
def test_keys_and_texts_that_cannot_be_kept_are_refused(key: object) -> None:
    with pytest.raises(StoreValueError, match=r"^settings, key "):
        check_key(key, "settings")
    with pytest.raises(StoreValueError, match=r"^notes: "):
        check_text(key, "notes", 1024)
