"""What stands for elements of lists and texts that a checkpoint has left out, until the next one.

A checkpoint's state still has what was deleted since the one before, but as deleted; the next one has not. Who has not
heard of that may put something between such elements. So its state says for each run of them between which others it
was, and what refers to the run gets these for neighbours instead. The one after the next knows nothing of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import msgspec

from lattica.store.yupdate import ItemId, Struct


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


class Anchors:
    """Where deleted elements were.

    Attributes:
        all: Each, in order.
    """

    def __init__(self, anchors: Sequence[Anchor] = ()) -> None:
        self.all = anchors
        self._clients: dict[int, list[Anchor]] = {}
        for anchor in anchors:
            self._clients.setdefault(anchor.client, []).append(anchor)

    def placed(self, struct: Struct) -> Struct:
        """A struct with neighbours that are there, in place of those that were deleted."""
        left, right = self._find(struct.origin), self._find(struct.right_origin)
        anchor = left or right
        if anchor is None:
            return struct
        origin = _item(left.left) if left else struct.origin
        right_origin = _item(right.right) if right else struct.right_origin
        parent = anchor.root if origin is None and right_origin is None else None
        return struct._replace(origin=origin, right_origin=right_origin, parent=parent)

    def _find(self, item: ItemId | None) -> Anchor | None:
        if item is None or item.client not in self._clients:
            return None
        own = self._clients[item.client]
        at = bisect_right(own, item.clock, key=lambda anchor: anchor.first) - 1
        return own[at] if at >= 0 and item.clock < own[at].end else None


def _item(item: tuple[int, int] | None) -> ItemId | None:
    return None if item is None else ItemId(*item)
