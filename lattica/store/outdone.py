"""What a checkpoint changes beyond its cut, and which of our own values we have to write again.

A value that refers to garbage of a checkpoint's state is garbage itself. Its author did not know of the checkpoint. If
it had seen what others wrote of that key, its value was the later one, and has to stand: it writes it again. If not, it
was written at the same time as the one that stands, and one of two has to lose. One that was deleted meanwhile stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pycrdt import Doc, Map

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.burial import living_values
from lattica.store.entry import Entry, Kind
from lattica.store.ledger import Verdict
from lattica.store.replica import Before, Replica, observed
from lattica.store.writers import may_write
from lattica.store.yupdate import ItemId, YUpdate, read_update
from lattica.store.yupdate_places import ItemParents, Place, Within

logger = logging.getLogger(__name__)

_NO_VALUE = object()


class Outdone(NamedTuple):
    """Keys that have other values by a checkpoint, or none.

    Attributes:
        own: Those that have to get back what we wrote, and that value.
        others: The rest.
    """

    own: dict[Place, Any]
    others: set[Place]


def find_outdone(before: Before, replica: Replica, beyond: Iterable[Entry], own: Iterable[Entry]) -> Outdone:
    """What a checkpoint changes.

    Args:
        before: What the replica has held.
        replica: With the checkpoint's state, and what is beyond.
        beyond: The entries of data beyond the checkpoint.
        own: Those of them that are ours.
    """
    written = {place for update in _updates(beyond) for place in _keys(before.items, update)}
    changed = {place for place in written if _value(before.document, place) != _value(replica.ydoc, place)}
    if not changed:
        return Outdone({}, changed)
    spans = [(client, *update.span(client)) for update in _updates(own) for client in update.structs]
    were = living_values(before.document.get_update(), before.items.dump(), changed)
    are = living_values(replica.ydoc.get_update(), replica.ledger.items.dump(), changed)
    again = {
        place: _value(before.document, place)
        for place, item in were.items()
        if any(item.client == client and first <= item.clock < end for client, first, end in spans)
        and _had_seen(before.items, are.get(place))
    }
    return Outdone(again, changed - again.keys())


def write_again(
    replica: Replica, key: IdentityKey, values: Mapping[Place, Any], tick: Callable[[], int]
) -> list[Entry]:
    """Give keys back our values: an entry for each, added to the replica, which are to be made durable.

    What is refused, or not ours to write any more, is left as it is.
    """
    entries: list[Entry] = []
    for place, value in values.items():
        if not may_write(replica.ledger, replica.own):
            break
        document, updates = replica.ydoc.get_update(), list[bytes]()
        with observed(replica.ydoc, updates):
            replica.ydoc.get(place.root, type=Map)[place.key or ""] = value
        entry = replica.write(key, updates[0], tick())
        try:
            added = replica.add_own(entry) is Verdict.ADDED
        except EntryRefusedError:
            added = False
        if not added:
            logger.warning("value not written again root=%s key=%s", place.root, place.key)
            replica.ydoc = Doc(client_id=replica.ydoc.client_id)
            replica.ydoc.apply_update(document)
            break
        entries.append(entry)
    return entries


def _had_seen(items: ItemParents, item: ItemId | None) -> bool:
    return item is None or item.clock < items.end(item.client)


def _updates(entries: Iterable[Entry]) -> Iterable[YUpdate]:
    return (read_update(entry.body.payload) for entry in entries if entry.body.kind is Kind.UPDATE)


def _keys(items: ItemParents, update: YUpdate) -> Iterable[Place]:
    for client, structs in update.structs.items():
        for struct in structs:
            run = items.find(ItemId(client, struct.clock))
            if run.within is Within.KEY and run.place is not None:
                yield run.place


def _value(document: Doc[Any], place: Place) -> Any:
    return document.get(place.root, type=Map).get(place.key or "", _NO_VALUE)
