"""NumPy arrays and torch tensors as a dtype's name, a shape and raw little-endian bytes, copied only where it must be.

Neither package is imported before a value or a type needs it. Both, and ml_dtypes, share NumPy's names of dtypes.
"""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from lattica.rpc.codec.limits import MAX_BUFFER, MAX_DIMS

if TYPE_CHECKING:
    import numpy as np
    import torch

Buffer: TypeAlias = "bytes | bytearray | memoryview"

PLAIN_DTYPES: Final = frozenset(
    {"bool", "complex64", "complex128", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Known to NumPy and torch alike."""

SMALL_DTYPES: Final = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"}
)
"""Known to torch, and to NumPy through ml_dtypes."""

_TIME_DTYPE: Final = re.compile(r"(?:datetime|timedelta)64\[(?:Y|M|W|D|h|m|s|ms|us|ns)\]", re.ASCII)
_MAX_ALIGNMENT: Final = 8
"""No element of an array needs more: a complex number is two floats."""


class Flat(NamedTuple):
    """An array taken apart."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def is_ndarray(value: object) -> bool:
    """Whether ``value`` is a NumPy array."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_numpy_scalar(value: object) -> bool:
    """Whether ``value`` is one of NumPy's scalars."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def flatten(array: Any) -> Flat:
    """``array`` (of NumPy or torch) taken apart; its own memory if it is contiguous, little-endian and on the CPU.

    Raises:
        TypeError: No other machine could read it: objects, structures, sparse or quantized tensors.
    """
    flat = _flatten_tensor(array) if is_tensor(array) else _flatten_ndarray(array)
    if len(flat.shape) > MAX_DIMS:
        raise TypeError(f"an array of {len(flat.shape)} dimensions; at most {MAX_DIMS} are allowed")
    if flat.data.nbytes > MAX_BUFFER:
        raise TypeError(f"an array of {flat.data.nbytes} bytes; at most {MAX_BUFFER} are allowed, send it in parts")
    return flat


def _flatten_ndarray(array: np.ndarray[Any, Any]) -> Flat:
    numpy = _package("numpy")
    name = array.dtype.name
    if array.dtype.hasobject or array.dtype.fields or not _sendable(name):
        raise TypeError(
            f"an array of dtype {array.dtype}; numbers, booleans and times can be sent"
            " (structures and objects as one array for each field, strings as a list)"
        )
    if type(array) is not numpy.ndarray and isinstance(array, numpy.ma.MaskedArray):
        raise TypeError("a masked array; send its data and its mask")
    plain = numpy.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return Flat(name, array.shape, plain.reshape(-1).view(numpy.uint8).data)


def _flatten_tensor(tensor: torch.Tensor) -> Flat:
    torch = _package("torch")
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in PLAIN_DTYPES and name not in SMALL_DTYPES:
        raise TypeError(f"a tensor of dtype {tensor.dtype}; send it as one of NumPy's dtypes, bfloat16 or float8")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise TypeError(f"a sparse, quantized, nested or meta tensor (layout {tensor.layout}); send dense parts of it")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return Flat(name, tuple(tensor.shape), _tensor_memory(plain.reshape(-1).view(torch.uint8)))


def _tensor_memory(octets: torch.Tensor) -> memoryview:
    if not octets.numel():
        return memoryview(b"")
    if sys.modules.get("numpy") is not None:
        view: memoryview = octets.numpy().data
        return view
    memory: Any = (ctypes.c_ubyte * octets.numel()).from_address(octets.data_ptr())
    memory.owner = octets  # a view does not keep what only lent its address
    return memoryview(memory).cast("B")


def build_ndarray(dtype: str, shape: Sequence[int], data: Buffer) -> np.ndarray[Any, Any]:
    """The array over ``data`` itself: read-only if that is.

    Raises:
        ValueError: The parts do not fit together.
        ModuleNotFoundError: A package is missing; the message says which.
    """
    numpy = _package("numpy")
    kind = _numpy_dtype(dtype)
    _check_size(shape, kind.itemsize, len(data))
    octets = numpy.frombuffer(data, numpy.uint8)
    if len(data):
        _check_booleans(dtype, octets)
    array: np.ndarray[Any, Any] = octets.view(kind).reshape(shape)
    return array


def build_tensor(dtype: str, shape: Sequence[int], data: Buffer) -> torch.Tensor:
    """The tensor over ``data`` itself; over a copy if that is read-only or not aligned, which torch does not support.

    Raises:
        ValueError: The parts do not fit together.
        ModuleNotFoundError: A package is missing; the message says which.
    """
    package = _package("torch")
    kind = getattr(package, dtype, None) if dtype in PLAIN_DTYPES or dtype in SMALL_DTYPES else None
    if kind is None:
        raise ValueError(f"a tensor of dtype {dtype[:40]!r}, which torch {package.__version__} does not have")
    _check_size(shape, kind.itemsize, len(data))
    tensor: torch.Tensor
    if not len(data):
        tensor = package.empty(tuple(shape), dtype=kind)
        return tensor
    octets = None if memoryview(data).readonly else package.frombuffer(data, dtype=package.uint8)
    if octets is None or octets.data_ptr() % min(kind.itemsize, _MAX_ALIGNMENT):
        octets = package.frombuffer(bytearray(data), dtype=package.uint8)
    _check_booleans(dtype, octets)
    tensor = octets.view(kind).reshape(tuple(shape))
    return tensor


def to_ndarray(array: Any) -> np.ndarray[Any, Any]:
    """``array`` as a NumPy array over the same memory, whichever of the two it is."""
    return array if is_ndarray(array) else build_ndarray(*flatten(array))


def to_tensor(array: Any) -> torch.Tensor:
    """``array`` as a torch tensor, whichever of the two it is; over the same memory if that is writable and aligned."""
    return array if is_tensor(array) else build_tensor(*flatten(array))


def _sendable(name: str) -> bool:
    return name in PLAIN_DTYPES or name in SMALL_DTYPES or bool(_TIME_DTYPE.fullmatch(name))


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if not _sendable(name):
        raise ValueError(f"an array of dtype {name[:40]!r}, which is not known here")
    numpy = _package("numpy")
    if name in SMALL_DTYPES:
        small: np.dtype[Any] = numpy.dtype(getattr(_package("ml_dtypes"), name))
        return small
    plain: np.dtype[Any] = numpy.dtype(name).newbyteorder("<")
    return plain


def _check_size(shape: Sequence[int], itemsize: int, size: int) -> None:
    if len(shape) > MAX_DIMS:
        raise ValueError(f"an array of {len(shape)} dimensions; at most {MAX_DIMS} are allowed")
    if size > MAX_BUFFER or math.prod(shape) * itemsize != size:
        raise ValueError(f"an array with the shape {list(shape)} of {itemsize} byte elements in {size} bytes")


def _check_booleans(dtype: str, octets: Any) -> None:
    """Both packages count on a boolean being 0 or 1, and compute nonsense with any other byte."""
    if dtype == "bool" and octets.max() > 1:
        raise ValueError("an array of booleans with other bytes than 0 and 1")


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{name} is needed for it and not installed here; install it, or send another type"
        ) from None
