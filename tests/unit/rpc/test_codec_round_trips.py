"""What is encoded arrives: any value of any type that can be declared, and what describes itself where none is."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Union
from uuid import UUID

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from lattica.rpc.codec import Codec


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    label: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Tagged:
    name: str
    extra: Any
    within: Tagged | None = None


class Record(msgspec.Struct, frozen=True, tag=True, rename="camel"):
    first_name: str
    any_value: Any = None
    points: list[Point] = []


class Pair(NamedTuple):
    left: int
    right: Any = None


class Options(TypedDict, total=False):
    count: int
    value: Any


def sent(declared: Any, value: Any) -> Any:
    """``value`` as it arrives."""
    codec: Codec[Any] = Codec(declared, "the value")
    encoded = codec.encode(value)
    assert encoded.size == len(encoded.body) + sum(map(len, encoded.buffers))
    small = codec.encode_small(value)
    assert small == (encoded if encoded.buffers else encoded.body)
    return codec.decode(encoded.body, [memoryview(buffer) for buffer in encoded.buffers])


def same(one: Any, other: Any) -> bool:
    """Equal, of equal types throughout; not-a-number equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, msgspec.Struct):
        return same(msgspec.structs.asdict(one), msgspec.structs.asdict(other))
    return bool(one == other)


INTEGERS = st.integers(-(2**63), 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
)
NAIVE = st.datetimes()
AWARE = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS)  # noqa: DTZ001  Hypothesis adds zones
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXTS, st.binary(max_size=100))
KEYS = st.one_of(st.none(), INTEGERS, st.floats(allow_nan=False), TEXTS, st.binary(max_size=10))
HASHABLE = st.recursive(
    st.one_of(KEYS, NAIVE, AWARE, st.dates(), st.timedeltas(), st.decimals(allow_nan=False), st.uuids()),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
UNTYPED = st.recursive(
    st.one_of(SCALARS, HASHABLE, st.times(), st.times(timezones=OFFSETS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, INTEGERS),
    (float, st.floats()),
    (str, TEXTS),
    (bytes, st.binary(max_size=100)),
    (bytearray, st.binary(max_size=100).map(bytearray)),
    (memoryview, st.binary(max_size=100).map(memoryview)),
    (datetime, NAIVE),
    (datetime, AWARE),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    (Decimal, st.decimals(allow_nan=False)),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Point, st.builds(Point, INTEGERS, st.floats(), st.none() | TEXTS)),
    (Tagged, st.builds(Tagged, TEXTS, UNTYPED, st.none() | st.builds(Tagged, TEXTS, UNTYPED))),
    (Record, st.builds(Record, TEXTS, UNTYPED, st.lists(st.builds(Point, INTEGERS), max_size=2))),
    (Pair, st.builds(Pair, INTEGERS, UNTYPED)),
    (Options, st.fixed_dictionaries({}, optional={"count": INTEGERS, "value": UNTYPED})),
    (Timestamp, st.builds(Timestamp, seconds=st.integers(0, 2**33), nanos=st.integers(0, 10**9 - 1))),
    (Any, UNTYPED),
    (object, UNTYPED),
]


def containers(inner: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Any]:
    """Types that hold those of ``inner``, with strategies for their values."""

    def of(pair: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        hint: Any
        hint, values = pair
        return st.sampled_from(
            [
                (list[hint], st.lists(values, max_size=3)),
                (Sequence[hint], st.lists(values, max_size=3)),
                (tuple[hint, ...], st.lists(values, max_size=3).map(tuple)),
                (tuple[int, hint], st.tuples(INTEGERS, values)),
                (dict[str, hint], st.dictionaries(TEXTS, values, max_size=3)),
                (Mapping[int, hint], st.dictionaries(INTEGERS, values, max_size=3)),
                (Union[hint, None], st.none() | values),  # noqa: UP007  at run time
                (Annotated[hint, "a note"], values),
            ]
        )

    return inner.flatmap(of)


TYPES_AND_VALUES = st.recursive(st.sampled_from(LEAVES), containers, max_leaves=3).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), pair[1])
)


