"""Checkpoints: the state at a cut in the place of the entries that it covers. Pure; for threads too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blake3 import blake3

from lattica.errors import EntryRefusedError
from lattica.store.chain import Fold
from lattica.store.control import Checkpoint, Cut, read_action
from lattica.store.disk_batch import Batch
from lattica.store.entry import MARK_BYTES, ChainId, Entry, Kind, Lane
from lattica.store.item_ranges import ItemRanges
from lattica.store.ledger import Base, Fraud, Ledger
from lattica.store.namespace import Genesis
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.state import Made, Since, State, make_state, read_state
from lattica.store.yupdate import ItemId, read_update


def folds_of(ledger: Ledger) -> list[Fold]:
    """Of every chain of data, at its head."""
    return [found.fold(chain.author) for chain, found in ledger.chains.items() if chain.lane == Lane.DATA]


def checkpoint_of(folds: Sequence[Fold], raw: bytes) -> Checkpoint:
    """The checkpoint of a state."""
    cut = tuple(
        Cut(fold.author, fold.seq, fold.hash[:MARK_BYTES]) for fold in sorted(folds, key=lambda fold: fold.author)
    )
    return Checkpoint(cut, blake3(raw).digest(), len(raw))


def check_cut(checkpoint: Checkpoint, state: State) -> None:
    """Raise `EntryRefusedError` unless a state goes as far as its checkpoint says."""
    if checkpoint_of(state.folds, b"").cut != checkpoint.cut:
        raise EntryRefusedError("a checkpoint's state does not go as far as the checkpoint says")


def checked_base(genesis: Genesis, entries: Sequence[Entry], seq: int, raw: bytes) -> Base:
    """The state of the owner's checkpoint ``seq``, which is one of the entries.

    Raises:
        EntryRefusedError: There is no such checkpoint, or this is not its state.
    """
    chain = ChainId(genesis.owner.raw, Lane.CONTROL)
    for entry in entries:
        if entry.chain == chain and entry.body.seq == seq:
            checkpoint = read_action(entry)
            if isinstance(checkpoint, Checkpoint):
                state = read_state(raw, checkpoint.state)
                check_cut(checkpoint, state)
                return Base(seq, state)
    raise EntryRefusedError(f"the owner's checkpoint {seq} is not there")


def not_covered(checkpoint: Checkpoint, entries: Sequence[Entry]) -> list[Entry]:
    """The entries that a checkpoint does not stand for."""
    last = {cut.author: cut.seq for cut in checkpoint.cut}
    return [
        entry for entry in entries if entry.body.lane is Lane.CONTROL or entry.body.seq > last.get(entry.body.author, 0)
    ]


def fold_at(
    genesis: Genesis,
    frozen: Mapping[ChainId, Fraud],
    entries: Sequence[Entry],
    base: Base | None,
    checkpoint: Checkpoint,
    client: int,
) -> Made:
    """The state at a checkpoint's cut, as it follows from entries; its document is to write as ``client``."""
    beyond = {entry.hash for entry in not_covered(checkpoint, entries) if entry.body.lane is Lane.DATA}
    replica, _ = replay(genesis, b"", frozen, [entry for entry in entries if entry.hash not in beyond], base)
    return state_of(replica, client)


def state_of(replica: Replica, client: int) -> Made:
    """The state of all that a replica holds; its document is to write as ``client``."""
    ledger = replica.ledger
    return make_state(folds_of(ledger), replica.content(), ledger.items.dump(), since_of(ledger), client)


def since_of(ledger: Ledger) -> Since:
    """The checkpoint that a state follows which is made now."""
    return Since(ledger.genesis.owner.raw, ledger.base)


def counting_beyond(replica: Replica, checkpoint: Checkpoint, entries: Sequence[Entry]) -> list[Entry]:
    """Of entries those of data that count and that a checkpoint does not stand for."""
    return [
        entry for entry in not_covered(checkpoint, entries) if entry.body.lane is Lane.DATA and replica.counts(entry)
    ]


def own_rejected(replica: Replica, state: State, entries: Sequence[Entry]) -> list[Entry]:
    """Of entries those of our own that have no effect in a state, though it stands for them."""
    if not state.rejected:
        return []
    rejected = ItemRanges(state.rejected)
    return [
        entry
        for entry in entries
        if entry.chain == (replica.own, Lane.DATA)
        and entry.body.kind is Kind.UPDATE
        and replica.counts(entry)
        and any(
            ItemId(client, struct.clock) in rejected
            for client, structs in read_update(entry.body.payload).structs.items()
            for struct in structs
        )
    ]


def drop_covered(batch: Batch, checkpoint: Checkpoint, seq: int, raw: bytes) -> None:
    """Put a checkpoint's state, whose number is ``seq``, in the place of what it covers."""
    batch.snapshot(b"", 0)
    for cut in checkpoint.cut:
        batch.drop(cut.author, Lane.DATA, 1, cut.seq)
    batch.base(raw, seq)
