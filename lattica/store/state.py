"""All that counts at a cut through the chains, as bytes: what a checkpoint puts in the place of entries.

The bytes follow from the entries. So whoever has these makes the same, and need not be sent them; and whoever is sent
them can check them against the hash in the owner's checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from blake3 import blake3
from pycrdt import Doc

from lattica.errors import EntryRefusedError
from lattica.store.anchors import Gap, packed
from lattica.store.burial import bury_settled
from lattica.store.canonical import STATE_LIMITS, canonical_update, joined_update
from lattica.store.chain import Fold
from lattica.store.entry import Lane
from lattica.store.graves import Content
from lattica.store.item_runs import Range
from lattica.store.roots import TextRoots
from lattica.store.yupdate import read_update
from lattica.store.yupdate_places import ItemParents, ItemsDump

_VERSION = 3

MAX_REJECTED: Final = 1 << 10
"""Of one author: nobody may fill states with what has no effect."""


class State(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A document and its chains at a cut.

    Attributes:
        version: 3.
        folds: Of each author's chain of data, in order of the authors.
        update: The document, as `canonical_update` has it, as `bury_settled` leaves it.
        anchors: What stands for elements of lists and texts that were deleted in the state before.
        rejected: What had no effect, since it referred to garbage, and whose authors may not know that yet.
    """

    version: int
    folds: tuple[Fold, ...]
    update: bytes
    anchors: tuple[Gap, ...] = ()
    rejected: tuple[Range, ...] = ()


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


class Since(NamedTuple):
    """After which checkpoint a state is made.

    Attributes:
        owner: Whose.
        base: Its number; 0: none.
    """

    owner: bytes
    base: int


def make_state(folds: Sequence[Fold], content: Content, items: ItemsDump, since: Since, client: int) -> Made:
    """The state at the heads of all chains. Takes some seconds for a million items; may run in a thread.

    Args:
        folds: Of every chain of data.
        content: The document's.
        items: Where its items are.
        since: The checkpoint before.
        client: As which the document of the state is to write.
    """
    settled = bury_settled(joined_update(content.whole()), items)
    update = canonical_update(settled.update)  # neighbours that were parted by what is gone are joined
    rejected = _rejected(folds, items, since)
    in_order = tuple(sorted(folds, key=lambda fold: fold.author))
    raw = _encode(State(_VERSION, in_order, update, tuple(packed(settled.anchors)), rejected))
    known = ItemParents(TextRoots())
    known.begin(read_update(update, limits=STATE_LIMITS), settled.anchors, rejected)
    if known.ends() != {runs.client: runs.end for runs in items.clients}:
        raise EntryRefusedError("a checkpoint's state would not hold all that it stands for")
    document: Doc[Any] = Doc(client_id=client)
    document.apply_update(update)
    return Made(raw, Folded(folds, known.dump(), document))


def _rejected(folds: Sequence[Fold], items: ItemsDump, since: Since) -> tuple[Range, ...]:
    """What was garbage when it came, until its author has seen a checkpoint that says so."""
    found: list[Range] = []
    for fold in folds:
        has_heard = any(
            (author, lane) == (since.owner, Lane.CONTROL) and seq >= since.base for author, lane, seq in fold.seen
        )
        ranges = items.rejected if has_heard else [*items.rejected_before, *items.rejected]
        clients = {client for _, client, _ in fold.epochs}
        found += _merged(one for one in ranges if one[0] in clients)[-MAX_REJECTED:]
    return tuple(sorted(found))


def _merged(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for client, first, end in sorted(ranges):
        if found and found[-1][0] == client and found[-1][2] == first:
            found[-1] = client, found[-1][1], end
        else:
            found.append((client, first, end))
    return found


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