@given(TYPES_AND_VALUES)
def test_a_value_arrives_as_its_declared_type(pair: tuple[Any, Any]) -> None:
    declared, value = pair
    assert same(sent(declared, value), value)


@given(UNTYPED)
def test_a_value_that_describes_itself_needs_no_declared_type(value: Any) -> None:
    assert same(sent(Any, value), value)


@given(AWARE)
def test_a_datetime_keeps_its_offset_where_no_type_is_declared_and_its_instant_where_one_is(moment: datetime) -> None:
    assert sent(Any, moment).utcoffset() == moment.utcoffset()
    assert sent(datetime, moment).utcoffset() == timedelta(0)
    assert sent(datetime, moment) == moment.astimezone(UTC)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (bytearray(b"x"), b"x"),
        (memoryview(b"xyz")[::2], b"xz"),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
    ],
)
def test_untyped_bytes_and_dicts_of_other_kinds_arrive_as_the_plain_ones(value: Any, arrives: Any) -> None:
    assert same(sent(Any, value), arrives)


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, 64 << 10, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("optional", [False, True])
def test_bytes_of_any_size_arrive_as_the_type_declared(kind: Any, size: int, optional: bool) -> None:
    value = kind(b"\xc1" * size)
    arrived = sent(kind | None if optional else kind, value)
    assert type(arrived) is kind
    assert arrived == value


@pytest.mark.parametrize("value", [b"x" * (64 << 10), [b"x" * (64 << 10), (b"y" * (70 << 10),)]])
def test_large_bytes_travel_as_buffers_in_untyped_positions(value: Any) -> None:
    encoded = Codec[Any](Any, "the value").encode(value)
    assert len(encoded.body) < 100
    assert same(sent(Any, value), value)


def test_large_bytes_are_not_copied() -> None:
    """Not by the sender, and not by a receiver that has them as bytes already, or asks for a view."""
    value = b"x" * (1 << 20)
    codec: Codec[bytes] = Codec(bytes, "the value")
    encoded = codec.encode(value)
    assert encoded.buffers[0] is value
    assert codec.decode(encoded.body, [memoryview(value)]) is value
    arrived = bytearray(value)
    view = Codec[memoryview](memoryview, "the value").decode(encoded.body, [memoryview(arrived)])
    arrived[0] = 0
    assert view[0] == 0


def test_lengths_that_an_annotation_asks_for_hold_for_bytes_in_a_buffer() -> None:
    short: Any = Annotated[bytes, msgspec.Meta(max_length=1000)]
    encoded = Codec[bytes](bytes, "the value").encode(b"x" * (64 << 10))
    with pytest.raises(Exception, match="length <= 1000"):
        Codec[bytes](short, "the value").decode(encoded.body, [memoryview(encoded.buffers[0])])


def test_protobuf_messages_arrive_within_other_types() -> None:
    message = Struct()
    message.update({"a": [1, {"b": "c"}]})
    assert sent(dict[str, Struct], {"x": message}) == {"x": message}
    assert sent(Struct | None, None) is None


def test_a_union_takes_what_msgspec_would_not_tell_apart_by_itself() -> None:
    union: Any = Timestamp | Point | int
    for value in (Timestamp(seconds=3), Point(1, 2.0, "x"), 7):
        assert sent(list[union], [value]) == [value]


def test_recursive_types_with_untyped_positions_arrive() -> None:
    value = Tagged("a", (1,), Tagged("b", {2}, Tagged("c", [None])))
    assert sent(Tagged, value) == value
    assert sent(Tagged | list[Tagged] | None, [value]) == [value]


def test_encoding_leaves_the_value_alone() -> None:
    value = Record("x", [(1, 2)], [])
    sent(Record, value)
    assert value == Record("x", [(1, 2)], [])
