"""Reading the header of a safetensors file, as strictly as the format's own implementation.

Source: https://github.com/huggingface/safetensors (README.md, "Format", and `Metadata::validate` in tensor.rs)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from lattica.content.manifest_limits import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME

MAX_HEADER: Final = 100_000_000
"""Longest header in bytes (MAX_HEADER_SIZE in tensor.rs)."""

DTYPE_BITS: Final = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of an element of each dtype (`Dtype::bitsize` in tensor.rs)."""

_LENGTH_SIZE = 8


class BadHeaderError(Exception):
    """The header breaks the format. Stays in this room: the file is published in plain chunks then."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its file's header describes it.

    Attributes:
        name: Unique in the file.
        dtype: A key of `DTYPE_BITS`.
        shape: Empty for a scalar.
        begin: Where its bytes begin, from the start of the file.
        end: Where they end.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says, checked.

    Attributes:
        size: Bytes before the first tensor.
        tensors: In the order of their bytes, without gaps or overlaps, up to the end of the file.
    """

    size: int
    tensors: tuple[TensorInfo, ...]


def read_header(read: Callable[[int, int], bytes], file_size: int) -> Header:
    """The header of a file of which ``read(length, offset)`` gives bytes (fewer at the end of the file only).

    Raises:
        BadHeaderError: It breaks the format, or one of the bounds of `lattica.content.manifest_limits`.
        OSError: Whatever ``read`` raises.
    """
    prefix = read(_LENGTH_SIZE, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_SIZE or length < 2:
        raise BadHeaderError("the file is too short")
    if length > MAX_HEADER:
        raise BadHeaderError(f"it claims a header of {length} bytes; {MAX_HEADER} are the most")
    if length > file_size - _LENGTH_SIZE:
        raise BadHeaderError(f"it claims a header of {length} bytes, more than the file has")
    text = read(length, _LENGTH_SIZE)
    if len(text) < length:
        raise BadHeaderError("the file ends within its header")
    start = _LENGTH_SIZE + length
    tensors = [_tensor(name, info, start) for name, info in _parse(text).items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = start
    for tensor in tensors:
        if tensor.begin != end:
            raise BadHeaderError(f"tensor {tensor.name!r} does not begin where the one before it ends")
        end = tensor.end
    if end != file_size:
        raise BadHeaderError(f"the tensors end at byte {end} and the file at byte {file_size}")
    return Header(start, tuple(tensors))


def _parse(text: bytes) -> dict[str, Any]:
    """The header as a dictionary; its values are still unchecked."""
    if not text.startswith(b"{"):
        raise BadHeaderError("it does not begin with '{'")
    try:
        json_text = text.decode("utf-8")
        header: dict[str, Any] = json.loads(json_text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadHeaderError(f"it is not JSON ({str(error)[:100]})") from error
    metadata = header.get("__metadata__")
    strings = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not strings:
        raise BadHeaderError("__metadata__ is not a map from strings to strings")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadHeaderError("a name occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise BadHeaderError(f"it contains {name}")


def _tensor(name: str, info: object, start: int) -> TensorInfo:
    if not isinstance(info, dict):
        raise BadHeaderError(f"tensor {name[:100]!r} is not described by a map")
    dtype, shape, offsets = info.get("dtype"), _sizes(info.get("shape")), _sizes(info.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise BadHeaderError(f"tensor {name[:100]!r} has the unknown dtype {str(dtype)[:20]!r}")
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise BadHeaderError(f"tensor {name[:100]!r} has a bad shape")
    if offsets is None or len(offsets) != 2 or offsets[1] - offsets[0] != tensor_size(dtype, shape):
        raise BadHeaderError(f"tensor {name[:100]!r}: offsets do not match dtype and shape")
    if not name or not is_utf8(name, MAX_NAME):
        raise BadHeaderError(f"tensor {name[:100]!r} has a name that is empty, too long or not Unicode")
    return TensorInfo(name, dtype, shape, start + offsets[0], start + offsets[1])


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of sizes, or ``None`` if it is anything else."""
    # Not isinstance: to Python, true and false are integers too.
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < MAX_ELEMENTS for item in value):
        return None
    return tuple(value)


def tensor_size(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor; ``None`` if the dtype is unknown, the shape overflows, or it ends within a byte."""
    bits = DTYPE_BITS.get(dtype)
    if bits is None or len(shape) > MAX_DIMENSIONS:
        return None
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements >= MAX_ELEMENTS:
            return None
    return elements * bits // 8 if elements * bits % 8 == 0 else None


def is_utf8(text: str, longest: int) -> bool:
    """Whether ``text`` (which may hold lone surrogates) is valid Unicode of at most so many bytes of UTF-8."""
    try:
        return len(text.encode("utf-8")) <= longest
    except UnicodeEncodeError:
        return False
