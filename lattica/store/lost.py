"""Elements of lists and texts that are garbage by a checkpoint, though their author had not heard of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pycrdt import Array, Doc, Text

from lattica.store.burial import PlaceBook, sequences
from lattica.store.item_ranges import ItemRanges
from lattica.store.item_runs import Range
from lattica.store.replica import Before, Replica
from lattica.store.roots import TextRoots
from lattica.store.sequence import Block
from lattica.store.values import as_taken
from lattica.store.yupdate import ItemId, Kind
from lattica.store.yupdate_wire import read_text


class Lost(NamedTuple):
    """Elements that belong next to each other.

    Attributes:
        root: Of their list or text.
        at: Where they have to be put, as documents count it.
        content: Values of a list; or text.
    """

    root: str
    at: int
    content: Any

    def halves(self) -> tuple[Lost, Lost]:
        """The first half of them, and the second one, to be put in before the first."""
        half = len(self.content) // 2
        return self._replace(content=self.content[:half]), self._replace(content=self.content[half:])

    def insert(self, document: Doc[Any]) -> None:
        """Put them in."""
        if isinstance(self.content, str):
            document.get(self.root, type=Text).insert(self.at, self.content)
        else:
            document.get(self.root, type=Array)[self.at : self.at] = [as_taken(value) for value in self.content]


def find_lost(before: Before, replica: Replica, elements: Iterable[Range]) -> list[Lost]:
    """Which of some elements lists and texts have lost, from first to last. Each comes after what was on its left.

    Args:
        before: What the replica has held.
        replica: As it is now.
        elements: Of each range all stay, or none.
    """
    items = replica.ledger.items
    gone = [(client, first, end) for client, first, end in elements if items.find(ItemId(client, first)).place is None]
    if not gone:
        return []
    update, now = before.document.get_update(), replica.ydoc.get_update()
    were, are = sequences(update, PlaceBook(before.items.dump())), sequences(now, PlaceBook(items.dump()))
    places = [before.items.find(ItemId(client, first)).place for client, first, _ in gone]
    return [
        lost
        for root in sorted({place.root for place in places if place is not None})
        for lost in _lost_of(
            root,
            were.get(root, ()),
            _Reader(before.document, root, update),
            ItemRanges(gone),
            _Spots(are.get(root, ()), now),
        )
    ]


def _lost_of(root: str, blocks: Sequence[Block], reader: _Reader, gone: ItemRanges, spots: _Spots) -> list[Lost]:
    found: list[Lost] = []
    together: list[Any] = []  # to be put at one place
    index = 0

    def put() -> None:
        if together:
            found.append(Lost(root, index, _joined(together)))
            together.clear()

    for block in blocks:
        if not block.lives:
            continue
        read = reader.of(block)
        for first, end, is_gone in gone.parts(block.client, block.struct.clock, block.struct.last + 1):
            if is_gone:
                together.append(read(first, end))
            elif (after := spots.after(ItemId(block.client, end - 1), index)) != index:
                put()
                index = after
    put()
    return [lost for lost in found if lost.content]


def _joined(contents: Sequence[Any]) -> Any:
    if isinstance(contents[0], str):
        return "".join(contents)
    return [value for content in contents for value in content]


class _Reader:
    """Tells what the elements of one list or text are, block by block."""

    def __init__(self, document: Doc[Any], root: str, update: bytes) -> None:
        self._values = None if root in TextRoots() else document.get(root, type=Array).to_py()
        self._update = update
        self._seen = 0

    def of(self, block: Block) -> Callable[[int, int], Any]:
        """What gives those from one clock to before another; blocks that live have to be asked for in order."""
        start = block.struct.clock
        if self._values is not None:
            values = self._values[self._seen : self._seen + block.struct.length]
            self._seen += block.struct.length
            return lambda first, end: values[first - start : end - start]
        raw = _utf_16(self._update, block)
        return lambda first, end: raw[2 * (first - start) : 2 * (end - start)].decode("utf-16-le")


class _Spots:
    """Tells where in a document the elements of one list or text are."""

    def __init__(self, blocks: Iterable[Block], update: bytes) -> None:
        self._update = update
        self._clients: dict[int, list[tuple[int, int, Block]]] = {}
        index = 0
        for block in blocks:
            if block.lives:
                self._clients.setdefault(block.client, []).append((block.struct.clock, index, block))
                index += self._size(block, block.struct.last)
        for own in self._clients.values():
            own.sort()

    def after(self, item: ItemId, otherwise: int) -> int:
        """The place directly after an element; the other one, if it does not live."""
        own = self._clients.get(item.client, [])
        at = bisect_right(own, item.clock, key=lambda spot: spot[0]) - 1
        if at < 0 or own[at][2].struct.last < item.clock:
            return otherwise
        _, index, block = own[at]
        return index + self._size(block, item.clock)

    def _size(self, block: Block, last: int) -> int:
        """What a block's elements up to one count for: of text, bytes of UTF-8."""
        if block.struct.kind is Kind.FORMAT:
            return 0
        count = last - block.struct.clock + 1
        if block.struct.kind is not Kind.STRING:
            return count
        return len(_utf_16(self._update, block)[: 2 * count].decode("utf-16-le").encode())


def _utf_16(update: bytes, block: Block) -> bytes:
    """A block's text; nothing if it is no text."""
    if block.struct.kind is not Kind.STRING:
        return b""
    return read_text(update, block.struct.content)[0].encode("utf-16-le")
