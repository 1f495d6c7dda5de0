"""The receiver's half for one message: extensions and buffers become values, and each is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args, get_origin

import msgspec
from google.protobuf.message import DecodeError as MessageError

from lattica.rpc.codec import extensions as ext
from lattica.rpc.codec.arrays import Buffer, build_ndarray, build_tensor, is_ndarray, is_tensor, to_ndarray, to_tensor
from lattica.rpc.codec.declared import custom_kind
from lattica.rpc.codec.encoding import PLAIN_KEYS
from lattica.rpc.codec.limits import MAX_COMPOSITE_KEYS, MAX_MESSAGE, NESTING_EXTENSIONS, SET, TUPLE

_TENSOR_CODES: Final = {"ndarray": ext.NDARRAY, "tensor": ext.TENSOR}


class Decoding:
    """One message being decoded.

    ``only``: the one kind of array that the declared type has, so that whichever of NumPy and torch was sent, the
    other need not be installed here; ``None`` to build each array as it was sent.
    """

    __slots__ = ("_buffers", "_only", "_unused")

    def __init__(self, buffers: Sequence[Buffer], only: str | None) -> None:
        self._buffers = buffers
        self._unused = set(range(len(buffers)))
        self._only = _TENSOR_CODES[only] if only else None

    def finish(self, body: Buffer) -> None:
        """Raise ``ValueError`` if a buffer belongs to nothing in ``body``."""
        if self._unused:
            # a newer sender's parameters and fields are skipped unread: what belongs to them is in order
            self._unused = set(range(len(self._buffers)))
            msgspec.msgpack.decode(body, ext_hook=self._mention)
            if self._unused:
                raise ValueError(f"the buffers {sorted(self._unused)[:8]} belong to nothing in it")

    def _mention(self, code: int, data: memoryview) -> None:
        if code in NESTING_EXTENSIONS:
            msgspec.msgpack.decode(data, ext_hook=self._mention)
        elif code in ext.ARRAY_CODES:
            self._unused.discard(place if isinstance(place := ext.HEADER.decode(data).data, int) else -1)
        elif code in (ext.BYTES, ext.RAW_BYTES):
            self._unused.discard(ext.INDEX.decode(data))

    def extension(self, code: int, data: memoryview) -> object:
        """The value of one extension (msgspec's ``ext_hook``)."""
        if code in ext.ARRAY_CODES:
            return self._array(code, data)
        if code in NESTING_EXTENSIONS:
            return self._nested(code, data)
        if decoder := ext.SCALAR_DECODERS.get(code):
            return decoder(data)
        if code == ext.BYTES:
            return whole_bytes(self._take(ext.INDEX.decode(data)))
        if code == ext.RAW_BYTES:
            return memoryview(self._take(ext.INDEX.decode(data)))
        raise ValueError(f"it has an extension with the unknown code {code}")

    def _take(self, index: int) -> Buffer:
        if index not in self._unused:
            raise ValueError(f"it wants the buffer {index} of {len(self._buffers)}, which is not there or taken")
        self._unused.remove(index)
        return self._buffers[index]

    def _array(self, code: int, data: memoryview) -> object:
        header = ext.HEADER.decode(data)
        # bytes within the body are copied: the array can be written to, and the body let go
        octets = self._take(header.data) if isinstance(header.data, int) else bytearray(header.data)
        if code == ext.NUMPY_SCALAR:
            return build_ndarray(header.dtype, header.shape, octets)[()]
        build = build_tensor if (self._only or code) == ext.TENSOR else build_ndarray
        return build(header.dtype, header.shape, octets)

    def _nested(self, code: int, data: memoryview) -> object:
        elements = msgspec.msgpack.decode(data, type=list, ext_hook=self.extension)
        if code == TUPLE:
            return tuple(elements)
        if len(elements) > MAX_COMPOSITE_KEYS and not all(type(element) in PLAIN_KEYS for element in elements):
            raise ValueError(f"a set of more than {MAX_COMPOSITE_KEYS} members that are not plain scalars")
        return set(elements) if code == SET else frozenset(elements)

    def custom(self, declared: Any, value: Any) -> object:
        """The value of a declared type that msgspec does not know (its ``dec_hook``)."""
        kind = custom_kind(declared)
        if kind == "message":
            return _message(declared, value)
        if kind == "scalar":
            return _scalar(declared, value)
        if kind == "choice":
            return self._choose(declared, value)
        if not _is_array(value):
            raise ValueError(f"Expected an array, got `{type(value).__name__}`")
        if kind == "tensor":
            return to_tensor(value)
        return _checked_dtype(to_ndarray(value), declared)

    def _choose(self, declared: Any, value: Any) -> object:
        """The member of a union that ``value`` is: an array as it came if it may, converted if not."""
        if declared.bytes_kind and isinstance(value, bytes | memoryview):
            return _as_bytes(value, declared)
        kinds = {custom_kind(member): member for member in declared.customs}
        if _is_array(value):
            own = "tensor" if is_tensor(value) else "ndarray"
            member = kinds.get(own) or kinds.get("ndarray") or kinds.get("tensor")
            if member is not None:
                return self.custom(member, value)
        if isinstance(value, bytes) and "message" in kinds:
            return self.custom(kinds["message"], value)
        if declared.rest is None:
            raise ValueError(f"Expected one of {len(declared.customs)} types, got `{type(value).__name__}`")
        return msgspec.convert(value, declared.rest, dec_hook=self.custom)


def whole_bytes(buffer: Buffer) -> bytes:
    """``buffer`` as bytes: itself, or what it is a view of, if that is bytes and nothing else."""
    if isinstance(buffer, bytes):
        return buffer
    whole = buffer.obj if isinstance(buffer, memoryview) else None
    return whole if type(whole) is bytes and len(whole) == len(buffer) else bytes(buffer)


def _as_bytes(value: bytes | memoryview, declared: Any) -> object:
    """Bytes of an argument or result, which may have come beside the body, as the bytes-like type declared for it."""
    if declared.bytes_kind is not bytes:
        return declared.bytes_kind(value)
    return msgspec.convert(whole_bytes(value), declared.rest)  # for the lengths that an annotation may ask for


def _is_array(value: object) -> bool:
    return is_ndarray(value) or is_tensor(value)


def _message(declared: Any, value: object) -> object:
    if not isinstance(value, bytes):
        raise TypeError(f"Expected a {declared.__name__} message, got `{type(value).__name__}`")
    if len(value) > MAX_MESSAGE:
        raise ValueError(f"a {declared.__name__} message of {len(value)} bytes; at most {MAX_MESSAGE} are allowed")
    try:
        return declared.FromString(value)
    except MessageError as error:
        raise ValueError(f"Expected a {declared.__name__} message: {error}") from None


def _scalar(declared: Any, value: object) -> object:
    if not isinstance(value, int | float | str | bytes) and not hasattr(value, "dtype"):
        raise ValueError(f"Expected a {declared.__name__}, got `{type(value).__name__}`")
    return declared(value)


def _checked_dtype(array: Any, declared: Any) -> object:
    wanted = dtype_of(declared)
    if wanted is not None and not issubclass(array.dtype.type, wanted):
        raise ValueError(f"Expected an array of {wanted.__name__}, got one of {array.dtype}")
    return array


def dtype_of(declared: Any) -> type | None:
    """The scalar type that ``numpy.typing.NDArray[...]`` names, or ``None`` if it names none."""
    arguments = get_args(declared)
    dtypes = get_args(arguments[1]) if get_origin(declared) is not None and len(arguments) == 2 else ()
    return dtypes[0] if dtypes and isinstance(dtypes[0], type) else None
