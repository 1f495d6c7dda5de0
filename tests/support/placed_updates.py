"""Updates as documents get them, and lists and texts as a checkpoint's state has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pycrdt import Array, Doc, Text

from lattica.store.anchors import Anchor
from lattica.store.burial import PlaceBook, as_placed, bury_settled, sequences
from lattica.store.canonical import STATE_LIMITS, canonical_update, joined_update
from lattica.store.sequence import Block
from lattica.store.yupdate import ItemId, Kind, read_update
from lattica.store.yupdate_places import ItemParents
from lattica.store.yupdate_spans import clients_of
from lattica.store.yupdate_wire import read_count, read_text

Shown = tuple[list[str], list[tuple[str, dict[str, Any] | None]]]


def no_items() -> ItemParents:
    """Where items are, for documents with a list and a text."""
    return ItemParents(texts={"text"})


def take(known: ItemParents, raw: bytes) -> bytes:
    """What a document gets of an update that is the next to be known."""
    placement = known.place(read_update(raw))
    known.add(placement)
    return as_placed(raw, placement.displaced)


def document_of(updates: Iterable[bytes], client: int = 77) -> Doc[Any]:
    """A document that gets them in this order, and writes as the client."""
    doc: Doc[Any] = Doc(client_id=client)
    for raw in updates:
        doc.apply_update(raw)
    return doc


def shown(doc: Doc[Any]) -> Shown:
    """What its list and its text show, with formats."""
    return doc.get("list", type=Array).to_py() or [], doc.get("text", type=Text).diff()


def without_deletions(raw: bytes) -> bytes:
    """An update that deletes nothing, so that a document shows all in its order."""
    end = 1
    for _, structs in clients_of(raw):
        for struct in structs:
            end = struct.end
    return raw[:end] + b"\0"


def ordered(doc: Doc[Any], known: ItemParents) -> dict[str, list[Block]]:
    """Its elements, in order."""
    update = doc.get_update()
    found = sequences(update, PlaceBook(known.dump()))
    canonical = canonical_update(update)
    assert ids_of(found) == ids_of(sequences(canonical, PlaceBook(known.dump())))
    return found


def ids_of(blocks: dict[str, list[Block]]) -> dict[str, list[ItemId]]:
    """Each of their elements."""
    return {
        root: [
            ItemId(block.client, block.struct.clock + more) for block in found for more in range(block.struct.length)
        ]
        for root, found in blocks.items()
    }


def strings_of(update: bytes, blocks: Iterable[Block]) -> list[str]:
    """What the blocks of an update hold: its strings."""
    found = []
    for struct in (block.struct for block in blocks):
        if struct.kind is Kind.STRING:
            found += list(read_text(update, struct.content)[0])
        elif struct.kind is Kind.ANY:
            count, at = read_count(update, struct.content)
            for _ in range(count):
                name, at = read_text(update, at + 1)
                found.append(name)
    return found


class Settlement(NamedTuple):
    """A checkpoint's state, but for its chains.

    Attributes:
        update: The document.
        anchors: What stands for what had been deleted before the state before.
    """

    update: bytes
    anchors: list[Anchor]

    def known(self) -> ItemParents:
        """Where its items are, as one learns that gets it."""
        known = no_items()
        known.begin(read_update(self.update, limits=STATE_LIMITS), self.anchors)
        return known


def settle(doc: Doc[Any], known: ItemParents) -> Settlement:
    """A checkpoint's state of a document."""
    settled = bury_settled(joined_update(doc.get_update()), known.dump())
    return Settlement(canonical_update(settled.update), settled.anchors)
