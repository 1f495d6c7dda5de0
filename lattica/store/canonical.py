"""A document's whole content as bytes that are equal for equal documents.

yrs writes the clients of an update, and the keys of values that are mappings, in any order, and may have left runs of
items in pieces. So the content is put into a new document, all at once, whereupon yrs joins what can be joined; its
update is taken apart and put together in order. Deleted items stay as runs without content: others may refer to them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from pycrdt import Doc

from lattica.store.yupdate import Blocks, Kind, UpdateLimits, find_blocks
from lattica.store.yupdate_wire import read_count, read_text, sort_any, sort_json, write_uint

STATE_LIMITS = UpdateLimits(size=512 << 20, structs=1 << 27, clients=1 << 20, ranges=1 << 27)
"""A state is as large as what all authors have written and not deleted."""


def canonical_update(update: bytes) -> bytes:
    """The content of an update, which a document has given, as every replica writes it that holds the same."""
    return ordered_update(joined_update(update))


def joined_update(update: bytes) -> bytes:
    """The same, but for the order of clients, and of keys of mappings."""
    document: Doc[Any] = Doc(client_id=1)
    document.apply_update(update)
    joined: bytes = document.get_update()
    return joined


def ordered_update(update: bytes) -> bytes:
    """The update with its clients, and the keys of mappings, in order."""
    blocks = find_blocks(update)
    parts = [write_uint(len(blocks.structs))]
    for _, (start, end) in sorted(blocks.structs.items()):
        parts += _sorted_block(update, start, end, blocks)
    parts.append(write_uint(len(blocks.deletions)))
    parts += [update[start:end] for _, (start, end) in sorted(blocks.deletions.items())]
    return b"".join(parts)


def _sorted_block(update: bytes, at: int, end: int, blocks: Blocks) -> list[bytes]:
    parts = []
    first = bisect_left(blocks.mappings, at, key=lambda mapping: mapping[1])
    for kind, start, stop in blocks.mappings[first:]:
        if start >= end:
            break
        parts += [update[at:start], _sorted_content(update, start, kind)]
        at = stop
    return [*parts, update[at:end]]


def _sorted_content(update: bytes, at: int, kind: Kind) -> bytes:
    if kind is Kind.EMBED:
        return sort_json(update, at)[0]
    if kind is Kind.FORMAT:
        start, at = at, read_text(update, at)[1]
        return update[start:at] + sort_json(update, at)[0]
    count, at = read_count(update, at)
    parts = [write_uint(count)]
    for _ in range(count):
        part, at = sort_any(update, at)
        parts.append(part)
    return b"".join(parts)
