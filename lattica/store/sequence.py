"""The elements of lists and texts in their order, and neighbours for them that do not tell how they got there.

A Yjs document tells an element's place by the neighbours that it was put between, among them such that are deleted. So
these have to be kept, or the elements need others: here each gets those that it would have had if only the elements
that are left had been written, one after another, in the order of their IDs. A document puts them in the same order,
since the neighbours of each are next to each other when it comes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from lattica.store.yupdate import ItemId, Kind
from lattica.store.yupdate_spans import StructSpan

Neighbours = tuple[ItemId | None, ItemId | None]
"""What is on the left of an element, and on its right; ``None`` if nothing is."""


class Block(NamedTuple):
    """Elements of one client that come one after another: a struct of an update that yrs has written, or a part.

    Attributes:
        client: Who wrote them.
        struct: They.
        is_grave: Whether a checkpoint has found them deleted.
    """

    client: int
    struct: StructSpan
    is_grave: bool = False

    @property
    def first(self) -> ItemId:
        """The first element."""
        return ItemId(self.client, self.struct.clock)

    @property
    def last(self) -> ItemId:
        """The last element."""
        return ItemId(self.client, self.struct.last)

    def between(self, origin: ItemId | None, right_origin: ItemId | None) -> Block:
        """The same with other neighbours."""
        return self._replace(struct=self.struct._replace(origin=origin, right_origin=right_origin))

    @property
    def lives(self) -> bool:
        """Whether they are not deleted."""
        return self.struct.kind is not Kind.DELETED


def in_order(blocks: Sequence[Block]) -> list[Block]:
    """All blocks of one list or text, in its order.

    Args:
        blocks: Each client's in order of their clocks.
    """
    return list(_Tree(blocks).walk())


def neighbours_anew(lists: Iterable[Sequence[Block]]) -> dict[ItemId, Neighbours]:
    """For the first elements of blocks the neighbours that they get; others come after the ones before them.

    Those that have neighbours which stay keep them, so that what comes later finds its place among them as before. If
    the order of a list does not follow from these and the new ones of the others, all in it get new ones; and all in
    all lists do if a document could not take them in, since each has to wait for another.

    Args:
        lists: The blocks of each list or text in their order, without graves.
    """
    anew: dict[ItemId, Neighbours] = {}
    kept: list[Block] = []
    for order in lists:
        lower = list(zip(_lefts(order), _rights(order), strict=True))
        anew.update((block.first, near) for block, near in zip(order, lower, strict=True))
        finder = _Finder(order)
        mended = [_mended(block, near, finder) for block, near in zip(order, lower, strict=True)]
        if mended == order or _is_in_order(mended):
            kept += mended
        else:
            kept += [block.between(*near) for block, near in zip(order, lower, strict=True)]
    if _can_be_taken_in(kept):
        return {block.first: (block.struct.origin, block.struct.right_origin) for block in kept}
    return anew


def _mended(block: Block, near: Neighbours, finder: _Finder) -> Block:
    """The block with other neighbours in place of those that there are not."""
    struct = block.struct
    lacks_left, lacks_right = finder.lacks(struct.origin), finder.lacks(struct.right_origin)
    if not (lacks_left or lacks_right):
        return block
    return block.between(near[0] if lacks_left else struct.origin, near[1] if lacks_right else struct.right_origin)


def _lefts(order: Sequence[Block]) -> list[ItemId | None]:
    return [block.last if block is not None else None for block in _earlier(order)]


def _rights(order: Sequence[Block]) -> list[ItemId | None]:
    return [block.first if block is not None else None for block in _earlier(order[::-1])][::-1]


def _earlier(order: Iterable[Block]) -> Iterator[Block | None]:
    """For each block the nearest before it that has a lower ID."""
    lower: list[Block] = []
    for block in order:
        while lower and lower[-1].first > block.first:
            lower.pop()
        yield lower[-1] if lower else None
        lower.append(block)


def _can_be_taken_in(blocks: Sequence[Block]) -> bool:
    """Whether there is an order in which each block comes after its neighbours, and its client's earlier ones."""
    finder = _Finder(blocks)
    after: dict[int, list[int]] = {}
    needs = [0] * len(blocks)
    pairs = [pair for own in finder.clients.values() for pair in pairwise(own)]
    for number, block in enumerate(blocks):
        near = (finder.find(block.struct.origin), finder.find(block.struct.right_origin))
        pairs += [(other, number) for other in near if other is not None]
    for one, other in pairs:
        after.setdefault(one, []).append(other)
        needs[other] += 1
    ready = [number for number, count in enumerate(needs) if not count]
    done = 0
    while ready:
        done += 1
        for number in after.get(ready.pop(), ()):
            needs[number] -= 1
            if not needs[number]:
                ready.append(number)
    return done == len(blocks)


