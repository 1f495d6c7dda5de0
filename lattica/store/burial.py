"""Garbage in place of a key's values that are of no use any more, in updates and in what is known of their items.

Yjs keeps of each value that was replaced or deleted an item, since a value that somebody writes at the same time may
come after it. A checkpoint's state leaves them out: of a key only the value that lives is kept, as its first one. All
others are garbage, of which a client's neighbouring runs are one, so that a state is as large as what lives.

A value that comes later and refers to garbage is garbage itself. So it loses, whoever gets it, when, and in whatever
order: what is garbage follows from the state and from the entries beyond it.

Elements of lists and texts go one checkpoint later than they were deleted, since others name them as neighbours; those
that stay get neighbours that stay, see `lattica.store.sequence`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from lattica.store.anchors import Anchor, joined
from lattica.store.arrays import unpack
from lattica.store.item_runs import Place, is_grave, key_number, list_number
from lattica.store.sequence import Block, Neighbours, in_order, neighbours_anew
from lattica.store.yupdate import HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, KIND_BITS, ItemId, Kind
from lattica.store.yupdate_places import Displaced, ItemsDump
from lattica.store.yupdate_spans import StructSpan, clients_of
from lattica.store.yupdate_wire import write_uint


class Settled(NamedTuple):
    """A document as a checkpoint's state has it.

    Attributes:
        update: The document.
        anchors: What stands for elements of lists and texts that are not in it any more.
    """

    update: bytes
    anchors: list[Anchor]


def bury_settled(update: bytes, items: ItemsDump) -> Settled:
    """A document without what was replaced or deleted.

    Elements of lists and texts that were deleted since the checkpoint before stay, as such, until the next one.

    May run in a thread: it takes some seconds for a million items.

    Args:
        update: Of the whole document, as `joined_update` has it.
        items: Where its items are.
    """
    places = PlaceBook(items)
    neighbours, anchors = _lists(update, places)
    parts: list[bytes] = []
    end = 1  # of the structs, if there is no client
    for span, structs in clients_of(update):
        reader, written = places.of(span.client), StructWriter(update)
        for struct in structs:
            end = struct.end
            key = reader.key_at(struct.clock)
            if struct.kind is Kind.GC or (struct.kind is Kind.DELETED and key):
                written.bury(struct)
            elif key:
                written.write(places.first_of_key(update, struct, key))
            elif neighbours is not None and (number := reader.list_at(struct.clock)):
                for block in _blocks(span.client, struct, reader):
                    if block.is_grave:
                        written.bury(block.struct)
                    else:
                        near = neighbours[block.first]
                        written.write(placed_struct(update, block.struct, *near, places.name(number)[0]))
            else:
                written.keep(struct)
        parts.append(written.client(span.client, span.clock))
    return Settled(b"".join([write_uint(len(parts)), *parts, update[end:]]), joined(anchors))


def _lists(update: bytes, places: PlaceBook) -> tuple[dict[ItemId, Neighbours] | None, list[Anchor]]:
    """The neighbours that elements get, of all lists and texts, and what stands for those that get none.

    ``None``: all stay as they are.
    """
    blocks = list_blocks(update, places) if places.has_lists else {}
    if not any(block.is_grave for found in blocks.values() for block in found):
        return None, []
    lists = {root: in_order(found) for root, found in blocks.items()}
    neighbours = neighbours_anew([block for block in blocks if not block.is_grave] for blocks in lists.values())
    return neighbours, [anchor for root, blocks in lists.items() for anchor in _anchors(root, blocks)]


def _anchors(root: str, blocks: Sequence[Block]) -> Iterator[Anchor]:
    left: ItemId | None = None
    graves: list[Block] = []
    for block in [*blocks, None]:
        if block is not None and block.is_grave:
            graves.append(block)
            continue
        right = None if block is None else block.first
        for grave in graves:
            yield Anchor(grave.client, grave.struct.clock, grave.struct.last + 1, root, left, right)
        graves.clear()
        left = None if block is None else block.last


def sequences(update: bytes, places: PlaceBook) -> dict[str, list[Block]]:
    """The elements of all lists and texts, in order."""
    return {root: in_order(blocks) for root, blocks in list_blocks(update, places).items()}


def list_blocks(update: bytes, places: PlaceBook) -> dict[str, list[Block]]:
    """The elements of all lists and texts, each client's in order of their clocks."""
    found: dict[int, list[Block]] = {}
    for span, structs in clients_of(update):
        reader = places.of(span.client)
        for struct in structs:
            number = reader.list_at(struct.clock)
            if number:
                found.setdefault(number, []).extend(_blocks(span.client, struct, reader))
    return {places.name(number)[0]: blocks for number, blocks in found.items()}


def _blocks(client: int, struct: StructSpan, reader: PlaceReader) -> Iterator[Block]:
    """A struct of a list or text; if it is deleted, by whether it was so before the last checkpoint."""
    if struct.kind is not Kind.DELETED:
        yield Block(client, struct)
        return
    for first, end, was_deleted in reader.graves(struct.clock, struct.last + 1):
        origin = struct.origin if first == struct.clock else ItemId(client, first - 1)
        yield Block(client, struct._replace(clock=first, length=end - first, origin=origin), was_deleted)


