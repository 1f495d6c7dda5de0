"""Which stretch of the chunks not yet asked for is whose: work stealing over index ranges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Region:
    """Chunks ``low`` to ``high`` (exclusive); taken from the low end."""

    low: int = 0
    high: int = 0

    def __len__(self) -> int:
        return self.high - self.low


class Regions:
    """The chunks that nobody has been asked for.

    Each provider works through a region of its own, in order: that suits the disks at both ends, and two fetchers that
    begin at different places soon have something to give each other. Who has none left gets a free one, else the
    back half of the largest; so the fast end up with more, after few divisions.

    Attributes:
        remaining: How many chunks are in regions, free or taken.
    """

    def __init__(self, count: int, start: int = 0) -> None:
        self.remaining = count
        self._free = [region for region in (Region(start, count), Region(0, start)) if region]
        self._taken: list[Region] = []

    def join(self) -> Region:
        """A new provider's region, still empty."""
        region = Region()
        self._taken.append(region)
        return region

    def leave(self, region: Region) -> None:
        """Free a region, with what is left of it, for others."""
        self._taken.remove(region)
        if region:
            self._free.append(region)

    def fill(self, region: Region) -> bool:
        """Give an empty region chunks; whether there were any."""
        if self._free:
            source = self._free.pop(0)
            middle = source.low
        else:
            source = max(self._taken, key=len)
            middle = (source.low + source.high) // 2
        region.low, region.high = middle, source.high
        source.high = middle
        return bool(region)

    def take(self, region: Region) -> int:
        """Remove and return a region's first chunk; the region must have one."""
        chunk = region.low
        region.low += 1
        self.remaining -= 1
        return chunk
