"""Items by ranges of their clients' clocks."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from lattica.store.item_runs import Range
from lattica.store.yupdate import ItemId


class ItemRanges:
    """Some items; the ranges must not overlap. 8 bytes for each."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._clients: dict[int, tuple[array[int], array[int]]] = {}
        for client, first, end in sorted(ranges):
            firsts, ends = self._clients.setdefault(client, (array("I"), array("I")))
            firsts.append(first)
            ends.append(end)

    def __contains__(self, item: ItemId) -> bool:
        firsts, ends = self._clients.get(item.client, ((), ()))
        at = bisect_right(firsts, item.clock) - 1
        return at >= 0 and item.clock < ends[at]

    def parts(self, client: int, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """First clocks, and those after the last, of those of a client's items that are and are not among these."""
        firsts, ends = self._clients.get(client, ((), ()))
        at = max(bisect_right(firsts, first) - 1, 0)
        while at < len(firsts) and firsts[at] < end:
            start, stop = max(firsts[at], first), min(ends[at], end)
            if start < stop:
                if first < start:
                    yield first, start, False
                yield start, stop, True
                first = stop
            at += 1
        if first < end:
            yield first, end, False
