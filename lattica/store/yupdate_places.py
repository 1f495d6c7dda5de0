"""Where in a document its items are: below which root and, in root maps, below which key."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from operator import itemgetter
from typing import NamedTuple

from lattica.errors import DocumentUpdateError
from lattica.store.yupdate import ItemId, Kind, Struct, YUpdate


class Place(NamedTuple):
    """A part of a document.

    Attributes:
        root: Name of the root.
        key: The key in it; ``None`` if the root is a list, a text or XML.
    """

    root: str
    key: str | None


class Run(NamedTuple):
    """Items of one client that are in one place.

    Attributes:
        clock: The first clock.
        end: The one after the last.
        place: Where they are. ``None``: nowhere, they were sent when they and what they were in had been deleted.
        holds: Whether other items may be in them: they are shared types, or deleted ones.
    """

    clock: int
    end: int
    place: Place | None
    holds: bool


class ItemParents:
    """The place of every item in the updates that were accepted; some bytes for each run of items in one place.

    An update's effect depends on where the items are that it refers to, not on which of them a document still keeps:
    so updates have to be accepted in causal order, each once, as they were written. Do not rebuild this from a
    document: it has forgotten where its deleted items were.
    """

    def __init__(self) -> None:
        self._clients: dict[int, _Runs] = {}
        self._places: list[Place | None] = [None]
        self._numbers: dict[Place | None, int] = {None: 0}

    def end(self, client: int) -> int:
        """The client's next clock."""
        runs = self._clients.get(client)
        return 0 if runs is None else runs.end

    def find(self, item: ItemId) -> Run:
        """The item's place.

        Raises:
            DocumentUpdateError: Nobody has written it.
        """
        runs = self._clients.get(item.client)
        if runs is None or item.clock >= runs.end:
            raise DocumentUpdateError(f"nobody has written the item {item.client}:{item.clock}")
        number, holds = runs.at(item.clock)
        return Run(item.clock, item.clock + 1, self._places[number], holds)

    def roots_touched(self, update: YUpdate) -> set[Place]:
        """The places in which the update writes or deletes. Nothing is changed; an update refused here has no effect.

        Raises:
            DocumentUpdateError: It refers to unknown items, puts items into items that hold nothing or between items of
                different places, or does not start at its clients' next clocks.
        """
        added = _Added(self, update)
        touched = {run.place for runs in added.runs.values() for run in runs}
        for client, ranges in update.deletions.items():
            known = self._clients.get(client)
            for first, end in ranges:
                if end > max(self.end(client), update.span(client)[1]):
                    raise DocumentUpdateError(f"it deletes what client {client} has not written")
                if known is not None:
                    touched.update(self._places[number] for number in known.places(first, end))
                touched.update(run.place for run in added.runs.get(client, ()) if run.clock < end and first < run.end)
        return {place for place in touched if place is not None}

    def accept(self, update: YUpdate) -> None:
        """Add the update's items.

        Raises:
            DocumentUpdateError: As from `roots_touched`; nothing was added.
        """
        for client, added in _Added(self, update).runs.items():
            runs = self._clients.setdefault(client, _Runs())
            for run in added:
                runs.append(run, self._number(run.place))

    def _number(self, place: Place | None) -> int:
        number = self._numbers.setdefault(place, len(self._places))
        if number == len(self._places):
            self._places.append(place)
        return number


class _Runs:
    """One client's runs: 8 bytes each."""

    def __init__(self) -> None:
        self.end = 0
        self._starts = array("I")
        self._codes = array("I")  # twice the place's number; odd: it holds

    def append(self, run: Run, number: int) -> None:
        code = 2 * number + run.holds
        if not self._codes or self._codes[-1] != code:
            self._starts.append(run.clock)
            self._codes.append(code)
        self.end = run.end

    def at(self, clock: int) -> tuple[int, bool]:
        code = self._codes[bisect_right(self._starts, clock) - 1]
        return code >> 1, bool(code & 1)

    def places(self, first: int, end: int) -> set[int]:
        start = max(bisect_right(self._starts, first) - 1, 0)
        return (
            {code >> 1 for code in self._codes[start : bisect_right(self._starts, end - 1)]}
            if first < self.end
            else set()
        )


class _Added:
    """The runs that an update adds to those known.

    Clients of one update may refer to each other, so each goes on as far as the others let it. The work is linear in
    the structs for one client, and can be the structs times the clients: `check_own` of foreign updates comes first.
    """

    def __init__(self, known: ItemParents, update: YUpdate) -> None:
        self._known = known
        self.runs: dict[int, list[Run]] = {}
        for client in update.structs:
            first = update.span(client)[0]
            if first != known.end(client):
                raise DocumentUpdateError(f"client {client} goes on at {first}, not at {known.end(client)}")
            self.runs[client] = []
        waiting = dict.fromkeys(update.structs, 0)
        while waiting:
            before = dict(waiting)
            for client, done in before.items():
                structs = update.structs[client]
                waiting[client] = self._advance(client, structs, done)
                if waiting[client] == len(structs):
                    del waiting[client]
            if waiting == before:
                raise DocumentUpdateError("it refers to items that nobody has written")

    def _advance(self, client: int, structs: tuple[Struct, ...], done: int) -> int:
        runs = self.runs[client]
        while done < len(structs):
            struct = structs[done]
            if not all(self._has(item) for item in (struct.origin, struct.right_origin, struct.parent)):
                break
            holds = struct.kind in (Kind.TYPE, Kind.DELETED, Kind.GC)
            runs.append(Run(struct.clock, struct.clock + struct.length, self._place(struct), holds))
            done += 1
        return done

    def _has(self, item: str | ItemId | None) -> bool:
        if not isinstance(item, ItemId) or item.clock < self._known.end(item.client):
            return True
        runs = self.runs.get(item.client, [])
        return item.clock < (runs[-1].end if runs else 0)

    def _find(self, item: ItemId) -> Run:
        runs = self.runs.get(item.client)
        if not runs or item.clock < runs[0].clock:
            return self._known.find(item)
        return runs[bisect_right(runs, item.clock, key=itemgetter(0)) - 1]

    def _place(self, struct: Struct) -> Place | None:
        if isinstance(struct.parent, str):
            return Place(struct.parent, struct.parent_sub)
        if struct.parent is not None:
            parent = self._find(struct.parent)
            if not parent.holds:
                raise DocumentUpdateError("an item is put into one that holds nothing")
            return parent.place
        left = self._find(struct.origin).place if struct.origin is not None else None
        right = self._find(struct.right_origin).place if struct.right_origin is not None else None
        if left is not None and right is not None and left != right:
            raise DocumentUpdateError("an item is put between two of different places")
        # If its left neighbour is gone yrs takes the parent of the right one.
        return left if left is not None else right
