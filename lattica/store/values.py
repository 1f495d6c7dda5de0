"""Values as pycrdt can keep them, so that what is read equals what was written, in type too.

They go into the document as lib0's own values, which every Yjs client reads. But pycrdt gives each number back as a
float, and knows no tuples; it panics at larger integers and at halves of surrogate pairs, and takes what it does not
know inside a list for ``undefined``. Hence:

- a number without fraction is an integer. A float without one, below 2**63, is kept as ``{"$float": 1}``;
- a tuple is kept as ``{"$tuple": [...]}``;
- a dictionary whose only key is one of these marks, or ``"$dict"``, is kept as ``{"$dict": {...}}``.

Integers beyond 2**53 that no double equals are ``BigInt`` in JavaScript; 2**63 - 1 is 2**63 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from lattica.errors import StoreValueError

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | tuple[Value, ...] | dict[str, Value] | None"
"""What is read."""

Storable: TypeAlias = "bool | int | float | str | bytes | Sequence[Storable] | Mapping[str, Storable] | None"
"""What can be written, as far as types tell: of sequences and mappings only lists, tuples and dictionaries."""

MAX_DEPTH: Final = 32
"""Lists, tuples and dictionaries within each other; each one kept under a mark counts twice."""
MAX_VALUE_BYTES: Final = 64 << 10
"""Of one value in lib0's encoding, unless its container says otherwise."""
MAX_KEY_BYTES: Final = 1024
"""Of a map's key in UTF-8."""
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1

_FLOAT: Final = "$float"
_TUPLE: Final = "$tuple"
_DICT: Final = "$dict"
_MARKS: Final = frozenset((_FLOAT, _TUPLE, _DICT))
_NUMBER_BYTES: Final = 9
_WORST_COUNT_BYTES: Final = 3
_SHOWN: Final = 40

_Path: TypeAlias = "tuple[_Path, str | int] | None"


def encode_value(value: object, where: str, max_bytes: int = MAX_VALUE_BYTES) -> object:
    """The value as pycrdt keeps it; a copy.

    Args:
        value: What is to be written.
        where: Its place, for the error.
        max_bytes: How large it may be, counted in lib0's encoding, within a few bytes.

    Raises:
        StoreValueError: It is, or holds, what cannot be kept.
    """
    return _Encoder(where, max_bytes).encode(value, None, 0)


def decode_value(raw: object) -> Value:
    """The value that pycrdt gave, as it was written; a copy.

    Never fails: what nobody writes with this module, shared types and documents, is ``None``.
    """
    if isinstance(raw, float):
        return _decode_number(raw)
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw)
    if isinstance(raw, list):
        return [decode_value(one) for one in raw]
    if isinstance(raw, dict):
        return _decode_marked(raw) if len(raw) == 1 else _decode_dict(raw)
    return raw if isinstance(raw, (int, str)) else None


def as_taken(raw: object) -> object:
    """The value that pycrdt gave, as it takes it: bytes, which it gives as such that can be changed, too."""
    if isinstance(raw, bytearray):
        return bytes(raw)
    if isinstance(raw, list):
        return [as_taken(one) for one in raw]
    if isinstance(raw, dict):
        return {key: as_taken(one) for key, one in raw.items()}
    return raw


def check_key(key: object, where: str) -> str:
    """The key, if a map can have it.

    Raises:
        StoreValueError: It is no string, too long, or has half of a surrogate pair.
    """
    return _check_text(key, f"{where}, key {_short(key)}", MAX_KEY_BYTES)


def check_text(text: object, where: str, max_bytes: int = MAX_VALUE_BYTES) -> str:
    """The text, if a document can have it.

    Raises:
        StoreValueError: It is no string, too long, or has half of a surrogate pair.
    """
    return _check_text(text, where, max_bytes)


def is_integer(value: object) -> bool:
    """Whether this is an integer that can be kept; ``True`` and ``False`` are none."""
    return type(value) is int and MIN_INTEGER <= value <= MAX_INTEGER


