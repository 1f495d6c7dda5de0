"""Base36 as in multibase (lower case, leading zero bytes kept), without the ``k`` prefix."""

from __future__ import annotations

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36_encode(data: bytes) -> str:
    """The base36 text of ``data``."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number, digits = int.from_bytes(data), []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "0" * zeros + "".join(reversed(digits))


def base36_decode(text: str) -> bytes:
    """The bytes of base36 ``text``; raises `ValueError` on any other character."""
    if not text.isascii() or not text.isalnum():
        raise ValueError("not base36")
    zeros = len(text) - len(text.lstrip("0"))
    number = int(text, 36)
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
