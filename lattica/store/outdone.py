"""What a checkpoint changes beyond its cut, and which of our own values we have to write again.

What refers to garbage of a checkpoint's state is garbage itself. Its author did not know of the checkpoint.

Of a key: if it had seen what others wrote of that key, its value was the later one, and has to stand: it writes it
again. If not, it was written at the same time as the one that stands, and one of two has to lose. One that was deleted
meanwhile stands. Elements of lists and texts are all written again (`lost.py`): none of them excludes another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pycrdt import Array, Doc, Map, Text

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.burial import living_values
from lattica.store.entry import Entry, Kind
from lattica.store.item_ranges import ItemRanges
from lattica.store.item_runs import Place, Range, Within
from lattica.store.ledger import Verdict
from lattica.store.lost import Lost, find_lost
from lattica.store.replica import Before, Replica, observed
from lattica.store.roots import TextRoots, parse_root
from lattica.store.values import as_taken
from lattica.store.writers import may_write
from lattica.store.yupdate import ItemId, read_update
from lattica.store.yupdate_places import ItemParents

logger = logging.getLogger(__name__)

_NO_VALUE = object()


class PlacesWritten(NamedTuple):
    """Where entries have put values and elements.

    Attributes:
        places: All keys, lists and texts.
        own_keys: The keys that we have written.
        own_values: Our values of these.
        own_elements: What we have put into lists and texts.
    """

    places: set[Place]
    own_keys: set[Place]
    own_values: list[Range]
    own_elements: list[Range]

    def __or__(self, other: PlacesWritten) -> PlacesWritten:
        """What both have written."""
        return PlacesWritten(
            self.places | other.places,
            self.own_keys | other.own_keys,
            self.own_values + other.own_values,
            self.own_elements + other.own_elements,
        )


def places_written(
    items: ItemParents, entries: Iterable[Entry], own: bytes, ranges: Sequence[Range] | None = None
) -> PlacesWritten:
    """What entries have written. For a thread, too: takes 10 us for each.

    Args:
        items: Where their items are.
        entries: Of data.
        own: Our peer ID.
        ranges: Which of their items count; ``None``: all.
    """
    written = PlacesWritten(set(), set(), [], [])
    counting = None if ranges is None else ItemRanges(ranges)
    for entry in entries:
        if entry.body.kind is not Kind.UPDATE:
            continue
        is_own = entry.body.author == own
        update = read_update(entry.body.payload)
        for client, structs in update.structs.items():
            for struct in structs:
                item = ItemId(client, struct.clock)
                run = items.find(item)
                if run.place is None or (counting is not None and item not in counting):
                    continue
                written.places.add(run.place)
                span = (client, struct.clock, struct.clock + struct.length)
                if is_own and run.within is Within.KEY:
                    written.own_keys.add(run.place)
                    written.own_values.append(span)
                elif is_own:
                    written.own_elements.append(span)
    return written


class Outdone(NamedTuple):
    """What is not as it was before a checkpoint was folded.

    Attributes:
        own: Keys that have to get back what we wrote, and that value.
        lost: Our elements that lists and texts have to get back.
        others: The rest.
    """

    own: dict[Place, Any]
    lost: list[Lost]
    others: set[Place]


def find_outdone(before: Before, replica: Replica, written: PlacesWritten) -> Outdone:
    """What a checkpoint changes.

    Args:
        before: What the replica has held.
        replica: With the checkpoint's state, and what is beyond.
        written: By what is beyond.
    """
    changed = {
        place for place in written.places if _differ(_value(before.document, place), _value(replica.ydoc, place))
    }
    again = _own_values(before, replica, changed & written.own_keys, written)
    lost = find_lost(before, replica, written.own_elements)
    return Outdone(again, lost, changed - again.keys())


def _own_values(before: Before, replica: Replica, candidates: set[Place], written: PlacesWritten) -> dict[Place, Any]:
    if not candidates:
        return {}
    were = living_values(before.document.get_update(), before.items.dump(), candidates)
    are = living_values(replica.ydoc.get_update(), replica.ledger.items.dump(), candidates)
    own = ItemRanges(written.own_values)
    return {
        place: _value(before.document, place)
        for place, item in were.items()
        if item in own and _had_seen(before.items, are.get(place))
    }


def write_again(replica: Replica, key: IdentityKey, outdone: Outdone, tick: Callable[[], int]) -> list[Entry]:
    """Give keys, lists and texts back what was ours: entries, added to the replica, which are to be made durable.

    What is refused, or not ours to write any more, is left as it is.
    """
    if not (outdone.own or outdone.lost):
        return []
    writer = _Writer(replica, key, tick)
    for place, value in outdone.own.items():
        if not writer.write(place.root, partial(_set, place=place, value=value)):
            logger.warning("value not written again root=%s key=%s", place.root, place.key)
    for lost in reversed(outdone.lost):  # so that what comes before each stays where it was
        _insert(writer, lost)
    return writer.entries


def _set(document: Doc[Any], place: Place, value: Any) -> None:
    document.get(place.root, type=Map)[place.key or ""] = as_taken(value)


def _insert(writer: _Writer, lost: Lost) -> None:
    """Insert elements; in halves, if that is too much for one entry."""
    if writer.write(lost.root, lost.insert):
        return
    if len(lost.content) > 1 and writer.may_write(lost.root):
        first, second = lost.halves()
        _insert(writer, second)
        _insert(writer, first)
    else:
        logger.warning("elements not written again root=%s count=%d", lost.root, len(lost.content))


class _Writer:
    """Writes to a replica's document, an entry at a time.

    Attributes:
        entries: Those that were added.
    """

    def __init__(self, replica: Replica, key: IdentityKey, tick: Callable[[], int]) -> None:
        self.entries: list[Entry] = []
        self._replica = replica
        self._key = key
        self._tick = tick
        self._document = replica.ydoc.get_update()

    def may_write(self, root: str) -> bool:
        """Whether we may write there."""
        return may_write(self._replica.ledger, self._replica.own, parse_root(root)[1])

    def write(self, root: str, change: Callable[[Doc[Any]], None]) -> bool:
        """Change a root; whether that is allowed. What is refused leaves no trace."""
        replica, updates = self._replica, list[bytes]()
        if not self.may_write(root):
            return False
        with observed(replica.ydoc, updates):
            change(replica.ydoc)
        try:
            entry = replica.write(self._key, updates[0], self._tick())
            if replica.add_own(entry) is Verdict.ADDED:
                self.entries.append(entry)
                return True
        except EntryRefusedError:
            pass
        replica.ydoc = Doc(client_id=replica.ydoc.client_id)
        for update in (self._document, *(entry.body.payload for entry in self.entries)):
            replica.ydoc.apply_update(update)
        return False


def _had_seen(items: ItemParents, item: ItemId | None) -> bool:
    return item is None or item.clock < items.end(item.client)


def _differ(one: Any, other: Any) -> bool:
    return bool(one != other) and repr(one) != repr(other)  # no NaN equals itself


def _value(document: Doc[Any], place: Place) -> Any:
    if place.key is not None:
        return document.get(place.root, type=Map).get(place.key, _NO_VALUE)
    if place.root in TextRoots():
        return str(document.get(place.root, type=Text))
    return document.get(place.root, type=Array).to_py()