def _is_in_order(order: Sequence[Block]) -> bool:
    """Whether documents that take these blocks in have them in this order, and each has its neighbours in order."""
    if not _can_be_taken_in(order):
        return False
    tree = _Tree(order)
    return all(map(tree.is_between, range(len(order)))) and [block.first for block in tree.walk()] == [
        block.first for block in order
    ]


class _Finder:
    """Tells in which of some blocks an element is.

    Attributes:
        clients: The numbers of each client's blocks, by their clocks.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._clocks: dict[int, list[int]] = {}
        self.clients: dict[int, list[int]] = {}
        for client, clock, number in sorted(
            (block.client, block.struct.clock, number) for number, block in enumerate(blocks)
        ):
            self.clients.setdefault(client, []).append(number)
            self._clocks.setdefault(client, []).append(clock)

    def find(self, item: ItemId | None) -> int | None:
        """Number of the block that has the element, if one has."""
        if item is None or item.client not in self.clients:
            return None
        at = bisect_right(self._clocks[item.client], item.clock) - 1
        if at < 0:
            return None
        number = self.clients[item.client][at]
        return number if item.clock <= self._blocks[number].struct.last else None

    def lacks(self, item: ItemId | None) -> bool:
        """Whether there is no such element, though there should be one."""
        return item is not None and self.find(item) is None


_END: Final = (math.inf, 0)
_START: Final = (-1, 0)

_Key = tuple[tuple[float, int], ...]


class _Tree:
    """Blocks below the elements that they come after; see `lattica.store.yupdate_order` for the order."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._finder = _Finder(blocks)
        self._next = [self._sibling(block) for block in blocks]
        self._keys: dict[int, _Key] = {}
        self._below: dict[ItemId | None, list[int]] = {}
        for number, block in enumerate(blocks):
            self._below.setdefault(block.struct.origin, []).append(number)
        self._having: dict[int, list[int]] = {}
        for above in self._below:
            holder = self._finder.find(above)
            if above is not None and holder is not None:
                self._having.setdefault(holder, []).append(above.clock)

    def is_between(self, number: int) -> bool:
        """Whether a block is between its neighbours, and these are in order; the blocks must be in theirs."""
        struct = self._blocks[number].struct
        left, right = self._place(struct.origin), self._place(struct.right_origin)
        if right is None:
            return left is None or left[0] < number
        first = self._blocks[right[0]].struct
        above = self._place(first.origin) if right[1] == first.clock else (right[0], right[1] - 1)
        return (above or _START) <= (left or _START) and (left or _START)[0] < number < right[0]

    def _place(self, item: ItemId | None) -> tuple[int, int] | None:
        number = self._finder.find(item)
        return None if item is None or number is None else (number, item.clock)

    def walk(self) -> Iterator[Block]:
        """A block, then all that is below its elements: below the last one first."""
        left = self._sorted(None)[::-1]
        while left:
            number = left.pop()
            block = self._blocks[number]
            yield block
            for clock in sorted(self._having.get(number, ())):
                left += self._sorted(ItemId(block.client, clock))[::-1]

    def _sorted(self, above: ItemId | None) -> list[int]:
        return sorted(self._below.get(above, ()), key=self._key)

    def _sibling(self, block: Block) -> int | None:
        """The block on its right, if that is below the same element."""
        number = self._finder.find(block.struct.right_origin)
        if number is None:
            return None
        right = self._blocks[number]
        is_first = right.first == block.struct.right_origin
        return number if is_first and right.struct.origin == block.struct.origin else None

    def _key(self, number: int) -> _Key:
        """By which siblings are sorted: the lowest ID in its chain, the next lowest before that, and so on."""
        chain = [number]
        while chain[-1] not in self._keys and (following := self._next[chain[-1]]) is not None:
            chain.append(following)
        key = self._keys.get(chain[-1], (_END,))
        for link in reversed(chain):
            if link not in self._keys:
                block = self._blocks[link]
                own = (float(block.client), -block.struct.clock)
                key = (*(lower for lower in key if lower < own), own, _END)
                self._keys[link] = key
        return self._keys[number]
