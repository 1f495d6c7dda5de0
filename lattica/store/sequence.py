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

    Args:
        order: Blocks in their order.
    """
    lefts = [left.last if left is not None else None for left in _earlier(order)]
    rights = [right.first if right is not None else None for right in reversed(list(_earlier(order[::-1])))]
    return {block.first: near for block, near in zip(order, zip(lefts, rights, strict=True), strict=True)}


def _earlier(order: Iterable[Block]) -> Iterator[Block | None]:
    """For each block the nearest before it that has a lower ID."""
    lower: list[Block] = []
    for block in order:
        while lower and lower[-1].first > block.first:
            lower.pop()
        yield lower[-1] if lower else None
        lower.append(block)


_END: Final = (math.inf, 0)

_Key = tuple[tuple[float, int], ...]


class _Tree:
    """Blocks below the elements that they come after; see `lattica.store.yupdate_order` for the order."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._clients: dict[int, list[int]] = {}
        for number, block in enumerate(blocks):
            self._clients.setdefault(block.client, []).append(number)
        self._next = [self._sibling(block) for block in blocks]
        self._keys: dict[int, _Key] = {}
        self._below: dict[ItemId | None, list[int]] = {}
        for number, block in enumerate(blocks):
            self._below.setdefault(block.struct.origin, []).append(number)
        self._having: dict[int, list[int]] = {}
        for above in self._below:
            if above is not None:
                self._having.setdefault(self._find(above), []).append(above.clock)

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

    def _find(self, item: ItemId) -> int:
        """Number of the block that has the element."""
        numbers = self._clients[item.client]
        return numbers[bisect_right(numbers, item.clock, key=lambda number: self._blocks[number].struct.clock) - 1]

    def _sibling(self, block: Block) -> int | None:
        """The block on its right, if that is below the same element."""
        item = block.struct.right_origin
        if item is None:
            return None
        number = self._find(item)
        right = self._blocks[number]
        return number if right.first == item and right.struct.origin == block.struct.origin else None

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
