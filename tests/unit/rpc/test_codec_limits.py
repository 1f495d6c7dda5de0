"""What a peer makes up costs it an error, and costs us no more memory and time than stated."""

from __future__ import annotations

import contextlib
import dataclasses
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from google.protobuf.struct_pb2 import ListValue
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from lattica.errors import CodecError, DecodeError
from lattica.rpc.codec import Codec, limits
from lattica.rpc.codec import extensions as ext

if TYPE_CHECKING:
    import numpy as np
else:
    np = pytest.importorskip("numpy", reason="NumPy is optional: pip install numpy")


@dataclasses.dataclass
class Node:
    next: Node | None = None
    items: list[int] = dataclasses.field(default_factory=list)


ANY: Codec[Any] = Codec(Any, "the value")
NODE: Codec[Any] = Codec(Node, "the value")
ARRAY: Codec[Any] = Codec(np.ndarray, "the value")
SETS: Codec[Any] = Codec(list[set[int]], "the value")
NODES: Codec[Any] = Codec(list[Node], "the value")
MESSAGE: Codec[Any] = Codec(ListValue, "the value")


def nested(wrap: Any, depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


def extension(code: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode(Ext(code, data))


def row(value: bytes) -> bytes:
    """The body that holds one value."""
    return b"\x91" + value


def array32(count: int, element: bytes) -> bytes:
    return row(b"\xdd" + count.to_bytes(4, "big") + element * count)


def array_of(dtype: str, shape: list[int], data: Any, code: int = ext.NDARRAY) -> bytes:
    return extension(code, msgspec.msgpack.encode([dtype, shape, data]))


WRAPS = [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"a": inner}, lambda inner: [1, (inner, "x"), 2]]


@pytest.mark.parametrize("wrap", WRAPS[:3])
def test_untyped_values_are_at_most_so_deep(wrap: Any) -> None:
    deepest = nested(wrap, limits.MAX_DEPTH)
    assert ANY.decode(ANY.encode(deepest).body) == deepest
    with pytest.raises(CodecError, match="nested more than 32 deep"):
        ANY.encode(wrap(deepest))


def test_recursive_types_are_at_most_so_deep() -> None:
    deepest = nested(Node, limits.MAX_DEPTH - 1)  # the innermost holds a list
    assert NODE.decode(NODE.encode(deepest).body) == deepest
    with pytest.raises(CodecError, match="nested more than 32 deep"):
        NODE.encode_small(Node(deepest))


def test_values_that_hold_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    node = Node()
    node.next = node
    with pytest.raises(CodecError, match="deep"):
        ANY.encode(endless)
    with pytest.raises(CodecError, match="deep"):
        NODE.encode(node)
    with pytest.raises(CodecError, match="deep"):
        Codec[Any](list[list[int]], "the value").encode(endless)


@pytest.mark.parametrize("depth", [33, 100, 900, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x81\x91\x01"])
def test_bodies_that_are_deeper_are_refused(opening: bytes, depth: int) -> None:
    for codec in (ANY, ARRAY, NODE):
        with pytest.raises(DecodeError):
            codec.decode(row(opening * depth + b"\x01"))


def test_nested_extensions_are_at_most_so_deep() -> None:
    body = b"\x90"
    for _ in range(100):
        body = b"\x91" + extension(limits.TUPLE, body)
    with pytest.raises(DecodeError, match="nested more than 32 deep"):
        ANY.decode(body)


def test_senders_refuse_what_receivers_would() -> None:
    with pytest.raises(CodecError, match="elements"):
        ANY.encode([0] * limits.MAX_ELEMENTS)
    with pytest.raises(CodecError, match="elements"):
        Codec[Any](list[int], "the value").encode([0] * (limits.MAX_ELEMENTS + 1))
    with pytest.raises(CodecError, match="containers"):
        NODES.encode([Node() for _ in range(limits.MAX_CONTAINERS)])
    with pytest.raises(CodecError, match="pass large bytes as an argument of their own"):
        Codec[Any](list[bytes], "the value").encode([bytes(limits.MAX_BODY)])
    message = ListValue()
    message.values.add(string_value="x" * limits.MAX_MESSAGE)
    with pytest.raises(CodecError, match="protobuf message"):
        MESSAGE.encode(message)
    with pytest.raises(CodecError, match="4096 arrays"):
        ANY.encode([np.zeros(512, np.uint8)] * (limits.MAX_BUFFERS + 1))


def test_as_many_as_allowed_arrive() -> None:
    arrays = ANY.encode([np.zeros(512, np.uint8)] * limits.MAX_BUFFERS)
    assert len(ANY.decode(arrays.body, arrays.buffers)) == limits.MAX_BUFFERS
    numbers = [0.5] * (limits.MAX_ELEMENTS - 1)
    assert ANY.decode(ANY.encode(numbers).body) == numbers
    lists: list[Any] = [[] for _ in range(limits.MAX_CONTAINERS - 2)]
    assert ANY.decode(ANY.encode(lists).body) == lists


HEADER = msgspec.msgpack.encode(["float32", [0], b""])
HOSTILE = {
    "empty lists": (ANY, array32(limits.MAX_CONTAINERS - 2, b"\x90")),
    "empty dicts": (ANY, array32(limits.MAX_CONTAINERS - 2, b"\x80")),
    "empty sets": (SETS, array32(limits.MAX_CONTAINERS - 2, b"\x90")),
    "empty objects": (NODES, array32(limits.MAX_CONTAINERS - 2, b"\x80")),
    "empty arrays": (ANY, array32(limits.MAX_CONTAINERS - 2, extension(ext.NDARRAY, HEADER))),
    "empty sets, untyped": (ANY, array32(limits.MAX_CONTAINERS // 2 - 2, extension(limits.SET, b"\x90"))),
    "times": (ANY, array32(limits.MAX_CONTAINERS - 2, extension(ext.DATETIME, b"2020-01-01T00:00:00+01:00"))),
    "floats": (ANY, array32(limits.MAX_ELEMENTS - 1, b"\xcb" + bytes(8))),
    "short strings": (ANY, array32(limits.MAX_ELEMENTS - 1, b"\xa2ab")),
    "strings": (ANY, array32(480_000, b"\xd9\x20" + b"a" * 32)),
    "messages": (MESSAGE, row(msgspec.msgpack.encode(b"\x0a\x00" * (limits.MAX_MESSAGE // 2)))),
    "tuples of large bytes": (ANY, row(msgspec.msgpack.encode(
        nested(lambda inner: Ext(limits.TUPLE, msgspec.msgpack.encode([inner or bytes(15 << 20)])), 30)
    ))),
    "a claim of four billion elements": (ANY, row(b"\xdd\xff\xff\xff\xff")),
    "a claim of four billion bytes": (ANY, row(b"\xc6\xff\xff\xff\xff")),
    "a claim in a typed position": (SETS, row(b"\xdd\xff\xff\xff\xff\x90")),
    "an array of a claimed size": (ANY, row(array_of("float32", [1 << 40], b""))),
    "too many lists": (ANY, array32(1 << 21, b"\x90")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_at_most_the_memory_stated(name: str) -> None:
    codec, body = HOSTILE[name]
    tracemalloc.start()
    try:
        value: Any = None
        with contextlib.suppress(DecodeError):
            value = codec.decode(body)
        peak = tracemalloc.get_traced_memory()[1]
        del value
    finally:
        tracemalloc.stop()
    assert peak < limits.MAX_VALUE + len(body)


def colliding_tuples(count: int) -> list[tuple[Any, ...]]:
    """Different tuples of one hash: those of -1 and -2 are the same."""
    return [tuple(-1 - (number >> bit & 1) for bit in range(14)) for number in range(count)]


def test_many_members_and_keys_of_one_hash_are_refused_before_they_are_compared() -> None:
    tuples = colliding_tuples(10_000)
    assert len(set(map(hash, tuples[:100]))) == 1
    members = b"".join(msgspec.msgpack.encode(Ext(limits.TUPLE, msgspec.msgpack.encode(one))) for one in tuples)
    keys = b"".join(msgspec.msgpack.encode(one) + b"\x01" for one in tuples)
    with pytest.raises(DecodeError, match="not plain scalars"):
        ANY.decode(row(extension(limits.SET, b"\xdd" + len(tuples).to_bytes(4, "big") + members)))
    with pytest.raises(DecodeError, match="not plain scalars"):
        ANY.decode(row(b"\xdf" + len(tuples).to_bytes(4, "big") + keys))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (extension(99, b""), "unknown code 99"),
        (extension(ext.NDARRAY, b""), "truncated"),
        (extension(ext.NDARRAY, b"\x01"), "Expected `array`"),
        (array_of("float32", [3], bytes(11)), r"shape \[3\]"),
        (array_of("float32", [-1], bytes(4)), ">= 0"),
        (array_of("float32", [1] * 33, bytes(4)), "<= 32"),
        (array_of("float32", [1 << 47, 1 << 47], b""), "shape"),
        (array_of("object", [1], bytes(8)), "not known"),
        (array_of("V8", [1], bytes(8)), "not known"),
        (array_of("U1", [1], b"\xff" * 4), "not known"),
        (array_of("x" * 50, [1], bytes(8)), "<= 40"),
        (array_of("bool", [1], b"\x02"), "0 and 1"),
        (array_of("float32", [0, 1 << 47, 1 << 47], b""), ""),
        (array_of("float32", [1], 0), "the buffer 0 of 0"),
        (array_of("float32", [1], -1), ""),
        (array_of("datetime64[ns]", [1, 1], bytes(8), ext.TENSOR), ""),
        (extension(ext.BYTES, b"\x00"), "the buffer 0 of 0"),
        (extension(ext.RAW_BYTES, b"\xcd\xff\xff"), "<= 4095|< 4096"),
        (extension(limits.TUPLE, b"\x01"), "Expected `array`"),
        (extension(limits.TUPLE, b"\x91\x01\x01"), "trailing"),
        (extension(limits.SET, b"\x91\x90"), "unhashable"),
        (extension(limits.SET, b"\x91\x81\x01\x02"), "unhashable"),
        (extension(ext.DATETIME, b"nan"), "isoformat"),
        (extension(ext.DATETIME, b"\xff"), "ascii"),
        (extension(ext.TIMEDELTA, msgspec.msgpack.encode((10**9, 0, 0))), "days"),
        (extension(ext.TIMEDELTA, msgspec.msgpack.encode((float("nan"), 0, 0))), "Expected `int`"),
        (extension(ext.DECIMAL, b"one"), ""),
        (extension(ext.UUID_, b"short"), "16"),
        (b"\xa1\xff", "utf-8|UTF-8"),
        (b"\xc1", "c1"),
        (b"", "truncated"),
        (b"\x01\x01", "trailing|length"),
        (b"\xd7\xff" + b"\xff" * 8, ""),
    ],
)
def test_malformed_values_are_decode_errors(value: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=f"(?is)the value was received malformed: .*(?:{reason})"):
        ANY.decode(row(value))


@pytest.mark.parametrize("size", [0, 1, 511, 513])
def test_a_buffer_of_another_size_is_a_decode_error(size: int) -> None:
    with pytest.raises(DecodeError, match="shape"):
        ANY.decode(row(array_of("uint8", [512], 0)), [bytes(size)])


def test_each_buffer_belongs_to_one_value() -> None:
    first = array_of("uint8", [512], 0)
    with pytest.raises(DecodeError, match="the buffer 0 of 1, which is not there or taken"):
        ANY.decode(row(b"\x92" + first + first), [bytes(512)])
    with pytest.raises(DecodeError, match=r"the buffers \[1\] belong to nothing"):
        ANY.decode(row(first), [bytes(512), bytes(512)])
    with pytest.raises(DecodeError, match=r"the buffers \[0\] belong to nothing"):
        Codec(int, "the value").decode(row(b"\x01"), [bytes(512)])
    with pytest.raises(DecodeError, match="4097 buffers"):
        ANY.decode(row(b"\x01"), [b""] * 4097)


def test_errors_quote_little_of_what_a_peer_sent() -> None:
    with pytest.raises(DecodeError) as caught:
        ANY.decode(row(extension(ext.DATETIME, b"9" * 100_000)))
    assert len(str(caught.value)) < 1000


def test_what_a_declared_class_raises_of_its_own_is_a_decode_error() -> None:
    @dataclasses.dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            raise ZeroDivisionError("picky")

    with pytest.raises(DecodeError, match="picky"):
        Codec[Any](Picky, "the value").decode(row(b"\x81\xa1x\x01"))


STRUCTURES = st.recursive(
    st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=300), st.binary(max_size=300), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=70),
        st.dictionaries(st.text(max_size=40), inner, max_size=20),
        st.lists(inner, max_size=5).map(lambda held: Ext(limits.TUPLE, msgspec.msgpack.encode(held))),
        st.binary(max_size=20).map(lambda data: Ext(99, data)),
    ),
    max_leaves=60,
)


@given(STRUCTURES)
def test_the_scan_reads_any_body_as_msgspec_does(value: Any) -> None:
    """It ends exactly at its end, so that nothing is hidden from it."""
    body = msgspec.msgpack.encode(value)
    scan = limits._Scan(body)
    scan.run()
    assert scan._pos == len(body)
    assert not ends_within(body[:-1])


def ends_within(body: bytes) -> bool:
    """Whether the scan finds a whole value in ``body``."""
    scan = limits._Scan(body)
    try:
        scan.run()
    except limits.LimitError:
        return False
    return scan._pos <= len(body)
