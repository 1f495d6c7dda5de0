"""All that counts at a cut through the chains, as bytes: what a checkpoint puts in the place of entries.

The bytes follow from the entries. So whoever has these makes the same, and need not be sent them; and whoever is sent
them can check them against the hash in the owner's checkpoint.
"""

from __future__ import annotations

import msgspec
from blake3 import blake3

from lattica.errors import EntryRefusedError
from lattica.store.canonical import canonical_update
from lattica.store.chain import Fold
from lattica.store.graves import Content

_VERSION = 1


class State(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A document and its chains at a cut.

    Attributes:
        version: 1.
        folds: Of each author's chain of data, in order of the authors.
        update: The document, as `canonical_update` has it.
    """

    version: int
    folds: tuple[Fold, ...]
    update: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


def make_state(folds: list[Fold], content: Content) -> bytes:
    """The state's bytes. Takes some seconds for a million items; may run in a thread.

    Args:
        folds: Of every chain of data.
        content: The document's.
    """
    return _encode(
        State(_VERSION, tuple(sorted(folds, key=lambda fold: fold.author)), canonical_update(content.whole()))
    )


def read_state(raw: bytes, digest: bytes) -> State:
    """The state whose hash is ``digest``; raises `EntryRefusedError` if ``raw`` is not that, or malformed."""
    if blake3(raw).digest() != digest:
        raise EntryRefusedError("a checkpoint's state does not have its hash")
    try:
        state = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("a checkpoint's state is malformed") from error
    if state.version != _VERSION:
        raise EntryRefusedError(f"a checkpoint's state is of version {state.version}; a newer program made it")
    return state