class _Encoder:
    """Encodes one value, and counts its bytes while it does, lest it walk what has no end."""

    def __init__(self, where: str, max_bytes: int) -> None:
        self._where = where
        self._max_bytes = max_bytes
        self._left = max_bytes

    def encode(self, value: object, path: _Path, depth: int) -> object:
        if type(value) is list or type(value) is tuple or type(value) is dict:
            return self._encode_collection(value, path, depth)
        self._spend(1, path)
        if value is None or type(value) is bool:
            return value
        if type(value) is int:
            return self._encode_int(value, path)
        if type(value) is float:
            return self._encode_float(value, path)
        if type(value) is str:
            self._spend_text(value, path)
            return value
        if type(value) is bytes:
            self._spend(_WORST_COUNT_BYTES + len(value), path)
            return value
        raise self._error(path, _why_not(value))

    def _encode_int(self, value: int, path: _Path) -> int:
        self._spend(_NUMBER_BYTES, path)
        if not is_integer(value):
            raise self._error(path, "an integer beyond 64 bits cannot be kept; make it a string or bytes")
        return value

    def _encode_float(self, value: float, path: _Path) -> object:
        self._spend(_NUMBER_BYTES, path)
        if not _looks_like_integer(value):
            return value
        self._spend(len(_FLOAT) + 3, path)
        return {_FLOAT: value}

    def _encode_collection(
        self, value: list[object] | tuple[object, ...] | dict[object, object], path: _Path, depth: int
    ) -> object:
        mark = _mark(value)
        depth += 2 if mark else 1
        if depth > MAX_DEPTH:
            raise self._error(path, f"it is nested more than {MAX_DEPTH} deep, or holds itself; keep its parts apart")
        self._spend(1 + _WORST_COUNT_BYTES + (len(mark) + 3 if mark else 0), path)
        plain: object
        if isinstance(value, dict):
            plain = {
                self._encode_key(key, path): self.encode(one, (path, key if type(key) is str else ""), depth)
                for key, one in value.items()
            }
        else:
            plain = [self.encode(one, (path, index), depth) for index, one in enumerate(value)]
        return {mark: plain} if mark else plain

    def _encode_key(self, key: object, path: _Path) -> str:
        if type(key) is not str:
            raise self._error(path, f"its key {_short(key)} is no plain string; turn keys into strings")
        self._spend_text(key, (path, key))
        return key

    def _spend_text(self, text: str, path: _Path) -> None:
        self._spend(_WORST_COUNT_BYTES + len(text), path)
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise self._error(path, _SURROGATE) from None
        self._spend(size - len(text), path)

    def _spend(self, size: int, path: _Path) -> None:
        self._left -= size
        if self._left < 0:
            raise self._error(path, f"the value has more than {self._max_bytes} bytes here; keep it in parts")

    def _error(self, path: _Path, reason: str) -> StoreValueError:
        steps: list[str] = []
        while path is not None:
            path, step = path
            steps.append(f"[{_short(step)}]")
        return StoreValueError(self._where + "".join(reversed(steps)), reason)


_SURROGATE: Final = "it has half of a surrogate pair, which is no character; decode text with errors='replace'"


def _mark(value: object) -> str | None:
    if isinstance(value, tuple):
        return _TUPLE
    return _DICT if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _MARKS else None


def _why_not(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    for plain in (bool, int, float, str, bytes, list, tuple, dict):
        if isinstance(value, plain):
            return f"a {kind} would come back as {plain.__name__}; convert it with {plain.__name__}()"
    return f"a {kind} cannot be kept; use None, bool, int, float, str, bytes, list, tuple or dict"


def _check_text(text: object, where: str, max_bytes: int) -> str:
    if type(text) is not str:
        raise StoreValueError(where, f"a {type(text).__qualname__} is given, where a plain string is needed")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StoreValueError(where, _SURROGATE) from None
    if size > max_bytes:
        raise StoreValueError(where, f"it has {size} bytes, and may have {max_bytes}")
    return text


def _short(value: object) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")
    # Python itself refuses to write integers of thousands of digits.
    shown = isinstance(value, (float, bool)) or value is None or (isinstance(value, int) and value.bit_length() < 128)
    return repr(value) if shown else f"of type {type(value).__qualname__}"


def _looks_like_integer(value: float) -> bool:
    """Whether an integer that can be kept would be read as this, too."""
    return value.is_integer() and abs(value) <= 2.0**63 and (value != 0 or math.copysign(1, value) > 0)


def _decode_number(value: float) -> int | float:
    # pycrdt takes 2**63 - 1 for the double next to it, and refuses 2**63 itself.
    return min(int(value), MAX_INTEGER) if _looks_like_integer(value) else value


def _decode_marked(raw: dict[str, object]) -> Value:
    ((mark, inner),) = raw.items()
    if mark == _FLOAT and isinstance(inner, (int, float)) and not isinstance(inner, bool):
        return float(inner)
    if mark == _TUPLE and isinstance(inner, list):
        return tuple(decode_value(one) for one in inner)
    if mark == _DICT and isinstance(inner, dict):
        return _decode_dict(inner)
    return _decode_dict(raw)


def _decode_dict(raw: dict[str, object]) -> dict[str, Value]:
    """Sorted: yrs gives the keys in any order."""
    return {key: decode_value(raw[key]) for key in sorted(raw)}
