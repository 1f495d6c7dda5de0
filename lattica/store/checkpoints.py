"""A document's checkpoints: the owner cuts, others check, and who comes late takes the state over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lattica.errors import BatchRefusedError, EntryRefusedError, LatticaError, ReplicaStoreError, StoreUsageError
from lattica.store import metrics
from lattica.store.absorb import Absorbed, Written
from lattica.store.chain import Fold
from lattica.store.changes import Change, Problem
from lattica.store.commits import Durable, News
from lattica.store.control import Checkpoint
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.folding import (
    check_cut,
    checkpoint_of,
    counting_beyond,
    drop_covered,
    fold_at,
    folds_of,
    not_covered,
    own_rejected,
)
from lattica.store.graves import Content
from lattica.store.ledger import Base, Verdict
from lattica.store.loading import batch_of, off_loop, record_of, settled, stored_base, stored_entries
from lattica.store.outdone import PlacesWritten, find_outdone, places_written, write_again
from lattica.store.replica import Before, Replica, add_beyond
from lattica.store.snapshot import is_faithful
from lattica.store.snapshotter import Snapshotter
from lattica.store.state import Made, Since, make_state, read_state
from lattica.store.yupdate_places import ItemParents, ItemsDump

if TYPE_CHECKING:
    from lattica.store.journal import Journal

logger = logging.getLogger(__name__)

COMPACT_AFTER = 50_000
"""Entries from which on the owner's replica makes a checkpoint by itself."""
COMPACT_PAUSE_S = 600.0
"""Seconds until that is tried again when it has failed."""


class _Taken(NamedTuple):
    """A replica's content, copied, to be made a state of.

    Attributes:
        replica: Which.
        base: The checkpoint that it was based on.
        folds: How far it goes.
        content: What it holds.
        items: Where its items are.
        row: The last row that it covers on disk.
        client: As which its document writes.
    """

    replica: Replica
    base: int
    folds: list[Fold]
    content: Content
    items: ItemsDump
    row: int
    client: int

    def is_of(self, replica: Replica) -> bool:
        """Whether it holds still: entries may have come, but none is taken back or dropped."""
        return replica is self.replica and replica.ledger.base == self.base

    def make(self) -> Made:
        """Its state. For a thread: takes seconds for a million values."""
        since = Since(self.replica.genesis.owner.raw, self.base)
        return make_state(self.folds, self.content, self.items, since, self.client)


class _Beyond(NamedTuple):
    """What is beyond a checkpoint that is about to be folded.

    Attributes:
        items: Where all items are then.
        written: Where it has written.
    """

    items: ItemParents
    written: PlacesWritten


