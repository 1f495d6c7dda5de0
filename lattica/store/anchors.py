"""What stands for elements of lists and texts that a checkpoint has left out, until the next one.

A checkpoint's state still has what was deleted since the one before, but as deleted; the next one has not. Who has not
heard of that may put something between such elements. So its state says for each run of them between which others it
was, and what refers to the run gets these for neighbours instead. The one after the next knows nothing of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from lattica.store.yupdate import ItemId, Struct

_Sides = tuple[str, tuple[int, int] | None, tuple[int, int] | None]
"""A root, and what is on the left and on the right."""


class _Runs(NamedTuple):
    """One client's runs: first clocks, those after the last, and numbers of what is on both sides."""

    firsts: array[int]
    ends: array[int]
    sides: array[int]


class Anchor(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, order=True):
    """A run of elements that are not there any more.

    Attributes:
        client: Who wrote them.
        first: Clock of the first.
        end: The one after the last.
        root: What they were in.
        left: The element on their left: client and clock; ``None`` if there was none.
        right: The same on their right.
    """

    client: int
    first: int
    end: int
    root: str
    left: tuple[int, int] | None
    right: tuple[int, int] | None


def joined(anchors: Iterable[Anchor]) -> list[Anchor]:
    """The same in order, and as few as can be."""
    found: list[Anchor] = []
    for anchor in sorted(anchors, key=lambda anchor: (anchor.client, anchor.first)):
        last = found[-1] if found else None
        if last is not None and msgspec.structs.replace(last, first=last.end, end=anchor.end) == anchor:
            found[-1] = msgspec.structs.replace(last, end=anchor.end)
        else:
            found.append(anchor)
    return found


class Gap(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """All anchors between two elements, in few bytes.

    Attributes:
        root: See `Anchor`, and so are the next two.
        left: As there.
        right: As there.
        runs: For each client, by turns how many clocks are left out, and how many are in a run.
    """

    root: str
    left: tuple[int, int] | None
    right: tuple[int, int] | None
    runs: tuple[tuple[int, tuple[int, ...]], ...]


def packed(anchors: Iterable[Anchor]) -> list[Gap]:
    """Anchors, which are in order, by gaps."""
    gaps: dict[_Sides, dict[int, list[int]]] = {}
    ends: dict[tuple[_Sides, int], int] = {}
    for anchor in anchors:
        sides = (anchor.root, anchor.left, anchor.right)
        skipped = anchor.first - ends.get((sides, anchor.client), 0)
        gaps.setdefault(sides, {}).setdefault(anchor.client, []).extend((skipped, anchor.end - anchor.first))
        ends[sides, anchor.client] = anchor.end
    return [
        Gap(*sides, tuple((client, tuple(steps)) for client, steps in runs.items())) for sides, runs in gaps.items()
    ]


def unpacked(gaps: Iterable[Gap]) -> list[Anchor]:
    """Anchors by gaps, in order."""
    found = []
    for gap in gaps:
        for client, steps in gap.runs:
            end = 0
            for skipped, length in zip(steps[::2], steps[1::2], strict=False):
                first, end = end + skipped, end + skipped + length
                found.append(Anchor(client, first, end, gap.root, gap.left, gap.right))
    return sorted(found, key=lambda anchor: (anchor.client, anchor.first))


class Anchors:
    """Where deleted elements were; 12 bytes for each run of them.

    Args:
        anchors: In order.
    """

    def __init__(self, anchors: Iterable[Anchor] = ()) -> None:
        self._sides: list[_Sides] = []
        self._clients: dict[int, _Runs] = {}
        numbers: dict[_Sides, int] = {}
        for anchor in anchors:
            sides = (anchor.root, anchor.left, anchor.right)
            number = numbers.setdefault(sides, len(self._sides))
            if number == len(self._sides):
                self._sides.append(sides)
            runs = self._clients.setdefault(anchor.client, _Runs(array("I"), array("I"), array("I")))
            runs.firsts.append(anchor.first)
            runs.ends.append(anchor.end)
            runs.sides.append(number)

    def __iter__(self) -> Iterator[Anchor]:
        for client, runs in self._clients.items():
            for first, end, number in zip(*runs, strict=True):
                yield Anchor(client, first, end, *self._sides[number])

    def __bool__(self) -> bool:
        return bool(self._sides)

    def placed(self, struct: Struct) -> Struct:
        """A struct with neighbours that are there, in place of those that were deleted."""
        left, right = self._find(struct.origin), self._find(struct.right_origin)
        sides = left or right
        if sides is None:
            return struct
        origin = _item(left[1]) if left else struct.origin
        right_origin = _item(right[2]) if right else struct.right_origin
        parent = sides[0] if origin is None and right_origin is None else None
        return struct._replace(origin=origin, right_origin=right_origin, parent=parent)

    def _find(self, item: ItemId | None) -> _Sides | None:
        if item is None or item.client not in self._clients:
            return None
        runs = self._clients[item.client]
        at = bisect_right(runs.firsts, item.clock) - 1
        return self._sides[runs.sides[at]] if at >= 0 and item.clock < runs.ends[at] else None


def _item(item: tuple[int, int] | None) -> ItemId | None:
    return None if item is None else ItemId(*item)
