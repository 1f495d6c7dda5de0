"""What a service may be called: one rule for those who serve it, call it, announce it or hear of it."""

from __future__ import annotations

from typing import Final

from lattica.errors import UsageError

MAX_NAME_BYTES: Final = 200
"""Longest service name, in UTF-8."""


def check_name(name: str) -> None:
    """Raise `UsageError` unless ``name`` can be a service's: 1 to 200 bytes of UTF-8, printable, without blanks."""
    if not name or not name.isprintable() or " " in name or len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(
            f"{name[:MAX_NAME_BYTES]!r} cannot be a service's name; it takes 1 to {MAX_NAME_BYTES} bytes of printable"
            " characters without blanks"
        )
