"""Where in an update its structs are: for who leaves most of it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lattica.store.yupdate import CONTENTS, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, KIND_BITS, ItemId, Kind
from lattica.store.yupdate_wire import read_bytes, read_client, read_count, read_uint


class StructSpan(NamedTuple):
    """One struct.

    Attributes:
        clock: Of its first element.
        length: Elements.
        kind: What it holds.
        origin: As in `Struct`, and so is the next.
        right_origin: Who has neither names a parent.
        start: Its first byte.
        content: The first byte of its content.
        end: The byte after it.
    """

    clock: int
    length: int
    kind: Kind
    origin: ItemId | None
    right_origin: ItemId | None
    start: int
    content: int
    end: int

    @property
    def last(self) -> int:
        """Clock of its last element."""
        return self.clock + self.length - 1


class ClientSpan(NamedTuple):
    """One client's structs: its ID, how many they are, and where the first one is, in clocks and bytes."""

    client: int
    structs: int
    clock: int
    start: int


def clients_of(update: bytes) -> Iterator[tuple[ClientSpan, Iterator[StructSpan]]]:
    """The structs of an update that yrs has just written, by client; each client's must be taken before the next."""
    clients, at = read_count(update, 0)
    for _ in range(clients):
        count, at = read_uint(update, at)
        client, at = read_client(update, at)
        clock, at = read_uint(update, at)
        reader = _Structs(update, at, clock)
        yield ClientSpan(client, count, clock, at), reader.take(count)
        at = reader.at


class _Structs:
    """Reads structs one after another."""

    def __init__(self, update: bytes, at: int, clock: int) -> None:
        self.at = at
        self._clock = clock
        self._update = update

    def take(self, count: int) -> Iterator[StructSpan]:
        for _ in range(count):
            struct = _read(self._update, self.at, self._clock)
            self.at = struct.end
            self._clock += struct.length
            yield struct


def _read(raw: bytes, start: int, clock: int) -> StructSpan:
    info = raw[start]
    at = start + 1
    if not info:
        length, end = read_uint(raw, at)
        return StructSpan(clock, length, Kind.GC, None, None, start, at, end)
    origin = right_origin = None
    if info & HAS_ORIGIN:
        origin, at = _read_id(raw, at)
    if info & HAS_RIGHT_ORIGIN:
        right_origin, at = _read_id(raw, at)
    if not info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN):
        at = read_bytes(raw, at + 1)[1] if raw[at] else read_uint(raw, read_uint(raw, at + 1)[1])[1]
        if info & HAS_PARENT_SUB:
            at = read_bytes(raw, at)[1]
    kind, read_content = CONTENTS[info & KIND_BITS]
    length, end = read_content(raw, at)
    return StructSpan(clock, length, kind, origin, right_origin, start, at, end)


def _read_id(raw: bytes, at: int) -> tuple[ItemId, int]:
    client, at = read_client(raw, at)
    clock, at = read_uint(raw, at)
    return ItemId(client, clock), at
