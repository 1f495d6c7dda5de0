"""Values that msgpack does not have, as its extensions: codes, and what each holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec.msgpack import Ext

from lattica.rpc.codec.limits import MAX_BUFFERS, MAX_DIMS

NDARRAY: Final = 1
TENSOR: Final = 2
NUMPY_SCALAR: Final = 3
BYTES: Final = 4
"""Bytes that travel as a buffer; holds its index."""
DATETIME: Final = 8
DATE: Final = 9
TIME: Final = 10
TIMEDELTA: Final = 11
DECIMAL: Final = 12
UUID_: Final = 13
RAW_BYTES: Final = 14
"""As `BYTES`, but arrives as a view: for an argument or result whose declared type then decides."""

ARRAY_CODES: Final = frozenset({NDARRAY, TENSOR, NUMPY_SCALAR})


class ArrayHeader(msgspec.Struct, array_like=True):
    """What an array's extension holds.

    Attributes:
        dtype: NumPy's name of it.
        shape: Elements in each dimension.
        data: The elements, C order, little-endian; or the index of the buffer that holds them.
    """

    dtype: Annotated[str, msgspec.Meta(max_length=40)]
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]], msgspec.Meta(max_length=MAX_DIMS)]
    data: bytes | Annotated[int, msgspec.Meta(ge=0, lt=MAX_BUFFERS)]


INDEX: Final = msgspec.msgpack.Decoder(Annotated[int, msgspec.Meta(ge=0, lt=MAX_BUFFERS)])
HEADER: Final = msgspec.msgpack.Decoder(ArrayHeader)
_TRIPLE: Final = msgspec.msgpack.Decoder(tuple[int, int, int])


def _timedelta(data: memoryview) -> timedelta:
    days, seconds, microseconds = _TRIPLE.decode(data)
    return timedelta(days, seconds, microseconds)


def _text(data: memoryview) -> str:
    return str(data, "ascii")


SCALAR_ENCODERS: Final[Mapping[type, Callable[[Any], Ext]]] = {
    datetime: lambda value: Ext(DATETIME, value.isoformat().encode()),
    date: lambda value: Ext(DATE, value.isoformat().encode()),
    time: lambda value: Ext(TIME, value.isoformat().encode()),
    timedelta: lambda value: Ext(TIMEDELTA, msgspec.msgpack.encode((value.days, value.seconds, value.microseconds))),
    Decimal: lambda value: Ext(DECIMAL, str(value).encode()),
    UUID: lambda value: Ext(UUID_, value.bytes),
}
"""For untyped positions; typed ones have msgspec's own forms."""

SCALAR_DECODERS: Final[Mapping[int, Callable[[memoryview], object]]] = {
    DATETIME: lambda data: datetime.fromisoformat(_text(data)),
    DATE: lambda data: date.fromisoformat(_text(data)),
    TIME: lambda data: time.fromisoformat(_text(data)),
    TIMEDELTA: _timedelta,
    DECIMAL: lambda data: Decimal(_text(data)),
    UUID_: lambda data: UUID(bytes=bytes(data)),
}
