"""What one message may cost its receiver, and the scan that holds it to that before anything is built.

Beyond its own bytes, the value of one message costs at most `MAX_VALUE` of memory, arrays over buffers not counted.
msgspec allocates what a body describes, so a small body can become a large value: each byte may be a container of
hundreds. The scan reads only the structure of a body (it builds nothing), and senders run it as well, so that a value
over a limit is an error where it was made.
"""

from __future__ import annotations

import re
from typing import Final

MAX_DEPTH: Final = 32
"""Containers within containers in one message; beyond it, recursion would end in the interpreter's own limit."""

MAX_BODY: Final = 16 << 20
"""Bytes of msgpack in one message, not counting buffers. Arrays and large bytes travel beside it."""

MAX_ELEMENTS: Final = 1 << 20
"""Elements of all containers in one message, keys and values counted each. An int or str costs 30 to 70 bytes."""

MAX_CONTAINERS: Final = 1 << 16
"""Containers and extensions (arrays, tuples, datetimes) in one message: each costs up to 1 KiB, for a tensor."""

MAX_COMPOSITE_KEYS: Final = 4096
"""Map keys, or members of a set in an untyped position, that are no plain scalars. Python's hash of a tuple or Decimal
has no secret, so they can be chosen to collide; comparing this many with each other takes a fraction of a second."""

MAX_BUFFERS: Final = 4096
"""Buffers beside one message."""

MAX_BUFFER: Final = 16 << 30
"""Bytes of one buffer."""

MAX_MESSAGE: Final = 4 << 20
"""Bytes of one protobuf message in a body: gRPC's own default. Empty messages within it cost 20 times their bytes."""

MAX_DIMS: Final = 32
"""Dimensions of an array: NumPy 1's own limit."""

MIN_ARRAY_BUFFER: Final = 512
"""Arrays of fewer bytes stay in the body, where they cost a copy and no buffer of their own."""

MIN_BYTES_BUFFER: Final = 64 << 10
"""Bytes-like arguments and results of fewer bytes stay in the body."""

UNSCANNED_BODY: Final = 64 << 10
"""A body of a type that bounds its own depth is not scanned up to this size: it cannot become more than 16 MiB."""

TUPLE: Final = 5
SET: Final = 6
FROZENSET: Final = 7
NESTING_EXTENSIONS: Final = frozenset({TUPLE, SET, FROZENSET})
"""Codes of the extensions that hold msgpack themselves; the others are in `lattica.rpc.codec.extensions`."""

MAX_VALUE: Final = 128 << 20
"""Bytes that a value may cost beyond its body; a test holds hostile bodies to it. Large defaults of types are extra."""

RUN: Final = 64
"""Scalars that the scan passes at once where it can."""


class LimitError(ValueError):
    """A body breaks a limit, or has no structure at all; the message says which."""


_CONTAINER_LIKE: Final = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])
_SCALAR: Final = b"|".join(
    [
        rb"[\x00-\x7f\xa0\xc0\xc2\xc3\xe0-\xff]",
        *(re.escape(bytes([0xA0 + size])) + b".{%d}" % size for size in range(1, 32)),
        rb"[\xcc\xd0].",
        rb"[\xcd\xd1].{2}",
        rb"[\xca\xce\xd2].{4}",
        rb"[\xcb\xcf\xd3].{8}",
    ]
)
_RUN: Final = re.compile(b"(?s:%s){%d}" % (_SCALAR, RUN))
_WIDTHS: Final = {
    **dict.fromkeys([*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)], 1),
    **{0xA0 + size: 1 + size for size in range(32)},
    **dict.fromkeys([0xCC, 0xD0], 2),
    **dict.fromkeys([0xCD, 0xD1], 3),
    **dict.fromkeys([0xCA, 0xCE, 0xD2], 5),
    **dict.fromkeys([0xCB, 0xCF, 0xD3], 9),
}
"""Bytes of each scalar of fixed size, by its first byte."""
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length of bin and str."""
_COUNTS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the count of array and map, and elements for each."""
_EXTENSIONS: Final = {0xC7: (1, 0), 0xC8: (2, 0), 0xC9: (4, 0)} | {0xD4 + power: (0, 1 << power) for power in range(5)}
"""Bytes of the length of an extension, or the length itself."""


