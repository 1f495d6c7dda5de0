"""NumPy arrays: every dtype, layout and size arrives as it was, and without a copy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import CodecError, DecodeError
from lattica.rpc.codec import Codec, Encoded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = pytest.importorskip("numpy", reason="NumPy is optional: pip install numpy")
    npt = pytest.importorskip("numpy.typing", reason="NumPy is optional: pip install numpy")

NUMPY_DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", "datetime64[ns]", "datetime64[D]", "timedelta64[us]",
]  # fmt: skip
SMALL_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


def sent(declared: Any, value: Any) -> Any:
    codec: Codec[Any] = Codec(declared, "the value")
    return received(codec, codec.encode(value))


def received(codec: Codec[Any], encoded: Encoded) -> Any:
    """What arrives when buffers arrive in memory of their own that can be written to."""
    return codec.decode(encoded.body, [memoryview(bytearray(buffer)) for buffer in encoded.buffers])


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


def array_of(dtype: Any, size: int) -> Any:
    random = np.random.default_rng(1)
    if dtype == "bool":
        return random.integers(0, 2, size).astype(bool)
    return np.frombuffer(random.bytes(size * np.dtype(dtype).itemsize), dtype).copy()


@pytest.mark.parametrize("declared", [Any, np.ndarray])
@pytest.mark.parametrize("size", [0, 3, 1000])
@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_dtype_arrives(dtype: str, size: int, declared: Any) -> None:
    value = array_of(dtype, size)
    assert_same(sent(declared, value), value)


@pytest.mark.parametrize("size", [0, 3, 1000])
@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_every_dtype_of_ml_dtypes_arrives(dtype: str, size: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is optional: pip install ml_dtypes")
    value = array_of(getattr(ml_dtypes, dtype), size)
    assert_same(sent(Any, value), value)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda array: array.T, id="transposed"),
        pytest.param(lambda array: array[::2, 1::3], id="sliced"),
        pytest.param(lambda array: array[::-1], id="reversed"),
        pytest.param(lambda array: array[5], id="row"),
        pytest.param(lambda array: array[:0], id="empty"),
        pytest.param(lambda array: array[3, 4, ...], id="0-d"),
        pytest.param(np.asfortranarray, id="fortran"),
        pytest.param(lambda array: np.broadcast_to(array[0], (7, *array.shape)), id="broadcast"),
        pytest.param(lambda array: array.reshape(1, 40, 1, 40, *[1] * 28), id="32 dimensions"),
    ],
)
def test_every_layout_arrives(view: Any) -> None:
    value = view(np.arange(1600, dtype=np.int32).reshape(40, 40))
    assert_same(sent(Any, value), np.ascontiguousarray(value).reshape(value.shape))


@pytest.mark.parametrize("size", [5, 500])
def test_big_endian_arrays_are_converted(size: int) -> None:
    value = np.arange(size, dtype=">f4")
    arrived = sent(Any, value)
    assert arrived.dtype.str == "<f4"
    assert (arrived == value).all()


@given(st.lists(st.integers(0, 5), max_size=5), st.sampled_from(NUMPY_DTYPES))
def test_every_shape_arrives_within_other_values(shape: list[int], dtype: str) -> None:
    value = np.zeros(shape, dtype)
    name, (arrived,) = sent(dict[str, Any], {"a": [value]}).popitem()
    assert name == "a"
    assert_same(arrived, value)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int8(-3), np.bool_(True), np.complex64(1 + 2j)])
def test_numpy_scalars_arrive_as_themselves_in_untyped_positions(value: Any) -> None:
    arrived = sent(Any, value)
    assert type(arrived) is type(value)
    assert arrived == value


def test_numpy_scalars_are_python_numbers_where_those_are_declared() -> None:
    assert sent(list[int], [np.int64(3)]) == [3]
    assert sent(float, np.float64(0.5)) == 0.5
    assert type(sent(np.float32, np.float32(0.1))) is np.float32
    assert sent(dict[str, bool], {"x": np.bool_(True)}) == {"x": True}


@dataclasses.dataclass
class Layer:
    name: str
    weights: npt.NDArray[np.float32]
    bias: np.ndarray | None = None


def test_arrays_arrive_in_dataclasses() -> None:
    layer = Layer("x", np.ones((20, 20), np.float32), np.zeros(3))
    arrived = sent(list[Layer], [layer])[0]
    assert_same(arrived.weights, layer.weights)
    assert_same(arrived.bias, layer.bias)
    assert sent(Layer, Layer("x", layer.weights)).bias is None


@pytest.mark.parametrize(
    "declared", [npt.NDArray[np.float32], npt.NDArray[np.float32] | None, npt.NDArray[np.floating]]
)
def test_the_dtype_of_a_declared_array_is_checked(declared: Any) -> None:
    assert_same(sent(declared, np.ones(3, np.float32)), np.ones(3, np.float32))
    with pytest.raises(DecodeError, match="Expected an array of float"):
        sent(declared, np.ones(3, np.int32))


@pytest.mark.parametrize("value", [np.ones(3), 5, None, "x", [1, 2]])
def test_a_union_of_arrays_and_others_takes_each(value: Any) -> None:
    arrived = sent(np.ndarray | int | str | list[int] | None, value)
    assert np.array_equal(arrived, value)
    assert type(arrived) is type(value)


def test_contiguous_arrays_are_not_copied() -> None:
    value = np.arange(1000, dtype=np.float64).reshape(10, 100)
    codec: Codec[Any] = Codec(np.ndarray, "the value")
    encoded = codec.encode(value)
    assert len(encoded.body) < 50
    assert np.shares_memory(np.frombuffer(encoded.buffers[0], np.uint8), value)
    assert memoryview(encoded.buffers[0]).format == "B"
    memory = bytearray(encoded.buffers[0])
    arrived = codec.decode(encoded.body, [memoryview(memory)])
    assert np.shares_memory(arrived, np.frombuffer(memory, np.uint8))
    arrived[0, 0] = 5  # writable, as its memory is


def test_an_array_over_a_read_only_buffer_is_read_only() -> None:
    codec: Codec[Any] = Codec(np.ndarray, "the value")
    encoded = codec.encode(np.arange(1000))
    arrived = codec.decode(encoded.body, [memoryview(bytes(encoded.buffers[0]))])
    assert not arrived.flags.writeable


def test_a_small_array_travels_in_the_body_and_can_be_written_to() -> None:
    codec: Codec[Any] = Codec(np.ndarray, "the value")
    encoded = codec.encode(np.arange(63))
    assert not encoded.buffers
    arrived = codec.decode(encoded.body)
    arrived[0] = 5
    assert codec.decode(encoded.body)[0] == 0


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_a_buffer_at_any_address_will_do(offset: int) -> None:
    value = np.arange(1000, dtype=np.float64)
    codec: Codec[Any] = Codec(np.ndarray, "the value")
    encoded = codec.encode(value)
    memory = bytearray(offset) + bytes(encoded.buffers[0])
    assert_same(codec.decode(encoded.body, [memoryview(memory)[offset:]]), value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([object()]), "dtype object"),
        (np.zeros(3, [("a", "i4"), ("b", "f8")]), "one array for each field"),
        (np.array(["a", "b"]), "strings as a list"),
        (np.zeros(3, np.longdouble), "dtype float128"),
        (np.zeros([1] * 33), "33 dimensions"),
        (np.ma.masked_array([1, 2], [True, False]), "its data and its mask"),
    ],
)
def test_arrays_that_other_machines_could_not_read_are_refused(value: Any, reason: str) -> None:
    for declared in (np.ndarray, Any):
        with pytest.raises(CodecError, match=reason):
            Codec[Any](declared, "the value").encode(value)


def test_values_that_are_no_arrays_are_not_taken_for_them() -> None:
    codec: Codec[Any] = Codec(np.ndarray, "the value")
    with pytest.raises(DecodeError, match="Expected an array, got `int`"):
        codec.decode(Codec[int](int, "the value").encode(3).body)


def test_the_codec_works_without_numpy_and_says_so_where_an_array_comes() -> None:
    """In a process of its own, in which nothing has imported it, and then cannot."""
    body = Codec[Any](Any, "the value").encode(np.ones(3)).body
    program = f"""
import sys
from typing import Any
from lattica.errors import DecodeError
from lattica.rpc.codec import Codec
codec = Codec(Any, "the value")
assert codec.decode(codec.encode([1, (2,), {{3}}]).body) == [1, (2,), {{3}}]
assert "numpy" not in sys.modules and "torch" not in sys.modules
sys.modules["numpy"] = None
try:
    codec.decode({body!r})
except DecodeError as error:
    assert "numpy is needed" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
