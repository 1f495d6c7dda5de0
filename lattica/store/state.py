"""All that counts at a cut through the chains, as bytes: what a checkpoint puts in the place of entries.

The bytes follow from the entries. So whoever has these makes the same, and need not be sent them; and whoever is sent
them can check them against the hash in the owner's checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3
from pycrdt import Doc

from lattica.errors import EntryRefusedError
from lattica.store.anchors import Anchor
from lattica.store.burial import bury_settled
from lattica.store.canonical import STATE_LIMITS, canonical_update
from lattica.store.chain import Fold
from lattica.store.graves import Content
from lattica.store.roots import TextRoots
from lattica.store.yupdate import read_update
from lattica.store.yupdate_places import ItemParents, ItemsDump

_VERSION = 3


class State(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A document and its chains at a cut.

    Attributes:
        version: 3.
        folds: Of each author's chain of data, in order of the authors.
        update: The document, as `canonical_update` has it, as `bury_settled` leaves it.
        anchors: What stands for elements of lists and texts that were deleted in the state before.
    """

    version: int
    folds: tuple[Fold, ...]
    update: bytes
    anchors: tuple[Anchor, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


class Folded(NamedTuple):
    """What a replica goes on with that puts a state in the place of entries.

    Attributes:
        folds: Of all chains of data.
        items: Where the items of the state's document are.
        document: That document.
    """

    folds: Sequence[Fold]
    items: ItemsDump
    document: Doc[Any]


class Made(NamedTuple):
    """A state that was made.

    Attributes:
        raw: Its bytes.
        folded: What it holds.
    """

    raw: bytes
    folded: Folded


def make_state(folds: Sequence[Fold], content: Content, items: ItemsDump, client: int) -> Made:
    """The state at the heads of all chains. Takes some seconds for a million items; may run in a thread.

    Args:
        folds: Of every chain of data.
        content: The document's.
        items: Where its items are.
        client: As which the document of the state is to write.
    """
    settled = bury_settled(canonical_update(content.whole()), items)
    update = canonical_update(settled.update)  # neighbours that were parted by what is gone are joined
    raw = _encode(State(_VERSION, tuple(sorted(folds, key=lambda fold: fold.author)), update, tuple(settled.anchors)))
    known = ItemParents(TextRoots())
    known.begin(read_update(update, limits=STATE_LIMITS), settled.anchors)
    document: Doc[Any] = Doc(client_id=client)
    document.apply_update(update)
    return Made(raw, Folded(folds, known.dump(), document))


def read_state(raw: bytes, digest: bytes) -> State:
    """The state whose hash is ``digest``; raises `EntryRefusedError` if ``raw`` is not that, or malformed."""
    if blake3(raw).digest() != digest:
        raise EntryRefusedError("a checkpoint's state does not have its hash")
    try:
        state = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("a checkpoint's state is malformed") from error
    if not 1 <= state.version <= _VERSION:  # older ones hold more of what was deleted
        raise EntryRefusedError(f"a checkpoint's state is of version {state.version}; a newer program made it")
    return state