class Checkpoints:
    """Those of one journal."""

    def __init__(self, journal: Journal, disk: StoreDisk, snapshotter: Snapshotter) -> None:
        self._journal = journal
        self._disk = disk
        self._snapshotter = snapshotter
        self._folding: asyncio.Task[None] | None = None
        self._compacting: asyncio.Task[None] | None = None
        self._judged = 0

    def begin_due(self) -> None:
        """Begin what is due: dropping what a checkpoint covers, a new checkpoint."""
        journal = self._journal
        start, replica = journal.tasks.start_unless_ending, journal.replica
        if self._folding is None and self._foldable() is not None:
            self._folding = start(self._fold_known())
        is_owner = replica.own == journal.genesis.owner.raw
        if self._compacting is None and is_owner and replica.ledger.size > COMPACT_AFTER:
            self._compacting = start(self._compact_soon())

    async def compact(self) -> bool:
        """See `Document.compact`."""
        journal = self._journal
        if journal.is_writing:
            raise StoreUsageError("a document cannot be compacted in a transaction; end it first")
        await journal.take_up(waits=False)  # a checkpoint must not settle what is known to be a fraud
        async with journal.lock:
            taken = await self._take_state()
        if taken is None:
            return False
        made = await asyncio.to_thread(taken.make)
        async with journal.lock:
            # If something does not count any more, the state is made once more, and now writers wait.
            if journal.replica.ledger.unfolded or not taken.is_of(journal.replica):
                taken = await self._take_state()
                if taken is None:
                    return False
                made = await asyncio.to_thread(taken.make)
            journal.commits.check()
            durable = await self._cut(made, taken.row)
        await durable.wait()
        return True

    async def _take_state(self) -> _Taken | None:
        """What a checkpoint would fold now, if anything; the lock is held."""
        journal = self._journal
        journal.commits.check()
        await journal.commits.flush()
        replica = journal.replica
        if replica.ledger.unfolded:
            raise StoreUsageError("an earlier checkpoint is not taken over yet; try again when all is synchronised")
        if not is_faithful(replica):
            raise StoreUsageError("the document was written to without a transaction; open it again")
        folds = folds_of(replica.ledger)
        if all(fold.seq == replica.ledger.chain(ChainId(fold.author, Lane.DATA)).base for fold in folds):
            return None
        row = await self._disk.last_row(journal.genesis.namespace.raw)
        items, client = replica.ledger.items.dump(), replica.ydoc.client_id
        return _Taken(replica, replica.ledger.base, folds, replica.content(), items, row, client)

    async def _cut(self, made: Made, row: int) -> Durable:
        """Write the checkpoint of a state, and fold; the lock is held."""
        journal = self._journal
        checkpoint = checkpoint_of(made.folded.folds, made.raw)
        await journal.commits.flush()
        entries = await stored_entries(self._disk, journal.genesis.namespace, row)
        beyond = await self._add_beyond(checkpoint, made, entries)
        batch = Batch(journal.genesis.namespace.raw)
        try:
            entry = journal.replica.control(journal.key, checkpoint, journal.tick())
            batch.put(record_of(entry))
            if journal.replica.add_own(entry) not in (Verdict.ADDED, Verdict.CUTS):
                raise EntryRefusedError("what our identity writes is frozen")
        except EntryRefusedError as error:
            raise StoreUsageError(f"this document cannot be compacted here: {error.reason}") from error
        return self._fold(batch, checkpoint, entry.body.seq, made, beyond)  # from here on memory is ahead

    async def _add_beyond(self, checkpoint: Checkpoint, made: Made, entries: Sequence[Entry]) -> _Beyond:
        """Add to a state's document what is beyond it, of entries that may be; the lock is held."""
        replica = self._journal.replica
        beyond = counting_beyond(replica, checkpoint, entries)
        items = await off_loop(len(beyond), add_beyond, made.folded, beyond)
        return _Beyond(items, await off_loop(len(beyond), places_written, replica.ledger.items, beyond, replica.own))

    def _fold(self, batch: Batch, checkpoint: Checkpoint, seq: int, made: Made, beyond: _Beyond) -> Durable:
        """Put a checkpoint's state in the place of what it covers."""
        journal, replica = self._journal, self._journal.replica
        before = Before(replica.ydoc, replica.ledger.items)
        with journal.commits.ahead():
            replica.fold(seq, made.folded, beyond.items)
            drop_covered(batch, checkpoint, seq, made.raw)
            self._snapshotter.folded(replica, len(made.raw))
            metrics.FOLDS.inc()
            changes = self._put_back(before, replica, beyond.written, batch)
            return journal.commits.start(batch, News(heads={}, frontier=replica.ledger.frontier(), changes=changes))

    def _put_back(self, before: Before, replica: Replica, written: PlacesWritten, batch: Batch) -> list[Change]:
        """Write again what of ours has become garbage, but for values that others outdo; what has changed."""
        journal = self._journal
        outdone = find_outdone(before, replica, written)
        changes = [Change(author=None, everything=True)] if outdone.others else []
        for entry in write_again(replica, journal.key, outdone, journal.tick):
            batch.put(record_of(entry))
            metrics.ENTRIES_WRITTEN.inc()
            self._snapshotter.since += 1
            changes.append(Written(entry, replica.ledger.touched).change(local=True))
        return changes

    async def _compact_soon(self) -> None:
        try:
            await self.compact()
        except LatticaError as error:
            name = self._journal.genesis.namespace
            logger.warning("document not compacted namespace=%s reason=%s", name, error)
            await asyncio.sleep(COMPACT_PAUSE_S)
        finally:
            self._compacting = None

    def _foldable(self) -> int | None:
        """Number of the owner's next checkpoint, if what it covers is here, and it was not judged yet."""
        ledger = self._journal.replica.ledger
        seq = ledger.unfolded
        return seq if seq > self._judged and ledger.reaches(ledger.rights.checkpoints[seq]) else None

    async def _fold_known(self) -> None:
        """Drop what the owner's checkpoints cover, one by one, if the state of each is found to follow from entries."""
        try:
            while (seq := self._foldable()) is not None and await self._fold_one(seq):
                pass
        except (ReplicaStoreError, BatchRefusedError):
            return  # whoever writes is told
        except EntryRefusedError:
            logger.exception("checkpoint not taken over namespace=%s", self._journal.genesis.namespace)
        finally:
            self._folding = None

    async def _fold_one(self, seq: int) -> bool:
        journal, name = self._journal, self._journal.genesis.namespace
        async with journal.lock:
            if not await self.is_settled() or self._foldable() != seq:
                return False
            stored = await stored_entries(self._disk, name)
            base = await stored_base(self._disk, journal.genesis)
            row = await self._disk.last_row(name.raw)
            ledger, client = journal.replica.ledger, journal.replica.ydoc.client_id
            checkpoint, frozen = ledger.rights.checkpoints[seq], dict(ledger.frozen)
        made = await asyncio.to_thread(fold_at, journal.genesis, frozen, stored, base, checkpoint, client)
        self._judged = seq
        if checkpoint_of(made.folded.folds, made.raw) != checkpoint:
            metrics.FOLDS_REFUSED.inc()
            journal.feed.report(Problem.CHECKPOINT_DIFFERS)
            logger.error("checkpoint differs from what it covers namespace=%s seq=%d", name, seq)
            return True
        async with journal.lock:
            ledger = journal.replica.ledger
            if await self.is_settled() and ledger.unfolded == seq and ledger.reaches(checkpoint):
                entries = [*stored, *await stored_entries(self._disk, name, row)]
                beyond = await self._add_beyond(checkpoint, made, entries)
                self._fold(Batch(name.raw), checkpoint, seq, made, beyond)
        return True

    async def is_settled(self) -> bool:
        """Wait until the disk has what memory holds; whether it does."""
        await self._journal.commits.flush()
        return self._journal.commits.failure is None and not self._journal.commits.is_astray

    async def adopt(self, seq: int, raw: bytes) -> None:
        """Take over the state of the owner's checkpoint ``seq``, and drop all that it stands for.

        Raises:
            EntryRefusedError: ``raw`` is not its state.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        journal = self._journal
        async with journal.lock:
            journal.commits.check()
            await journal.commits.flush()
            before = journal.replica
            checkpoint = before.ledger.rights.checkpoints.get(seq)
            if checkpoint is None or before.ledger.base >= seq:
                return
            state = read_state(raw, checkpoint.state)
            check_cut(checkpoint, state)
            known = await stored_entries(self._disk, journal.genesis.namespace)
            stored = not_covered(checkpoint, known)
            found = await settled(before, Absorbed(), {}, stored, Base(seq, state))
            batch = batch_of(journal.genesis.namespace, found)
            drop_covered(batch, checkpoint, seq, raw)
            beyond, items = counting_beyond(before, checkpoint, stored), before.ledger.items
            rejected = own_rejected(before, state, known)
            written = await off_loop(len(beyond), places_written, items, beyond, before.own)
            written |= await off_loop(len(rejected), places_written, items, rejected, before.own, state.rejected)
            self._put_back(Before(before.ydoc, items), found.replica, written, batch)
            durable = journal.replace(found, stored, batch)
            self._snapshotter.folded(journal.replica, len(raw))
        await durable.wait()
