"""Whose structs a Yjs update holds, and what they refer to, without a document.

An update of format v1 (https://github.com/yjs/yjs/blob/v13.6.27/src/utils/encoding.js) is a list of structs for each
client and a set of deleted ranges. A document believes everything in it, and yrs, the library behind pycrdt, is not
made for foreign bytes: a client named twice, or deep values, end the process; too large client IDs, clocks and counts
wrap around silently; what follows the update is ignored; and what Yjs and yrs read differently (legacy JSON content,
XML hooks) makes documents differ. So give to a document only what `read_update` has accepted.

An accepted update still can put items into one that holds nothing, whereupon `apply_update` raises `RuntimeError` and
keeps what came before; put text into a list, on which yrs can loop for ever; cut a character in two, which makes a
document that cannot be read again; or refer to items that the document has not got, which then keeps the update, or the
deletions, until they come. `lattica.store.yupdate_places` finds all this.

Documents that have got the same updates, each after those that it needs, hold the same, with equal state vectors. But
their whole updates need not be equal as bytes: yrs writes mappings in any order. So do not compare, or hash, those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate_wire import read_bytes, read_client, read_count, read_text, read_uint, skip_any, skip_json

MAX_CLOCK = 2**31 - 1
"""yrs counts in 32 bits, and takes differences as signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLimits:
    """How much one update may hold.

    Attributes:
        size: Bytes.
        structs: Structs of all clients.
        clients: Clients with structs, and again clients with deletions.
        ranges: Deleted ranges of all clients.
    """

    size: int = 1 << 20
    structs: int = 1 << 16
    clients: int = 1 << 10
    ranges: int = 1 << 16


class Kind(IntEnum):
    """What a struct holds, by its number in the format; texts, XML texts too, apart from other shared types."""

    GC = 0
    DELETED = 1
    BINARY = 3
    STRING = 4
    EMBED = 5
    FORMAT = 6
    TYPE = 7
    ANY = 8
    DOC = 9
    TEXT = 16


class ItemId(NamedTuple):
    """One element: the client that wrote it, and its clock then."""

    client: int
    clock: int


class Struct(NamedTuple):
    """One run of a client's elements.

    Attributes:
        clock: Of its first element.
        length: Elements, at least one; of strings: UTF-16 units.
        kind: What it holds.
        origin: The element on its left when it was written; ``None`` if there was none.
        right_origin: The same on its right.
        parent: Name of a root, or the item that holds the shared type. ``None``: that of the origins, or of a GC none.
        parent_sub: Key in the parent, if it is a map; ``None`` also when inherited from the origins.
        size: Bytes of the content.
        joints: Of a string: the clocks before which it must not be cut, in the middle of a character of two units.
    """

    clock: int
    length: int
    kind: Kind
    origin: ItemId | None
    right_origin: ItemId | None
    parent: str | ItemId | None
    parent_sub: str | None
    size: int
    joints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class YUpdate:
    """An update that was read.

    Attributes:
        structs: For each client its structs: at least one, and clocks without gaps.
        deletions: For each client the deleted ranges, at least one: first clock, and the one after the last. In order.
    """

    structs: Mapping[int, tuple[Struct, ...]]
    deletions: Mapping[int, tuple[tuple[int, int], ...]]

    def span(self, client: int) -> tuple[int, int]:
        """The client's first clock here, and the one after its last; ``(0, 0)`` if it has none."""
        structs = self.structs.get(client)
        if structs is None:
            return 0, 0
        last = structs[-1]
        return structs[0].clock, last.clock + last.length

    def needs(self) -> dict[int, int]:
        """How far each client has to be known before this update has its full effect: the clock after the last needed.

        What the update brings itself is left out. Whether an update counts must not hang on what a replica knows by
        chance, so compare this with what the update's author has declared to have seen.
        """
        needed: dict[int, int] = {}
        for client, ranges in self.deletions.items():
            needed[client] = ranges[-1][1]
        for structs in self.structs.values():
            for struct in structs:
                for item in (struct.origin, struct.right_origin, struct.parent):
                    if isinstance(item, ItemId) and item.clock >= needed.get(item.client, 0):
                        needed[item.client] = item.clock + 1
        for client in self.structs:
            first, end = self.span(client)
            if end >= needed.get(client, 0):
                needed[client] = first
        return {client: end for client, end in needed.items() if end}