def check_body(body: bytes | bytearray | memoryview, *, bounded_depth: bool) -> None:
    """Raise `LimitError` if building the value of ``body`` could cost more than the limits allow.

    ``bounded_depth``: the declared type itself bounds how deep the value is. A truncated body may pass, for decoding
    it says so.
    """
    size = len(body)
    if size <= MAX_DEPTH or (bounded_depth and size <= UNSCANNED_BODY):
        return
    if size > MAX_BODY:
        raise LimitError(
            f"{size} bytes beside arrays; at most {MAX_BODY} are allowed, pass large bytes as an argument of their own"
        )
    data = bytes(body)
    containers = size - len(data.translate(None, _CONTAINER_LIKE))  # at most: these bytes may be within strings
    if containers <= MAX_DEPTH or (bounded_depth and containers <= MAX_CONTAINERS):
        if size > MAX_ELEMENTS:
            _Scan(data).run()
        return
    _Scan(data).run()


class _Scan:
    """One pass over the structure of a body."""

    __slots__ = ("_body", "_containers", "_elements", "_frames", "_is_map", "_keys", "_left", "_pos")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._pos = 0
        self._left = 1  # elements still to come in the innermost container
        self._is_map = False
        self._frames: list[
            tuple[int, bool, int]
        ] = []  # the outer ones: left, is_map; and the end of an inner extension
        self._elements = 0
        self._containers = 0
        self._keys = 0

    def run(self) -> None:
        try:
            self._walk()
        except IndexError:
            raise LimitError("it is truncated") from None

    def _walk(self) -> None:
        body = self._body
        while True:
            while not self._left:
                if not self._frames:
                    return
                self._leave()
            if self._left >= RUN and (run := _RUN.match(body, self._pos)):
                self._pos = run.end()
                self._left -= RUN
                continue
            first = body[self._pos]
            if width := _WIDTHS.get(first):
                self._pos += width
                self._left -= 1
            elif length := _LENGTHS.get(first):
                self._pos += 1 + length + self._number(length)
                self._left -= 1
            else:
                self._enter(first)

    def _number(self, size: int) -> int:
        at = self._pos + 1
        return int.from_bytes(self._body[at : at + size], "big")

    def _enter(self, first: int) -> None:
        self._containers += 1
        if self._is_map and not self._left % 2:
            self._keys += 1
        if first in _EXTENSIONS:
            self._extension(*_EXTENSIONS[first])
        elif first in _COUNTS:
            size, each = _COUNTS[first]
            self._container(1 + size, self._number(size) * each, is_map=each == 2)
        elif first < 0xA0:
            is_map = first < 0x90
            self._container(1, (first & 0x0F) * (1 + is_map), is_map=is_map)
        else:
            raise LimitError(f"it has the byte {first:#x}, which msgpack does not use")

    def _extension(self, length_size: int, length: int) -> None:
        length = length or self._number(length_size)
        header = 2 + length_size
        code = self._body[self._pos + header - 1]
        end = self._pos + header + length
        if code in NESTING_EXTENSIONS:
            self._push(self._pos + header, 1, is_map=False, end=end)
        else:
            self._pos = end
            self._left -= 1
            self._check()

    def _container(self, header: int, elements: int, *, is_map: bool) -> None:
        self._elements += elements
        self._push(self._pos + header, elements, is_map=is_map, end=0)

    def _push(self, pos: int, left: int, *, is_map: bool, end: int) -> None:
        self._frames.append((self._left - 1, self._is_map, end))
        self._pos, self._left, self._is_map = pos, left, is_map
        self._check()

    def _leave(self) -> None:
        self._left, self._is_map, end = self._frames.pop()
        if end and end != self._pos:
            raise LimitError("an extension has another length than what it holds")

    def _check(self) -> None:
        if self._elements > MAX_ELEMENTS:
            raise LimitError(f"more than {MAX_ELEMENTS} elements in containers; send numbers as an array")
        if self._containers > MAX_CONTAINERS:
            raise LimitError(f"more than {MAX_CONTAINERS} containers")
        if self._keys > MAX_COMPOSITE_KEYS:
            raise LimitError(f"more than {MAX_COMPOSITE_KEYS} keys that are not plain scalars")
        if len(self._frames) > MAX_DEPTH and sum(not end for _, _, end in self._frames) > MAX_DEPTH + 1:
            raise LimitError(f"it is nested more than {MAX_DEPTH} deep")
