"""Where in a document its items are: below which root and, in root maps, below which key."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from lattica.errors import DocumentUpdateError
from lattica.store.anchors import Anchor, Anchors, Gap, packed, unpacked
from lattica.store.item_runs import Holder, Place, Range, Run, Runs, RunsDump, Within
from lattica.store.yupdate import ItemId, Kind, Struct, YUpdate
from lattica.store.yupdate_order import ItemOrder, OrderDump

Displaced = Mapping[int, Mapping[int, Struct | None]]
"""For clients and first clocks structs as they have to be written; ``None``: as garbage, since they refer to such."""


class Placement(NamedTuple):
    """Where an update's items belong.

    Attributes:
        update: The update.
        touched: The places in which it writes or deletes.
        runs: Its items, for each client.
        displaced: For clients and clocks those of its structs that belong elsewhere than they say.
    """

    update: YUpdate
    touched: set[Place]
    runs: Mapping[int, Sequence[Run]]
    displaced: Displaced


class ItemsDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The places of items as a snapshot holds them.

    Attributes:
        roots: Names of roots.
        places: Number of a root, and the key in it.
        clients: Each one's items.
        order: The order of items in lists and texts.
        anchors: What stands for some that were deleted.
        rejected: See `ItemParents`.
        rejected_before: See `ItemParents`.
    """

    roots: list[str]
    places: list[tuple[int, str | None]]
    clients: list[RunsDump]
    order: OrderDump
    anchors: list[Gap]
    rejected: list[Range]
    rejected_before: list[Range]


_HOLDS = {Kind.TEXT: Holder.TEXT, Kind.TYPE: Holder.OTHER, Kind.DELETED: Holder.UNKNOWN, Kind.GC: Holder.UNKNOWN}
_ONLY_IN_TEXTS = (Kind.STRING, Kind.EMBED, Kind.FORMAT)
_NEVER_IN_TEXTS = (Kind.ANY, Kind.BINARY, Kind.DOC)