DEFAULT_LIMITS = UpdateLimits()


def read_update(raw: bytes, *, limits: UpdateLimits = DEFAULT_LIMITS) -> YUpdate:
    """Read an update of format v1; the work is linear in its size.

    Accepted is what Yjs 13 and yrs write alike for clients without gaps: no `Skip`, none of the legacy JSON content, no
    weak links, no XML hooks.

    Raises:
        DocumentUpdateError: It is malformed, holds more than the limits say, or what documents must not be given.
    """
    if len(raw) > limits.size:
        raise DocumentUpdateError(f"it has {len(raw)} bytes of at most {limits.size}")
    try:
        structs, at = _read_clients(raw, limits)
        deletions, at = _read_deletions(raw, at, limits)
    except IndexError:
        raise DocumentUpdateError("it ends too early") from None
    except UnicodeDecodeError as error:
        raise DocumentUpdateError("a string is not UTF-8") from error
    if at != len(raw):
        raise DocumentUpdateError(f"{len(raw) - at} bytes follow its end")
    return YUpdate(structs, deletions)


def check_own(update: YUpdate, client: int, first_clock: int) -> int:
    """The client's next clock after the update, which holds only structs of it, from ``first_clock`` on.

    Anybody's elements may be deleted.

    Raises:
        DocumentUpdateError: It holds another client's structs, or others of this client.
    """
    for other in update.structs:
        if other != client:
            raise DocumentUpdateError(f"it holds structs of client {other}, not of its author's {client} only")
    if not update.structs:
        return first_clock
    first, end = update.span(client)
    if first != first_clock:
        raise DocumentUpdateError(f"its clocks start at {first}, not at {first_clock} where its author's went up to")
    return end


class Blocks(NamedTuple):
    """Where in an update what is: first byte, and the one after the last.

    Attributes:
        structs: Of each client.
        deletions: Of each client.
        mappings: Contents with values that may be mappings, by kind; in order.
    """

    structs: Mapping[int, tuple[int, int]]
    deletions: Mapping[int, tuple[int, int]]
    mappings: Sequence[tuple[Kind, int, int]]


def find_blocks(raw: bytes) -> Blocks:
    """What is where in an update that yrs has just written: what it holds is not checked. Raises as `read_update`."""
    structs, deletions = {}, {}
    mappings: list[tuple[Kind, int, int]] = []
    clients, at = read_count(raw, 0)
    for _ in range(clients):
        start = at
        count, at = read_uint(raw, at)
        client, at = read_client(raw, at)
        at = read_uint(raw, at)[1]
        for _ in range(count):
            at = _skip_struct(raw, at, mappings)
        structs[client] = (start, at)
    clients, at = read_count(raw, at)
    for _ in range(clients):
        start = at
        client, at = read_client(raw, at)
        count, at = read_uint(raw, at)
        for _ in range(2 * count):
            at = read_uint(raw, at)[1]
        deletions[client] = (start, at)
    return Blocks(structs, deletions, mappings)


def _skip_struct(raw: bytes, at: int, mappings: list[tuple[Kind, int, int]]) -> int:
    info = raw[at]
    at += 1
    if not info:
        return read_uint(raw, at)[1]
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN):
        if info & HAS_ORIGIN:
            at = read_uint(raw, read_client(raw, at)[1])[1]
        if info & HAS_RIGHT_ORIGIN:
            at = read_uint(raw, read_client(raw, at)[1])[1]
    else:
        at = read_bytes(raw, at + 1)[1] if raw[at] else read_uint(raw, read_uint(raw, at + 1)[1])[1]
        if info & HAS_PARENT_SUB:
            at = read_bytes(raw, at)[1]
    found = CONTENTS.get(info & KIND_BITS)
    if found is None:
        raise DocumentUpdateError(f"structs of kind {info & KIND_BITS} are not taken")
    kind, read_content = found
    end = read_content(raw, at)[1]
    mark = _MAPPING_MARKS.get(kind)
    if mark is not None and raw.find(mark, at, end) >= 0:
        mappings.append((kind, at, end))
    return end


