"""The items of each client by runs of those that are alike: where they are, in what, and what they hold."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from enum import IntEnum
from typing import NamedTuple, Self

import msgspec

from lattica.store.arrays import pack, unpack


class Place(NamedTuple):
    """A part of a document.

    Attributes:
        root: Name of the root.
        key: The key in it; ``None`` if the root is a list, a text or XML.
    """

    root: str
    key: str | None


Range = tuple[int, int, int]
"""Items of a client: its ID, the first clock, and the one after the last."""


class Holder(IntEnum):
    """What can hold items: a text, another shared type, or what is not known, such as a deleted one."""

    NONE = 0
    TEXT = 1
    OTHER = 2
    UNKNOWN = 3


class Within(IntEnum):
    """What items are in, numbered like `Holder`: a key's values of a map or of attributes, a text, a list or XML."""

    KEY = 0
    TEXT = 1
    LIST = 2
    UNKNOWN = 3


class Run(NamedTuple):
    """Items of one client that are alike.

    Attributes:
        clock: The first clock.
        end: The one after the last.
        place: Where they are. ``None``: nowhere, they were sent when they and what they were in had been deleted.
        within: What they are in.
        holds: What other items may be in them.
    """

    clock: int
    end: int
    place: Place | None
    within: Within
    holds: Holder


class RunsDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One client's items as a snapshot holds them; arrays of 4 bytes a number, little endian.

    Attributes:
        client: Which.
        end: Its next clock.
        starts: The first clock of each run of items that are alike.
        codes: Of each run 16 times the number of its place, from 1 on (0: none), 4 times `Within`, and `Holder`.
        joints: See `Struct`.
    """

    client: int
    end: int
    starts: bytes
    codes: bytes
    joints: bytes


_PLACE_SHIFT = 4
_WITHINS, _HOLDERS = tuple(Within), tuple(Holder)


def key_number(code: int) -> int:
    """The place in a code of `RunsDump`, if it is a key's; else 0."""
    return code >> _PLACE_SHIFT if code >> 2 & 3 == Within.KEY else 0


def list_number(code: int) -> int:
    """The place in a code of `RunsDump`, if it is a list's or a text's; else 0."""
    return code >> _PLACE_SHIFT if code >> 2 & 3 in (Within.LIST, Within.TEXT) else 0


def is_grave(code: int) -> bool:
    """Whether a code of `RunsDump` is that of elements of a list or text that had been deleted when they came."""
    return bool(list_number(code)) and code & 3 == Holder.UNKNOWN


class Runs:
    """One client's runs: where each starts, and its place, what it is within and what it holds, in one number.

    Attributes:
        end: The client's next clock.
        joints: See `Struct`.
    """

    def __init__(self) -> None:
        self.end = 0
        self.joints = array("I")
        self._starts = array("I")
        self._codes = array("I")

    @classmethod
    def load(cls, dump: RunsDump) -> Self:
        """The runs that were dumped."""
        runs = cls()
        runs.end = dump.end
        runs.joints, runs._starts, runs._codes = (unpack("I", raw) for raw in (dump.joints, dump.starts, dump.codes))
        return runs

    def dump(self, client: int) -> RunsDump:
        """All of them, for `load`."""
        return RunsDump(client, self.end, pack(self._starts), pack(self._codes), pack(self.joints))

    def append(self, run: Run, number: int) -> None:
        """Add a run at the end, in the place of that number."""
        code = number << _PLACE_SHIFT | run.within << 2 | run.holds
        if not self._codes or self._codes[-1] != code:
            self._starts.append(run.clock)
            self._codes.append(code)
        self.end = run.end

    def at(self, clock: int) -> tuple[int, Within, Holder]:
        """The number of an item's place, what it is within, and what it holds."""
        code = self._codes[bisect_right(self._starts, clock) - 1]
        return code >> _PLACE_SHIFT, _WITHINS[code >> 2 & 3], _HOLDERS[code & 3]

    def places(self, first: int, end: int) -> set[int]:
        """Numbers of the places of some items."""
        if first >= self.end:
            return set()
        start = bisect_right(self._starts, first) - 1
        if end == first + 1:
            return {self._codes[start] >> _PLACE_SHIFT}
        return {code >> _PLACE_SHIFT for code in self._codes[start : bisect_right(self._starts, end - 1)]}
