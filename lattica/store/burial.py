"""Garbage in place of a key's values that are of no use any more, in updates and in what is known of their items.

Yjs keeps of each value that was replaced or deleted an item, since a value that somebody writes at the same time may
come after it. A checkpoint's state leaves them out: of a key only the value that lives is kept, as its first one. All
others are garbage, of which a client's neighbouring runs are one, so that a state is as large as what lives.

A value that comes later and refers to garbage is garbage itself. So it loses, whoever gets it, when, and in whatever
order: what is garbage follows from the state and from the entries beyond it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Mapping, Sequence, Set

from lattica.store.arrays import pack, unpack
from lattica.store.yupdate import HAS_PARENT_SUB, KIND_BITS, ItemId, Kind
from lattica.store.yupdate_places import NOWHERE, ItemsDump, Place, RunsDump, key_number, renumbered
from lattica.store.yupdate_spans import StructSpan, clients_of
from lattica.store.yupdate_wire import write_uint


def bury_settled(update: bytes, items: ItemsDump) -> tuple[bytes, ItemsDump]:
    """A document without the values of keys that were replaced or deleted, and where its items are.

    May run in a thread: it takes some seconds for a million items.

    Args:
        update: Of the whole document.
        items: Where its items are.
    """
    keys = KeyBook(items)
    parts: list[bytes] = []
    buried: dict[int, list[tuple[int, int]]] = {}
    end = 1  # of the structs, if there is no client
    for span, structs in clients_of(update):
        reader, written = keys.of(span.client), StructWriter(update)
        for struct in structs:
            end = struct.end
            number = reader.at(struct.clock)
            if struct.kind is Kind.GC or (number and struct.kind is Kind.DELETED):
                written.bury(struct)
            elif number:
                written.write(keys.first_of_key(update, struct, number))
            else:
                written.keep(struct)
        parts.append(written.client(span.client, span.clock))
        buried[span.client] = written.buried
    return b"".join([write_uint(len(parts)), *parts, update[end:]]), bury_items(items, buried)


def without_buried(update: bytes, buried: Mapping[int, Container[int]]) -> bytes:
    """An update with garbage in place of those structs of some clients that have these clocks."""
    parts: list[bytes] = []
    end = 1
    for span, structs in clients_of(update):
        clocks, written = buried.get(span.client, ()), StructWriter(update)
        for struct in structs:
            end = struct.end
            if struct.clock in clocks:
                written.bury(struct)
            else:
                written.keep(struct)
        parts.append(written.client(span.client, span.clock))
    return b"".join([write_uint(len(parts)), *parts, update[end:]])


def bury_items(items: ItemsDump, buried: Mapping[int, Sequence[tuple[int, int]]]) -> ItemsDump:
    """Where items are when some are nowhere any more; places in which nothing is are forgotten.

    Args:
        items: Where they were.
        buried: Of clients the first clocks of runs that are buried, and those after the last, in order.
    """
    clients = [
        RunsDump(runs.client, runs.end, *_overlaid(runs, buried.get(runs.client, ())), runs.joints)
        for runs in items.clients
    ]
    return renumbered(items, clients)


def _overlaid(runs: RunsDump, buried: Sequence[tuple[int, int]]) -> tuple[bytes, bytes]:
    """First clocks and codes of a client's runs, with those that are buried."""
    starts, codes = unpack("I", runs.starts), unpack("I", runs.codes)
    if not buried:
        return runs.starts, runs.codes
    new_starts, new_codes = array("I"), array("I")

    def add(start: int, code: int) -> None:
        if not new_codes or new_codes[-1] != code:
            new_starts.append(start)
            new_codes.append(code)

    at = 0
    for first, end in buried:
        upto = bisect_left(starts, first, at)
        for index in range(at, upto):
            add(starts[index], codes[index])
        add(first, NOWHERE)
        at = bisect_right(starts, end, upto) - 1  # the run in which what comes after it begins
        if end < runs.end:
            add(end, codes[at])
        at += 1
    for index in range(at, len(starts)):
        add(starts[index], codes[index])
    return pack(new_starts), pack(new_codes)


def living_values(update: bytes, items: ItemsDump, places: Set[Place]) -> dict[Place, ItemId]:
    """The items that are the values of some keys."""
    keys = KeyBook(items)
    named = {number: Place(*keys.name(number)) for number in keys.numbers()}
    wanted = {number: place for number, place in named.items() if place in places}
    found: dict[Place, ItemId] = {}
    for span, structs in clients_of(update):
        reader = keys.of(span.client)
        for struct in structs:
            place = wanted.get(reader.at(struct.clock))
            if place is not None and struct.kind not in (Kind.DELETED, Kind.GC):
                found[place] = ItemId(span.client, struct.clock)
    return found


class KeyBook:
    """Which key each item is a value of, by number; 0: it is in no root map."""

    def __init__(self, items: ItemsDump) -> None:
        self._places = items.places
        self._roots = items.roots
        self._clients = {runs.client: (unpack("I", runs.starts), unpack("I", runs.codes)) for runs in items.clients}

    def of(self, client: int) -> KeyReader:
        """The same for one client's items, asked for in order."""
        return KeyReader(*self._clients[client])

    def numbers(self) -> range:
        """Of all places."""
        return range(1, len(self._places) + 1)

    def name(self, number: int) -> tuple[str, str]:
        """Root and key."""
        root, key = self._places[number - 1]
        return self._roots[root], key or ""

    def first_of_key(self, update: bytes, struct: StructSpan, number: int) -> bytes:
        """A value as if it was the first one of its key."""
        if not struct.has_origins:
            return update[struct.start : struct.end]
        info = update[struct.start] & KIND_BITS | HAS_PARENT_SUB
        names = b"".join(write_uint(len(name)) + name for name in map(str.encode, self.name(number)))
        return bytes((info, 1)) + names + update[struct.content : struct.end]


class KeyReader:
    """Tells the keys of one client's items, asked for in order."""

    def __init__(self, starts: array[int], codes: array[int]) -> None:
        self._starts = starts
        self._codes = codes
        self._at = 0

    def at(self, clock: int) -> int:
        """Number of the key; 0: in no root map."""
        starts, at = self._starts, self._at
        while at + 1 < len(starts) and starts[at + 1] <= clock:
            at += 1
        self._at = at
        return key_number(self._codes[at])


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