_MAPPING_MARKS = {Kind.ANY: b"v", Kind.EMBED: b"{", Kind.FORMAT: b"{"}
HAS_ORIGIN, HAS_RIGHT_ORIGIN, HAS_PARENT_SUB, KIND_BITS = 0x80, 0x40, 0x20, 0x1F
_XML_ELEMENT = 3
_NAMELESS_TYPES = (0, 1, 2, 4, 6)  # array, map, text, XML fragment, XML text
_TEXTS = (2, 6)
_ONE_UNIT = "\uffff"


def _read_clients(raw: bytes, limits: UpdateLimits) -> tuple[dict[int, tuple[Struct, ...]], int]:
    clients, at = read_count(raw, 0)
    if clients > limits.clients:
        raise DocumentUpdateError(f"it has structs of {clients} clients, of at most {limits.clients}")
    found: dict[int, tuple[Struct, ...]] = {}
    left = limits.structs
    for _ in range(clients):
        count, at = read_count(raw, at)
        left -= count
        if left < 0:
            raise DocumentUpdateError(f"it has more than {limits.structs} structs")
        client, at = read_client(raw, at)
        if client in found or not count:
            raise DocumentUpdateError(f"client {client} is named twice, or without structs")
        found[client], at = _read_structs(raw, at, client, count)
    return found, at


def _read_structs(raw: bytes, at: int, client: int, count: int) -> tuple[tuple[Struct, ...], int]:
    clock, at = read_uint(raw, at)
    structs = []
    for _ in range(count):
        if raw[at]:
            struct, at = _read_item(raw, at, client, clock)
        else:
            length, end = read_uint(raw, at + 1)
            struct = Struct(clock, length, Kind.GC, None, None, None, None, end - at - 1)
            at = end
        if not struct.length:
            raise DocumentUpdateError("a struct is empty")
        clock += struct.length
        if clock > MAX_CLOCK:
            raise DocumentUpdateError(f"clocks go beyond {MAX_CLOCK}")
        structs.append(struct)
    return tuple(structs), at


def _read_item(raw: bytes, at: int, client: int, clock: int) -> tuple[Struct, int]:
    info = raw[at]
    content = CONTENTS.get(info & KIND_BITS)
    if content is None:
        raise DocumentUpdateError(f"structs of kind {info & KIND_BITS} are not taken")
    kind, read_content = content
    at += 1
    origin = right_origin = parent = parent_sub = None
    if info & HAS_ORIGIN:
        origin, at = _read_id(raw, at, client, clock)
    if info & HAS_RIGHT_ORIGIN:
        right_origin, at = _read_id(raw, at, client, clock)
    if origin is None and right_origin is None:
        parent, at = _read_parent(raw, at, client, clock)
        if info & HAS_PARENT_SUB:
            parent_sub, at = read_text(raw, at)
    elif origin == right_origin:
        raise DocumentUpdateError("an item has one item on both sides")
    length, end = read_content(raw, at)
    if kind is Kind.TYPE and raw[at] in _TEXTS:
        kind = Kind.TEXT
    joints = _joints(raw, at, clock) if kind is Kind.STRING and end - at > length + 1 else ()
    return Struct(clock, length, kind, origin, right_origin, parent, parent_sub, end - at, joints), end


def _read_id(raw: bytes, at: int, client: int, clock: int) -> tuple[ItemId, int]:
    item_client, at = read_client(raw, at)
    item_clock, at = read_uint(raw, at)
    if item_clock >= (clock if item_client == client else MAX_CLOCK):
        raise DocumentUpdateError(f"an item of clock {clock} refers to clock {item_clock}, which cannot be before it")
    return ItemId(item_client, item_clock), at