def as_placed(update: bytes, displaced: Displaced) -> bytes:
    """An update with its structs where they belong, as `ItemParents.place` tells."""
    if not displaced:
        return update
    parts: list[bytes] = []
    end = 1
    for span, structs in clients_of(update):
        others, written = displaced.get(span.client, {}), StructWriter(update)
        for struct in structs:
            end = struct.end
            if struct.clock not in others:
                written.keep(struct)
            elif (other := others[struct.clock]) is None:
                written.bury(struct)
            else:
                root = other.parent if isinstance(other.parent, str) else ""
                written.write(placed_struct(update, struct, other.origin, other.right_origin, root))
        parts.append(written.client(span.client, span.clock))
    return b"".join([write_uint(len(parts)), *parts, update[end:]])


def placed_struct(
    update: bytes, struct: StructSpan, origin: ItemId | None, right_origin: ItemId | None, root: str
) -> bytes:
    """A struct of an update with other neighbours; in that root if it has none."""
    parts = [update[struct.start] & KIND_BITS]
    ids = b""
    for item, flag in ((origin, HAS_ORIGIN), (right_origin, HAS_RIGHT_ORIGIN)):
        if item is not None:
            parts[0] |= flag
            ids += write_uint(item.client) + write_uint(item.clock)
    # A part of a deleted struct is one with another length.
    content = write_uint(struct.length) if struct.kind is Kind.DELETED else update[struct.content : struct.end]
    return bytes(parts) + (ids or b"\1" + _name(root)) + content


def living_values(update: bytes, items: ItemsDump, places: Set[Place]) -> dict[Place, ItemId]:
    """The items that are the values of some keys."""
    book = PlaceBook(items)
    named = {number: Place(*book.name(number)) for number in book.numbers()}
    wanted = {number: place for number, place in named.items() if place in places}
    found: dict[Place, ItemId] = {}
    for span, structs in clients_of(update):
        reader = book.of(span.client)
        for struct in structs:
            place = wanted.get(reader.key_at(struct.clock))
            if place is not None and struct.kind not in (Kind.DELETED, Kind.GC):
                found[place] = ItemId(span.client, struct.clock)
    return found


class PlaceBook:
    """Which key each item is a value of, or which list or text it is in, by number; 0: none."""

    def __init__(self, items: ItemsDump) -> None:
        self._places = items.places
        self._roots = items.roots
        self._clients = {runs.client: (unpack("I", runs.starts), unpack("I", runs.codes)) for runs in items.clients}

    def of(self, client: int) -> PlaceReader:
        """The same for one client's items, asked for in order."""
        return PlaceReader(*self._clients[client])

    @property
    def has_lists(self) -> bool:
        """Whether there are lists or texts."""
        return any(key is None for _, key in self._places)

    def numbers(self) -> range:
        """Of all places."""
        return range(1, len(self._places) + 1)

    def name(self, number: int) -> tuple[str, str]:
        """Root and key."""
        root, key = self._places[number - 1]
        return self._roots[root], key or ""

    def first_of_key(self, update: bytes, struct: StructSpan, number: int) -> bytes:
        """A value as if it was the first one of its key."""
        if struct.origin is None and struct.right_origin is None:
            return update[struct.start : struct.end]
        info = update[struct.start] & KIND_BITS | HAS_PARENT_SUB
        return bytes((info, 1)) + b"".join(map(_name, self.name(number))) + update[struct.content : struct.end]


def _name(name: str) -> bytes:
    raw = name.encode()
    return write_uint(len(raw)) + raw


class PlaceReader:
    """Tells the places of one client's items, asked for in order."""

    def __init__(self, starts: array[int], codes: array[int]) -> None:
        self._starts = starts
        self._codes = codes
        self._at = 0

    def key_at(self, clock: int) -> int:
        """Number of the key; 0: in no root map."""
        return key_number(self._code(clock))

    def list_at(self, clock: int) -> int:
        """Number of the list or text; 0: in none."""
        return list_number(self._code(clock))

    def graves(self, clock: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """First clocks, and those after the last, of what was and was not deleted when it came, and whether it was."""
        while clock < end:
            was_deleted = is_grave(self._code(clock))
            first = clock
            while clock < end and is_grave(self._code(clock)) == was_deleted:
                clock = self._starts[self._at + 1] if self._at + 1 < len(self._starts) else end
            yield first, min(clock, end), was_deleted

    def _code(self, clock: int) -> int:
        starts, at = self._starts, self._at
        while at + 1 < len(starts) and starts[at + 1] <= clock:
            at += 1
        self._at = at
        return self._codes[at]


class StructWriter:
    """One client's structs written anew, neighbouring garbage as one.

    Attributes:
        buried: What is garbage: first clocks, and those after the last.
    """

    def __init__(self, update: bytes) -> None:
        self.buried: list[tuple[int, int]] = []
        self._update = update
        self._parts: list[bytes] = []
        self._first = self._end = -1  # of the garbage that is not written yet

    def keep(self, struct: StructSpan) -> None:
        """Write a struct of the update as it is."""
        self.write(self._update[struct.start : struct.end])

    def write(self, struct: bytes) -> None:
        """Write a struct."""
        if self._end >= 0:
            self._write_garbage()
        self._parts.append(struct)

    def bury(self, struct: StructSpan) -> None:
        """Write garbage in place of a struct."""
        if self._end < 0:
            self._first = struct.clock
        self._end = struct.clock + struct.length

    def client(self, client: int, clock: int) -> bytes:
        """All of it, as it is in an update; nothing can be written any more."""
        if self._end >= 0:
            self._write_garbage()
        return b"".join([write_uint(len(self._parts)), write_uint(client), write_uint(clock), *self._parts])

    def _write_garbage(self) -> None:
        self._parts.append(b"\0" + write_uint(self._end - self._first))
        self.buried.append((self._first, self._end))
        self._end = -1
