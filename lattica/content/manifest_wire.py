"""A look at an encoded manifest before protobuf parses it: how much memory would that take?

Two bytes can stand for an empty message, of which protobuf makes some hundred bytes: 64 MiB of them would take
gigabytes. So we walk the fields first, and stop as soon as there are more than any honest manifest has.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

from lattica.content.manifest_limits import MAX_FILES, MAX_RUNS, MAX_TENSOR_MESSAGE
from lattica.identity.varint import decode_varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# Field numbers in proto/lattica/v1/content.proto.
_MANIFEST_FILES, _FILE_RUNS, _FILE_TENSORS = 4, 4, 5

_OTHER_FIELDS = 64
"""Fields allowed in one message besides the repeated ones: ours have up to five, later versions may have more."""


def check_counts(data: bytes) -> None:
    """Refuse an encoded manifest with too many parts.

    Raises:
        ValueError: It has, or it is not protobuf; the message says which.
    """
    runs = tensors = 0
    for file, (_, start, end) in enumerate(_repeated(data, 0, len(data), {_MANIFEST_FILES})):
        if file >= MAX_FILES:
            raise ValueError(f"it lists more than {MAX_FILES} files")
        for part, part_start, part_end in _repeated(data, start, end, {_FILE_RUNS, _FILE_TENSORS}):
            if part == _FILE_RUNS:
                runs += 1
            else:
                tensors += 1
                if part_end - part_start > MAX_TENSOR_MESSAGE:
                    raise ValueError(f"a tensor's description has more than {MAX_TENSOR_MESSAGE} bytes")
            if runs > MAX_RUNS or tensors > MAX_RUNS:
                raise ValueError(f"it lists more than {MAX_RUNS} runs or tensors")


def _repeated(data: bytes, at: int, end: int, wanted: set[int]) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each of the wanted messages among the fields from ``at`` to ``end``."""
    others = 0
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif kind == _VARINT:
            _, at = _varint(data, start := at)
        elif kind in _FIXED_SIZES:
            start, at = at, at + _FIXED_SIZES[kind]
        else:
            raise ValueError("it is not a protobuf message")
        if at > end:
            raise ValueError("it is cut off")
        if kind == _BYTES and number in wanted:
            yield number, start, at
        elif (others := others + 1) > _OTHER_FIELDS:
            raise ValueError("it repeats fields that occur once")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    return decode_varint(data, at)