def _read_parent(raw: bytes, at: int, client: int, clock: int) -> tuple[str | ItemId, int]:
    named = raw[at]
    if named > 1:
        raise DocumentUpdateError(f"a parent is of kind {named}")
    return read_text(raw, at + 1) if named else _read_id(raw, at + 1, client, clock)


def _read_deletions(raw: bytes, at: int, limits: UpdateLimits) -> tuple[dict[int, tuple[tuple[int, int], ...]], int]:
    clients, at = read_count(raw, at)
    if clients > limits.clients:
        raise DocumentUpdateError(f"it has deletions of {clients} clients, of at most {limits.clients}")
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    left = limits.ranges
    for _ in range(clients):
        client, at = read_client(raw, at)
        count, at = read_count(raw, at)
        left -= count
        if left < 0:
            raise DocumentUpdateError(f"it has more than {limits.ranges} deleted ranges")
        if client in found or not count:
            raise DocumentUpdateError(f"client {client} is named twice, or without deleted ranges")
        found[client], at = _read_ranges(raw, at, count)
    return found, at


def _read_ranges(raw: bytes, at: int, count: int) -> tuple[tuple[tuple[int, int], ...], int]:
    ranges = []
    end = 0
    for _ in range(count):
        first, at = read_uint(raw, at)
        length, at = read_uint(raw, at)
        if first < end or not length:
            raise DocumentUpdateError("deleted ranges are empty, overlap, or are not in order")
        end = first + length
        ranges.append((first, end))
    if end > MAX_CLOCK:
        raise DocumentUpdateError(f"deleted clocks go beyond {MAX_CLOCK}")
    return tuple(ranges), at


# contents: how many elements, and the position after them


def _binary(raw: bytes, at: int) -> tuple[int, int]:
    return 1, read_bytes(raw, at)[1]


def _string(raw: bytes, at: int) -> tuple[int, int]:
    text, at = read_text(raw, at)
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2, at


def _joints(raw: bytes, at: int, clock: int) -> tuple[int, ...]:
    text = read_text(raw, at)[0]
    if max(text) <= _ONE_UNIT:
        return ()
    found = []
    for character in text:
        clock += 1
        if character > _ONE_UNIT:
            found.append(clock)
            clock += 1
    return tuple(found)


def _embed(raw: bytes, at: int) -> tuple[int, int]:
    return 1, skip_json(raw, at)


def _format(raw: bytes, at: int) -> tuple[int, int]:
    return 1, skip_json(raw, read_text(raw, at)[1])


def _type(raw: bytes, at: int) -> tuple[int, int]:
    number = raw[at]
    if number == _XML_ELEMENT:
        return 1, read_text(raw, at + 1)[1]
    if number not in _NAMELESS_TYPES:
        raise DocumentUpdateError(f"shared types of kind {number} are not taken")
    return 1, at + 1


def _any(raw: bytes, at: int) -> tuple[int, int]:
    count, at = read_count(raw, at)
    for _ in range(count):
        at = skip_any(raw, at)
    return count, at


def _doc(raw: bytes, at: int) -> tuple[int, int]:
    return 1, skip_any(raw, read_text(raw, at)[1])


CONTENTS: Mapping[int, tuple[Kind, Callable[[bytes, int], tuple[int, int]]]] = {
    Kind.DELETED: (Kind.DELETED, read_uint),
    Kind.BINARY: (Kind.BINARY, _binary),
    Kind.STRING: (Kind.STRING, _string),
    Kind.EMBED: (Kind.EMBED, _embed),
    Kind.FORMAT: (Kind.FORMAT, _format),
    Kind.TYPE: (Kind.TYPE, _type),
    Kind.ANY: (Kind.ANY, _any),
    Kind.DOC: (Kind.DOC, _doc),
}
