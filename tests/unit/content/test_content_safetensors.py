"""Safetensors headers: what the format's own library writes is read, what it refuses is refused."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content.safetensors import (
    DTYPE_BITS,
    MAX_HEADER,
    BadHeaderError,
    Header,
    read_header,
    tensor_size,
)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda length, offset: data[offset : offset + length]


def read(data: bytes) -> Header:
    return read_header(reader(data), len(data))


def with_header(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(begin: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([np.float32, np.float16, np.int8, np.uint64, np.bool_, np.complex64])
TENSORS = st.dictionaries(st.text(min_size=1, max_size=20), st.tuples(DTYPES, SHAPES), max_size=8)


@given(TENSORS)
@settings(deadline=None)
def test_tensors_of_the_librarys_files_are_found_byte_for_byte(described: dict[str, tuple[Any, Any]]) -> None:
    described.pop("__metadata__", None)
    arrays = {
        name: np.arange(math.prod(shape)).astype(dtype).reshape(shape) for name, (dtype, shape) in described.items()
    }
    data = safetensors.numpy.save(arrays, {"format": "np"})
    header = read(data)
    assert {found.name: data[found.begin : found.end] for found in header.tensors} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    assert {found.name: found.shape for found in header.tensors} == {n: a.shape for n, a in arrays.items()}
    edges = [header.size, *(found.end for found in header.tensors)]
    assert [found.begin for found in header.tensors] == edges[:-1]
    assert edges[-1] == len(data)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda body: with_header({"a": tensor(0, 3)}, body)))
@settings(deadline=None)
def test_any_bytes_are_a_header_or_bad(data: bytes) -> None:
    with contextlib.suppress(BadHeaderError):
        assert read(data).size <= len(data)


GOOD = with_header({"a": tensor(0, 4), "b": tensor(4, 8, "F32", [])}, bytes(8))


def library_accepts(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return False
    return True


def we_accept(data: bytes) -> bool:
    try:
        read(data)
    except BadHeaderError:
        return False
    return True


def test_with_any_byte_changed_a_header_is_accepted_if_and_only_if_the_library_accepts_it() -> None:
    changed = [GOOD[:at] + bytes((byte,)) + GOOD[at + 1 :] for at in range(len(GOOD)) for byte in range(256)]
    assert [data for data in changed if we_accept(data) != library_accepts(data)] == []
    assert 0 < sum(map(we_accept, changed)) < len(changed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "too short", id="empty"),
        pytest.param(b"\x02\0\0\0\0\0\0", "too short", id="no-length"),
        pytest.param(bytes(8), "too short", id="no-header"),
        pytest.param((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "100000000 are the most", id="absurd-length"),
        pytest.param(b"\xff" * 8 + b"{}", "are the most", id="largest-length"),
        pytest.param((100).to_bytes(8, "little") + b"{}", "more than the file", id="longer-than-file"),
        pytest.param(with_header(b'{"a": '), "not JSON", id="cut-off"),
        pytest.param(with_header(b"[" * 50_000), "does not begin", id="not-a-map"),
        pytest.param(with_header(b'{"a":' * 50_000), "not JSON", id="deep"),
        pytest.param(with_header(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON", id="long-number"),
        pytest.param(with_header(b"\xef\xbb\xbf{}"), "does not begin", id="byte-order-mark"),
        pytest.param(with_header(b'{"\xff": 1}'), "not JSON", id="not-utf8"),
        pytest.param(with_header(b'{"a": NaN}'), "contains NaN", id="nan"),
        pytest.param(with_header(b'{"a": {}, "a": {}}'), "occurs twice", id="duplicate"),
        pytest.param(with_header({"a": 1}), "not described by a map", id="number"),
        pytest.param(with_header({"a": {"dtype": "F32"}}), "bad shape", id="nothing"),
        pytest.param(with_header({"a": tensor(0, 4, "F33")}, bytes(4)), "unknown dtype", id="dtype"),
        pytest.param(with_header({"a": tensor(0, 4) | {"dtype": ["U8"]}}, bytes(4)), "unknown dtype", id="dtype-list"),
        pytest.param(with_header({"a": tensor(0, 1, "U8", [True])}, b"1"), "bad shape", id="boolean"),
        pytest.param(with_header({"a": tensor(0, 1, "U8", [1.0])}, b"1"), "bad shape", id="float"),
        pytest.param(with_header({"a": tensor(0, 1, "U8", [-1, -1])}, b"1"), "bad shape", id="negative"),
        pytest.param(with_header({"a": tensor(0, 1, "U8", [1] * 65)}, b"1"), "bad shape", id="dimensions"),
        pytest.param(with_header({"a": tensor(0, 0, "U8", [1 << 40, 1 << 40, 0])}), "do not match", id="overflow"),
        pytest.param(with_header({"a": tensor(0, 4, "F32", [2])}, bytes(4)), "do not match", id="shape"),
        pytest.param(with_header({"a": tensor(0, 1, "F4", [3])}, bytes(1)), "do not match", id="half-a-byte"),
        pytest.param(with_header({"a": tensor(4, 0, "U8", [0])}), "do not match", id="backwards"),
        pytest.param(with_header({"a": tensor(1, 3)}, bytes(3)), "does not begin where", id="gap"),
        pytest.param(with_header({"a": tensor(0, 3), "b": tensor(2, 4)}, bytes(4)), "does not begin", id="overlap"),
        pytest.param(with_header({"a": tensor(0, 3)}, bytes(4)), "the file at byte", id="trailing-bytes"),
        pytest.param(with_header({"a": tensor(0, 5)}, bytes(4)), "the file at byte", id="missing-bytes"),
        pytest.param(with_header({"__metadata__": {"a": 1}}), "strings to strings", id="metadata-value"),
        pytest.param(with_header({"__metadata__": []}), "strings to strings", id="metadata-list"),
        pytest.param(with_header(b'{"\\ud800": ' + json.dumps(tensor(0, 0)).encode() + b"}"), "name", id="surrogate"),
        pytest.param(with_header({"": tensor(0, 0)}), "name", id="empty-name"),
        pytest.param(with_header({"n" * 1025: tensor(0, 0)}), "name", id="long-name"),
    ],
)
def test_a_bad_header_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadHeaderError, match=reason):
        read(data)


def test_a_file_that_shrinks_while_its_header_is_read_is_refused() -> None:
    with pytest.raises(BadHeaderError, match="ends within its header"):
        read_header(reader(GOOD[:40]), len(GOOD))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("F32", (), 4), ("BF16", (3, 5), 30), ("F4", (6,), 3), ("F6_E2M3", (4,), 3), ("U8", (0, 7), 0)],
)
def test_tensor_sizes(dtype: str, shape: tuple[int, ...], size: int) -> None:
    assert tensor_size(dtype, shape) == size
    body = bytes(size)
    header = read(with_header({"t": tensor(0, size, dtype, list(shape))}, body))
    assert [(found.dtype, found.shape) for found in header.tensors] == [(dtype, shape)]


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_our_dtypes_have_the_librarys_sizes(dtype: str) -> None:
    size = 3 * DTYPE_BITS[dtype]  # bytes of 24 elements
    data = with_header({"t": tensor(0, size, dtype, [24])}, bytes(size))
    ((name, found),) = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    assert (name, found["dtype"], len(found["data"])) == ("t", dtype, size)
