"""Documents without the values of keys that were replaced: what is kept in memory is what lives, and not what was.

Yjs keeps of each value that was replaced an item, since a value that somebody writes at the same time may come after
it: some 13 bytes in an update, and 220 in a document's memory. Few ever come. So they are taken out of the document,
into its *graves*: there they are bytes, compressed. When one comes that refers to them, or to no value of a key that
has some, the document is made whole again, and stays so until a snapshot has buried them anew.

Until then both do the same. A value that lives is the last one of its key, so all that comes after it finds its place
without those before it. It is written as the first of its key, and these as garbage, whose clocks count as before.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from pycrdt import Doc

from lattica.store.arrays import pack, unpack
from lattica.store.burial import PlaceBook, StructWriter
from lattica.store.item_ranges import ItemRanges
from lattica.store.yupdate import Kind, YUpdate
from lattica.store.yupdate_places import ItemsDump
from lattica.store.yupdate_spans import StructSpan, clients_of
from lattica.store.yupdate_wire import write_uint

_LEVEL: Final = 1  # of zlib: higher ones take ten times as long, and save nothing


class Worth(NamedTuple):
    """When replaced values are buried: what is kept of them costs memory, too.

    Attributes:
        size: Bytes that the update has at least.
        share: Of these, how many are to be saved at least.
    """

    size: int = 1 << 16
    share: float = 0.5


WORTH: Final = Worth()


class Graves(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What was taken out of a document.

    Attributes:
        whole: The document before, as one Yjs update, compressed.
        ranges: Of each client the first clocks, and those after the last, of what was taken out; 4 bytes each, little
            endian.
        keys: Of which something was: names of roots, and their keys.
    """

    whole: bytes
    ranges: dict[int, tuple[bytes, bytes]]
    keys: dict[str, list[str]]


class Content(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a document holds, for a thread or a snapshot.

    Attributes:
        update: The document as it is, as one Yjs update.
        graves: What is not in it.
    """

    update: bytes
    graves: Graves | None = None

    def whole(self) -> bytes:
        """All of it as one update."""
        if self.graves is None:
            return self.update
        update: bytes = whole_document(self, 1).get_update()
        return update

    def buried(self, items: ItemsDump, worth: Worth = WORTH) -> Content:
        """The same with all in graves that can be, if that is worth it; ``items`` tells where its items are.

        Takes some seconds for a million items. What has graves gets others only when it has grown much again.
        """
        graves = self.graves
        if graves is not None and len(self.update) < max(worth.size, len(graves.whole)):
            return self
        whole = self.whole()
        if len(whole) >= worth.size:
            found = bury(whole, items)
            if found is not None and len(whole) - len(found.update) >= worth.share * len(whole):
                return found
        return Content(whole)


def whole_document(content: Content, client: int) -> Doc[Any]:
    """A document that has all of it, and writes as ``client``."""
    whole: Doc[Any] = Doc(client_id=client)
    if content.graves is not None:
        whole.apply_update(zlib.decompress(content.graves.whole))
    whole.apply_update(content.update)
    return whole


class GraveBook:
    """Tells what needs the whole document."""

    def __init__(self, graves: Graves) -> None:
        self._ranges = ItemRanges(
            (client, first, end)
            for client, (firsts, ends) in graves.ranges.items()
            for first, end in zip(unpack("I", firsts), unpack("I", ends), strict=True)
        )
        self._keys = {(root, key) for root, keys in graves.keys.items() for key in keys}

    def concerns(self, update: YUpdate) -> bool:
        """Whether the update has values that may come before one that lives."""
        return any(
            (struct.parent, struct.parent_sub) in self._keys if struct.origin is None else struct.origin in self._ranges
            for structs in update.structs.values()
            for struct in structs
        )


def bury(update: bytes, items: ItemsDump) -> Content | None:
    """The document of an update without the values that were replaced; ``None`` if there are none.

    Args:
        update: Of a whole document.
        items: Where its items are.
    """
    keys = PlaceBook(items)
    burial = _Burial(update, keys, _living(update, keys))
    small = burial.update()
    return Content(small, burial.graves()) if burial.found else None


def _living(update: bytes, keys: PlaceBook) -> set[int]:
    """The keys that have a value."""
    found = set()
    for span, structs in clients_of(update):
        reader = keys.of(span.client)
        for struct in structs:
            number = reader.key_at(struct.clock)
            if number and struct.kind is not Kind.DELETED and struct.kind is not Kind.GC:
                found.add(number)
    return found


class _Burial:
    """Writes an update anew, without the values before those that live.

    Attributes:
        found: Numbers of the keys of which there are such.
    """

    def __init__(self, update: bytes, keys: PlaceBook, living: set[int]) -> None:
        self._update = update
        self._keys = keys
        self._living = living
        self._ranges: dict[int, tuple[array[int], array[int]]] = {}
        self._end = 1  # of the structs: there is no client without
        self.found: set[int] = set()

    def update(self) -> bytes:
        """The update without them."""
        parts: list[bytes] = []
        for span, structs in clients_of(self._update):
            written = self._client(span.client, structs)
            parts.append(written.client(span.client, span.clock))
            if written.buried:
                firsts, ends = zip(*written.buried, strict=True)
                self._ranges[span.client] = (array("I", firsts), array("I", ends))
        return b"".join([write_uint(len(parts)), *parts, self._update[self._end :]])

    def _client(self, client: int, structs: Iterator[StructSpan]) -> StructWriter:
        reader, written = self._keys.of(client), StructWriter(self._update)
        for struct in structs:
            self._end = struct.end
            number = reader.key_at(struct.clock)
            if number not in self._living:
                written.keep(struct)
            elif struct.kind not in (Kind.DELETED, Kind.GC):
                written.write(self._keys.first_of_key(self._update, struct, number))
            else:
                self.found.add(number)
                written.bury(struct)
        return written

    def graves(self) -> Graves:
        """What was left out."""
        ranges = {client: (pack(firsts), pack(ends)) for client, (firsts, ends) in self._ranges.items()}
        keys: dict[str, list[str]] = {}
        for number in sorted(self.found):
            root, key = self._keys.name(number)
            keys.setdefault(root, []).append(key)
        return Graves(zlib.compress(self._update, _LEVEL), ranges, keys)
