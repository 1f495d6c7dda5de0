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


class KeysWritten(NamedTuple):
    """Which keys entries have written.

    Attributes:
        keys: All of them.
        own: Those that we have written.
        spans: Our items: client ID, first clock, and the one after the last, of each entry.
    """

    keys: set[Place]
    own: set[Place]
    spans: list[tuple[int, int, int]]


def keys_written(items: ItemParents, entries: Iterable[Entry], own: bytes) -> KeysWritten:
    """What entries have written. For a thread, too: takes 10 us for each.

    Args:
        items: Where their items are.
        entries: Of data.
        own: Our peer ID.
    """
    written = KeysWritten(set(), set(), [])
    for entry in entries:
        if entry.body.kind is not Kind.UPDATE:
            continue
        update = read_update(entry.body.payload)
        keys = set(_keys(items, update))
        written.keys.update(keys)
        if entry.body.author == own:
            written.own.update(keys)
            written.spans.extend((client, *update.span(client)) for client in update.structs)
    return written


class Outdone(NamedTuple):
    """Keys that have other values by a checkpoint, or none.

    Attributes:
        own: Those that have to get back what we wrote, and that value.
        others: The rest.
    """

    own: dict[Place, Any]
    others: set[Place]


def find_outdone(before: Before, replica: Replica, written: KeysWritten) -> Outdone:
    """What a checkpoint changes.

    Args:
        before: What the replica has held.
        replica: With the checkpoint's state, and what is beyond.
        written: By what is beyond.
    """
    changed = {place for place in written.keys if _value(before.document, place) != _value(replica.ydoc, place)}
    candidates = changed & written.own
    if not candidates:
        return Outdone({}, changed)
    were = living_values(before.document.get_update(), before.items.dump(), candidates)
    are = living_values(replica.ydoc.get_update(), replica.ledger.items.dump(), candidates)
    again = {
        place: _value(before.document, place)
        for place, item in were.items()
        if any(item.client == client and first <= item.clock < end for client, first, end in written.spans)
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


def _keys(items: ItemParents, update: YUpdate) -> Iterable[Place]:
    for client, structs in update.structs.items():
        for struct in structs:
            run = items.find(ItemId(client, struct.clock))
            if run.within is Within.KEY and run.place is not None:
                yield run.place


def _value(document: Doc[Any], place: Place) -> Any:
    return document.get(place.root, type=Map).get(place.key or "", _NO_VALUE)
