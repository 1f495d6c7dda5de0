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


def neighbours_anew(order: Sequence[Block]) -> dict[ItemId, Neighbours]:
    """For the first elements of blocks the neighbours that they get; others come after the ones before them.

    Those that have neighbours which stay keep them, so that what comes later finds its place among them as before. If
    the order does not follow from these and the new ones of the others, all get new ones.

    Args:
        order: Blocks in their order, without graves.
    """
    lower = dict(zip((block.first for block in order), zip(_lefts(order), _rights(order), strict=True), strict=True))
    tree = _Tree(order)
    mended = [
        block.between(
            lower[block.first][0] if tree.lacks(block.struct.origin) else block.struct.origin,
            lower[block.first][1] if tree.lacks(block.struct.right_origin) else block.struct.right_origin,
        )
        for block in order
    ]
    if _follows(mended):
        return {block.first: (block.struct.origin, block.struct.right_origin) for block in mended}
    return lower


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


def _follows(order: Sequence[Block]) -> bool:
    """Whether a document that gets these blocks has them in this order, and can take them in at all."""
    tree = _Tree(order)
    return tree.is_proper() and [block.first for block in tree.walk()] == [block.first for block in order]


_END: Final = (math.inf, 0)
_START: Final = (-1, 0)

_Key = tuple[tuple[float, int], ...]


class _Tree:
    """Blocks below the elements that they come after; see `lattica.store.yupdate_order` for the order."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._clients: dict[int, list[int]] = {}
        for number in sorted(range(len(blocks)), key=lambda number: blocks[number].first):
            self._clients.setdefault(blocks[number].client, []).append(number)
        self._next = [self._sibling(block) for block in blocks]
        self._keys: dict[int, _Key] = {}
        self._below: dict[ItemId | None, list[int]] = {}
        for number, block in enumerate(blocks):
            self._below.setdefault(block.struct.origin, []).append(number)
        self._having: dict[int, list[int]] = {}
        for above in self._below:
            holder = self._find(above)
            if above is not None and holder is not None:
                self._having.setdefault(holder, []).append(above.clock)

    def lacks(self, item: ItemId | None) -> bool:
        """Whether there is no such element, though there should be one."""
        return item is not None and self._find(item) is None

    def is_proper(self) -> bool:
        """Whether a document can take the blocks in one after another, and each has its neighbours in order.

        The blocks must be in the order that is claimed.
        """
        return all(map(self._is_between, range(len(self._blocks)))) and self._has_beginning()

    def _is_between(self, number: int) -> bool:
        struct = self._blocks[number].struct
        left, right = self._place(struct.origin), self._place(struct.right_origin)
        if right is None:
            return left is None or left[0] < number
        first = self._blocks[right[0]].struct
        above = self._place(first.origin) if right[1] == first.clock else (right[0], right[1] - 1)
        return (above or _START) <= (left or _START) and (left or _START)[0] < number < right[0]

    def _place(self, item: ItemId | None) -> tuple[int, int] | None:
        number = self._find(item)
        return None if item is None or number is None else (number, item.clock)

    def _has_beginning(self) -> bool:
        """Whether there is an order in which each block comes after its neighbours, and its client's earlier ones."""
        after: dict[int, list[int]] = {}
        needs = [0] * len(self._blocks)
        before = [pair for own in self._clients.values() for pair in pairwise(own)]
        for number, block in enumerate(self._blocks):
            near = (self._find(block.struct.origin), self._find(block.struct.right_origin))
            before += [(other, number) for other in near if other is not None]
        for one, other in before:
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
        return done == len(self._blocks)

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

    def _find(self, item: ItemId | None) -> int | None:
        """Number of the block that has the element, if one has."""
        numbers = self._clients.get(item.client, []) if item is not None else []
        if item is None or not numbers:
            return None
        at = bisect_right(numbers, item.clock, key=lambda number: self._blocks[number].struct.clock) - 1
        return numbers[at] if at >= 0 and item.clock <= self._blocks[numbers[at]].struct.last else None

    def _sibling(self, block: Block) -> int | None:
        """The block on its right, if that is below the same element."""
        number = self._find(block.struct.right_origin)
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
