"""The sender's half for one message: values that msgspec does not know become extensions and buffers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

from lattica.rpc.codec import extensions as ext
from lattica.rpc.codec.arrays import Buffer, flatten, is_ndarray, is_numpy_scalar, is_tensor
from lattica.rpc.codec.limits import (
    FROZENSET,
    MAX_BUFFER,
    MAX_BUFFERS,
    MAX_DEPTH,
    MAX_MESSAGE,
    MIN_ARRAY_BUFFER,
    MIN_BYTES_BUFFER,
    SET,
    TUPLE,
)

_PLAIN: Final = frozenset({type(None), bool, int, float, str})
_BYTES_LIKE: Final = (bytes, bytearray, memoryview)
BYTES_VIEWS: Final = frozenset({bytearray, memoryview})
PLAIN_KEYS: Final = _PLAIN | {bytes}


def plain_hook(value: object) -> object:
    """What stands for ``value``, of a type that msgspec does not know, in a typed position.

    Raises:
        TypeError: Nothing does.
    """
    if is_numpy_scalar(value):
        return value.item()  # type: ignore[attr-defined]
    for scalar in (str, int, float):
        if isinstance(value, scalar):
            return scalar(value)
    if is_message(value):
        return _serialized(value)
    raise TypeError(f"values of type {type(value).__module__}.{type(value).__qualname__} have no form on the wire")


def _serialized(message: Any) -> bytes:
    octets: bytes = message.SerializeToString()
    if len(octets) > MAX_MESSAGE:
        raise TypeError(
            f"a protobuf message of {len(octets)} bytes; at most {MAX_MESSAGE} are allowed, send it in parts"
        )
    return octets


def is_message(value: object) -> bool:
    """Whether ``value`` is a protobuf message."""
    message = sys.modules.get("google.protobuf.message")
    return message is not None and isinstance(value, message.Message)


def large_bytes(value: object) -> bool:
    """Whether ``value`` is bytes-like and large enough to travel as a buffer."""
    if isinstance(value, bytes | bytearray):
        return len(value) >= MIN_BYTES_BUFFER
    return isinstance(value, memoryview) and value.nbytes >= MIN_BYTES_BUFFER


class Encoding:
    """One message being encoded; `buffers` is what travels beside its body."""

    __slots__ = ("_depth", "buffers")

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._depth = 0

    def hook(self, value: object) -> object:
        """What stands for ``value`` in a typed position (msgspec's ``enc_hook``)."""
        if is_ndarray(value):
            return self._array(ext.NDARRAY, value)
        if is_tensor(value):
            return self._array(ext.TENSOR, value)
        return plain_hook(value)

    def raw_bytes(self, value: bytes | bytearray | memoryview) -> Ext:
        """Large bytes in a place of their own."""
        return self._bytes(ext.RAW_BYTES, value)

    def untyped(self, value: Any) -> object:
        """What stands for ``value`` where no declared type says what will arrive, so that it arrives as it is."""
        kind = type(value)
        if kind in _PLAIN or (kind is bytes and len(value) < MIN_BYTES_BUFFER):
            return value
        if encoder := ext.SCALAR_ENCODERS.get(kind):
            return encoder(value)
        if isinstance(value, _BYTES_LIKE):
            return self._bytes(ext.BYTES, value) if large_bytes(value) else bytes(value)
        if is_numpy_scalar(value):
            return self._array(ext.NUMPY_SCALAR, value)
        if is_ndarray(value) or is_tensor(value):
            return self.hook(value)
        return self._container(value)

    def key(self, value: object) -> object:
        """``value`` if it may be the key of an untyped dict."""
        if type(value) not in PLAIN_KEYS:
            raise TypeError(
                f"a key of type {type(value).__qualname__} in an untyped dict; keys are None, bool, int, float, str"
                " or bytes there: annotate it with the type of its keys"
            )
        return value

    def _container(self, value: Any) -> object:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TypeError(f"it is nested more than {MAX_DEPTH} deep")
        try:
            return self._untyped_container(value)
        finally:
            self._depth -= 1

    def _untyped_container(self, value: Any) -> object:
        if isinstance(value, dict):
            return {self.key(key): self.untyped(element) for key, element in value.items()}
        if type(value) is list:
            return [self.untyped(element) for element in value]
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return self._nested(TUPLE, value)
        if type(value) is set:
            return self._nested(SET, value)
        if type(value) is frozenset:
            return self._nested(FROZENSET, value)
        raise TypeError(_untyped_reason(value))

    def _nested(self, code: int, values: Any) -> Ext:
        return Ext(code, msgspec.msgpack.encode([self.untyped(value) for value in values]))

    def _array(self, code: int, array: Any) -> Ext:
        flat = flatten(array)
        data: bytes | int
        data = bytes(flat.data) if flat.data.nbytes < MIN_ARRAY_BUFFER else self._add(flat.data)
        return Ext(code, msgspec.msgpack.encode(ext.ArrayHeader(flat.dtype, list(flat.shape), data)))

    def _bytes(self, code: int, value: bytes | bytearray | memoryview) -> Ext:
        if isinstance(value, bytes):
            return Ext(code, msgspec.msgpack.encode(self._add(value)))
        view = memoryview(value)
        return Ext(code, msgspec.msgpack.encode(self._add(view.cast("B") if view.c_contiguous else view.tobytes())))

    def _add(self, buffer: Buffer) -> int:
        if len(buffer) > MAX_BUFFER:
            raise TypeError(f"{len(buffer)} bytes; at most {MAX_BUFFER} are allowed, send it in parts")
        if len(self.buffers) == MAX_BUFFERS:
            raise TypeError(f"more than {MAX_BUFFERS} arrays in one message; join them")
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def _untyped_reason(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if is_dataclass(value) or isinstance(value, msgspec.Struct | Enum | tuple) or is_message(value):
        return f"a {kind} where the declared type is Any, so that nobody knows what to make of it; annotate it as such"
    return f"values of type {kind} have no form on the wire"


Walk = Callable[[Any, Encoding], object]
"""Makes of a value of a type with untyped positions one that msgspec encodes right."""
