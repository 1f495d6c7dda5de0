"""Yjs updates by hand, for what no library would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def uint(value: int) -> bytes:
    """lib0's `writeVarUint`."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str | bytes) -> bytes:
    """lib0's `writeVarString`."""
    raw = value.encode() if isinstance(value, str) else value
    return uint(len(raw)) + raw


def item(
    kind: int,
    content: bytes,
    *,
    root: str = "root",
    key: str | None = None,
    parent: tuple[int, int] | None = None,
    origin: tuple[int, int] | None = None,
    right: tuple[int, int] | None = None,
) -> bytes:
    """One item's struct."""
    info = kind | (0x80 if origin else 0) | (0x40 if right else 0) | (0x20 if key is not None else 0)
    out = bytes([info])
    for neighbour in (origin, right):
        if neighbour:
            out += uint(neighbour[0]) + uint(neighbour[1])
    if not origin and not right:
        out += b"\0" + uint(parent[0]) + uint(parent[1]) if parent else b"\1" + text(root)
        if key is not None:
            out += text(key)
    return out + content


def update(
    structs: Mapping[int, tuple[int, Sequence[bytes]]] | None = None,
    deletions: Mapping[int, Sequence[tuple[int, int]]] | None = None,
) -> bytes:
    """An update: for each client its first clock and structs, and the clock and length of what is deleted."""
    out = uint(len(structs or {}))
    for client, (clock, items) in (structs or {}).items():
        out += uint(len(items)) + uint(client) + uint(clock) + b"".join(items)
    out += uint(len(deletions or {}))
    for client, ranges in (deletions or {}).items():
        out += uint(client) + uint(len(ranges)) + b"".join(uint(clock) + uint(length) for clock, length in ranges)
    return out