class ItemParents:
    """The place of every item in the updates that were accepted.

    Kept are 8 bytes for each run of items that are alike, and 36 for each run in a list or text that was put there item
    after item.

    An update's effect depends on where the items are that it refers to, not on which of them a document still keeps:
    so updates have to be accepted in causal order, each once, as they were written. Do not rebuild this from a
    document: it has forgotten where its deleted items were.

    A new value of a key comes after the last one: yrs merges others differently in different orders.

    What refers to garbage is garbage itself, wherever else it was to be. Yjs and yrs see to that only in part.

    Texts hold strings, embeds and formats, and nothing else does: yrs loops for ever on a list with an emoji from a
    string, and panics when a text with other values is cleared. The format does not tell which roots are texts.

    In lists and texts an item whose neighbours are not in order gets others, see `lattica.store.yupdate_order`, and so
    does one whose neighbours were deleted, see `lattica.store.anchors`.

    Attributes:
        order: The order of items in lists and texts.
        rejected: What was garbage when it came.
        rejected_before: The same, by the checkpoint's state.

    Args:
        texts: Names of the roots that are texts. ``None``: what roots hold is not checked, only what is below.
    """

    def __init__(self, texts: Container[str] | None = None) -> None:
        self._texts = texts
        self._clients: dict[int, Runs] = {}
        self._places: list[Place | None] = [None]
        self._numbers: dict[Place | None, int] = {None: 0}
        self._anchors = Anchors()
        self.order = ItemOrder()
        self.rejected: list[Range] = []
        self.rejected_before: list[Range] = []

    def begin(self, update: YUpdate, anchors: Sequence[Anchor], rejected: Sequence[Range] = ()) -> None:
        """Learn where the items of a checkpoint's state are; nothing must be known yet.

        Args:
            update: The document.
            anchors: What stands for items that are deleted.
            rejected: What was garbage when it came.

        Raises:
            DocumentUpdateError: They do not go together, or are not as a state has them.
        """
        placement = self.place(update)
        if placement.displaced:
            raise DocumentUpdateError("it has items that do not belong where they are")
        self.add(placement)
        self._check_gone([(anchor.client, anchor.first, anchor.end) for anchor in anchors])
        self._check_gone(rejected)
        for anchor in anchors:
            near = (ItemId(*item) for item in (anchor.left, anchor.right) if item is not None)
            if any(item.clock < 0 or self.find(item).place != Place(anchor.root, None) for item in near):
                raise DocumentUpdateError("an anchor is not where it says")
        self._anchors = Anchors(anchors)
        self.rejected_before = list(rejected)

    def _check_gone(self, ranges: Iterable[Range]) -> None:
        before = (-1, 0)
        for client, first, end in ranges:
            runs = self._clients.get(client)
            in_order = before <= (client, first) and 0 <= first < end
            if runs is None or not in_order or end > runs.end or runs.places(first, end) != {0}:
                raise DocumentUpdateError("it says of items that they are gone which are not, or twice")
            before = (client, end)

    def dump(self) -> ItemsDump:
        """All that is known, for `load`."""
        places = [place for place in self._places if place is not None]
        roots = {root: number for number, root in enumerate(dict.fromkeys(place.root for place in places))}
        named = [(roots[root], key) for root, key in places]
        clients = [runs.dump(client) for client, runs in self._clients.items()]
        anchors, rejected = packed(self._anchors), list(self.rejected)
        return ItemsDump(list(roots), named, clients, self.order.dump(), anchors, rejected, list(self.rejected_before))

    def load(self, dump: ItemsDump) -> None:
        """Learn what was dumped; nothing must be known yet."""
        self._places = [None, *(Place(dump.roots[root], key) for root, key in dump.places)]
        self._numbers = {place: number for number, place in enumerate(self._places)}
        self._clients = {runs.client: Runs.load(runs) for runs in dump.clients}
        self.order.load(dump.order)
        self._anchors = Anchors(unpacked(dump.anchors))
        self.rejected, self.rejected_before = dump.rejected, dump.rejected_before

    def end(self, client: int) -> int:
        """The client's next clock."""
        runs = self._clients.get(client)
        return 0 if runs is None else runs.end

    def ends(self) -> dict[int, int]:
        """Each client's next clock."""
        return {client: runs.end for client, runs in self._clients.items()}

    def find(self, item: ItemId) -> Run:
        """The item's place.

        Raises:
            DocumentUpdateError: Nobody has written it.
        """
        runs = self._clients.get(item.client)
        if runs is None or item.clock >= runs.end:
            raise DocumentUpdateError(f"nobody has written the item {item.client}:{item.clock}")
        number, within, holds = runs.at(item.clock)
        return Run(item.clock, item.clock + 1, self._places[number], within, holds)

    def holder(self, root: str) -> Holder:
        """What the root is."""
        if self._texts is None:
            return Holder.UNKNOWN
        return Holder.TEXT if root in self._texts else Holder.OTHER

    def roots_touched(self, update: YUpdate) -> set[Place]:
        """The places in which the update writes or deletes. Nothing is changed; an update refused here has no effect.

        Raises:
            DocumentUpdateError: It refers to unknown items, puts items where they cannot be or between items of
                different places, cuts a character in two, or does not start at its clients' next clocks.
        """
        return self.place(update).touched

    def accept(self, update: YUpdate) -> None:
        """Add the update's items.

        Raises:
            DocumentUpdateError: As from `roots_touched`; nothing was added.
        """
        self.add(self.place(update))

    def place(self, update: YUpdate) -> Placement:
        """Where the update's items belong, to be looked at and then perhaps added; raises as `roots_touched`."""
        added = _Added(self, update)
        touched = {run.place for runs in added.runs.values() for run in runs}
        for client, ranges in update.deletions.items():
            known = self._clients.get(client)
            if known is not None:
                for first, end in ranges:
                    touched.update(self._places[number] for number in known.places(first, end))
        return Placement(update, {place for place in touched if place is not None}, added.runs, added.displaced)

    @property
    def anchors(self) -> Anchors | None:
        """What stands for items that a checkpoint has left out, if anything does."""
        return self._anchors or None

    def add(self, placement: Placement) -> None:
        """Add the items of the update that was placed last."""
        self.order.keep()
        for client, added in placement.runs.items():
            runs = self._clients.get(client)
            if runs is None:
                runs = self._clients[client] = Runs()
            for run in added:
                runs.append(run, self._number(run.place))
            for struct in placement.update.structs[client]:
                runs.joints.extend(struct.joints)
            if placement.displaced:
                displaced = placement.displaced.get(client, {})
                self.rejected += [
                    (client, run.clock, run.end) for run in added if displaced.get(run.clock, run) is None
                ]

    def cuts(self, client: int, clock: int) -> bool:
        """Whether a character would be cut in two before this clock."""
        runs = self._clients.get(client)
        if runs is None:
            return False
        at = bisect_left(runs.joints, clock)
        return at < len(runs.joints) and runs.joints[at] == clock

    def _number(self, place: Place | None) -> int:
        number = self._numbers.setdefault(place, len(self._places))
        if number == len(self._places):
            self._places.append(place)
        return number


