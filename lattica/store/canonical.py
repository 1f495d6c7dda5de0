"""A document's whole content as bytes that are equal for equal documents.

yrs writes the clients of an update in any order, and may have left runs of items in pieces. So the content is put into
a new document, all at once, whereupon yrs joins what can be joined; its update is taken apart and put in order.
Deleted items stay as runs without content: others may refer to them.
"""

from __future__ import annotations

from typing import Any

from pycrdt import Doc

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import UpdateLimits, read_blocks

STATE_LIMITS = UpdateLimits(size=512 << 20, structs=1 << 27, clients=1 << 20, ranges=1 << 27)
"""A state is as large as what all authors have written and not deleted."""


def canonical_update(update: bytes) -> bytes:
    """The same content, as every replica writes it that holds the same.

    Raises:
        DocumentUpdateError: It is malformed, or parts are missing.
    """
    joined: Doc[Any] = Doc(client_id=1)
    joined.apply_update(update)
    return ordered_update(joined.get_update())


def ordered_update(update: bytes) -> bytes:
    """The update with its clients in order."""
    structs, deletions = read_blocks(update, limits=STATE_LIMITS)
    parts = [_uint(len(structs))]
    parts += [update[start:end] for _, (start, end) in sorted(structs.items())]
    parts.append(_uint(len(deletions)))
    parts += [update[start:end] for _, (start, end) in sorted(deletions.items())]
    return b"".join(parts)


def check_canonical(update: bytes) -> None:
    """Raise `DocumentUpdateError` unless the clients are in order."""
    if ordered_update(update) != update:
        raise DocumentUpdateError("a state's clients are not in order")


def _uint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
