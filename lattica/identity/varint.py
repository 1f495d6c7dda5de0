"""Unsigned varints as multiformats defines them: at most nine bytes, shortest form only.

Source: https://github.com/multiformats/unsigned-varint
"""

from __future__ import annotations

MAX_VARINT_BYTES = 9
"""Longest encoding accepted (63 bits)."""


def encode_varint(value: int) -> bytes:
    """The varint of a number from 0 to 2**63 - 1."""
    if not 0 <= value < 1 << 63:
        raise ValueError("a varint holds 0 to 2**63 - 1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int]:
    """The number at ``offset`` and the offset behind it.

    Raises:
        ValueError: It is cut off, longer than nine bytes, or not in its shortest form.
    """
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if offset + index >= len(data):
            raise ValueError("varint is cut off")
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise ValueError("varint is not in its shortest form")
            return value, offset + index + 1
    raise ValueError("varint is too long")