class _Added:
    """The runs that an update adds to those known.

    Clients of one update may refer to each other, so each goes on as far as the others let it. The work is linear in
    the structs for one client, and can be the structs times the clients: `check_own` of foreign updates comes first.
    """

    def __init__(self, known: ItemParents, update: YUpdate) -> None:
        self._known = known
        known.order.begin()
        self.runs: dict[int, list[Run]] = {}
        self.displaced: dict[int, dict[int, Struct | None]] = {}
        for client in update.structs:
            first = update.span(client)[0]
            if first != known.end(client):
                raise DocumentUpdateError(f"client {client} goes on at {first}, not at {known.end(client)}")
            self.runs[client] = []
        self._joints: set[tuple[int, int]] = set()
        for client, structs in update.structs.items():
            for struct in structs:
                self._joints.update((client, joint) for joint in struct.joints)
        self._place_all(update)
        for client, ranges in update.deletions.items():
            if ranges[-1][1] > max(known.end(client), update.span(client)[1]):
                raise DocumentUpdateError(f"it deletes what client {client} has not written")
            for first, end in ranges:
                self._check_cut(client, first)
                self._check_cut(client, end)

    def _place_all(self, update: YUpdate) -> None:
        waiting = dict.fromkeys(update.structs, 0)
        while waiting:
            stuck = True
            for client, before in list(waiting.items()):
                structs = update.structs[client]
                done = waiting[client] = self._advance(client, structs, before)
                stuck &= done == before
                if done == len(structs):
                    del waiting[client]
            if stuck:
                raise DocumentUpdateError("it refers to items that nobody has written")

    def _advance(self, client: int, structs: tuple[Struct, ...], done: int) -> int:
        runs, anchors = self.runs[client], self._known.anchors
        while done < len(structs):
            written = structs[done]
            if not (self._has(written.origin) and self._has(written.right_origin) and self._has(written.parent)):
                break
            done += 1
            struct = written if anchors is None else anchors.placed(written)
            near = [self._find(item) for item in (struct.origin, struct.right_origin) if item is not None]
            if any(run.place is None for run in near):
                self.displaced.setdefault(client, {})[struct.clock] = None
                self._known.order.add(client, struct, nowhere=True)
                runs.append(Run(struct.clock, struct.clock + struct.length, None, Within.UNKNOWN, Holder.UNKNOWN))
                continue
            place, within = self._place(struct, near)
            _check_content(struct.kind, within)
            nowhere = within is Within.KEY or self._is_gone(struct)
            placed = self._known.order.add(client, struct, nowhere=nowhere)
            if placed is not written:
                self.displaced.setdefault(client, {})[struct.clock] = placed
            holds = _HOLDS.get(struct.kind, Holder.NONE)
            runs.append(Run(struct.clock, struct.clock + struct.length, place, within, holds))
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

    def _place(self, struct: Struct, near: Sequence[Run]) -> tuple[Place | None, Within]:
        if struct.parent is None:
            return self._between(struct, near)
        if isinstance(struct.parent, str):
            place: Place | None = Place(struct.parent, struct.parent_sub)
            holder = self._known.holder(struct.parent)
        else:
            parent = self._find(struct.parent)
            place, holder = parent.place, parent.holds
        if holder is Holder.NONE:
            raise DocumentUpdateError("an item is put into one that holds nothing")
        return place, Within(holder) if struct.parent_sub is None else Within.KEY

    def _is_gone(self, struct: Struct) -> bool:
        """Whether it is garbage, or in what is not known any more."""
        if isinstance(struct.parent, ItemId):
            return self._find(struct.parent).holds is Holder.UNKNOWN
        return struct.kind is Kind.GC

    def _between(self, struct: Struct, near: Sequence[Run]) -> tuple[Place | None, Within]:
        """Where both neighbours are."""
        if struct.origin is not None:
            self._check_cut(struct.origin.client, struct.origin.clock + 1)
        if struct.right_origin is not None:
            self._check_cut(*struct.right_origin)
        found = {(run.place, run.within) for run in near}
        if len(found) > 1:
            raise DocumentUpdateError("an item is put between two of different places")
        place, within = found.pop() if found else (None, Within.UNKNOWN)
        if within is Within.KEY and struct.right_origin is not None:
            raise DocumentUpdateError("a key's value is put before another one")
        return place, within

    def _check_cut(self, client: int, clock: int) -> None:
        if (client, clock) in self._joints or self._known.cuts(client, clock):
            raise DocumentUpdateError("a character is cut in two")


def _check_content(kind: Kind, within: Within) -> None:
    if within is Within.TEXT and kind in _NEVER_IN_TEXTS:
        raise DocumentUpdateError("a text holds text, not values")
    if within in (Within.KEY, Within.LIST) and kind in _ONLY_IN_TEXTS:
        raise DocumentUpdateError("text is put into what is no text")
