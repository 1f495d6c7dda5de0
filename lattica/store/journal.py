"""The life of one replica: what is written here and what comes in goes through its rules, to disk, and then to all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pycrdt import Doc, TransactionEvent

from lattica.background import Background, outlast
from lattica.errors import BatchRefusedError, EntryRefusedError, LatticaError, ReplicaStoreError, StoreUsageError
from lattica.identity import IdentityKey, PeerId
from lattica.store import metrics
from lattica.store.absorb import Absorbed, Written, absorb, check_signatures, prove_fraud
from lattica.store.chain import Fold
from lattica.store.changes import Change, ChangeFeed, Observer
from lattica.store.clock import HybridClock, check_time, to_seconds
from lattica.store.control import Checkpoint, Grant, Revoke
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch
from lattica.store.entry import ChainId, Entry, Lane, Verifier, read_entry
from lattica.store.folding import check_cut, checkpoint_of, drop_covered, fold_at, folds_of, not_covered
from lattica.store.frontier import Frontier, Head
from lattica.store.ledger import Base, Fraud, Verdict
from lattica.store.loading import batch_of, load_replica, record_of, stored_base, stored_entries
from lattica.store.replica import Replica
from lattica.store.settle import Settled, early_frauds, new_frauds, settle
from lattica.store.snapshot import is_faithful
from lattica.store.snapshotter import Snapshotter
from lattica.store.state import make_state, read_state

logger = logging.getLogger(__name__)

COMPACT_AFTER = 50_000
"""Entries from which on the owner's replica makes a checkpoint by itself."""
COMPACT_PAUSE_S = 600.0
"""Seconds until that is tried again when it has failed."""

T = TypeVar("T")

_EMPTY_UPDATE = b"\0\0"


class Received(NamedTuple):
    """What became of a message with entries.

    Attributes:
        added: How many are new here, and durable.
        missing: How many build on what is not here.
        refused: Those that break the rules, and how.
        lasts: Of each chain the last entry that was sent.
    """

    added: int
    missing: int
    refused: Sequence[tuple[Entry, str]]
    lasts: Mapping[ChainId, Head]


@dataclass(frozen=True, slots=True)
class _Commit:
    """What is said of a batch once it is durable."""

    heads: Mapping[ChainId, Head]
    frontier: Frontier | None
    changes: Sequence[Change]


class Journal:
    """One replica, on disk and in memory.

    Attributes:
        genesis: The namespace's.
        frontier: How far it goes, by what is durable.
        feed: Tells what changes, once that is durable.
        clock: Its hybrid clock.
    """

    def __init__(
        self,
        key: IdentityKey,
        disk: StoreDisk,
        replica: Replica,
        tasks: Background,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.genesis = replica.genesis
        self.frontier = replica.ledger.frontier()
        self.feed = ChangeFeed()
        self.clock = HybridClock(max((chain.time for chain in replica.ledger.chains.values()), default=0))
        self._key = key
        self._disk = disk
        self._replica = replica
        self._tasks = tasks
        self._now = now
        self._verifier = Verifier(replica.genesis.namespace)
        self._early: dict[ChainId, Fraud] = {}
        self._lock = asyncio.Lock()
        self._writer: asyncio.Task[Any] | None = None
        self._failure: LatticaError | None = None
        self._latest: asyncio.Task[LatticaError | None] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._snapshotter = Snapshotter(disk, replica)
        self._snapshotting: asyncio.Task[None] | None = None
        self._folding: asyncio.Task[None] | None = None
        self._compacting: asyncio.Task[None] | None = None
        self._judged = 0
        self._is_astray = False  # memory holds what the disk has not got, and never will

    @property
    def replica(self) -> Replica:
        """What counts, as it is in memory: perhaps not durable yet."""
        return self._replica

    @property
    def is_writing(self) -> bool:
        """Whether the current task is in a transaction."""
        return self._writer is not None and asyncio.current_task() is self._writer

    @property
    def key(self) -> IdentityKey:
        """Ours."""
        return self._key

    @property
    def tasks(self) -> Background:
        """What runs as long as the replica is open."""
        return self._tasks

    def now(self) -> float:
        """The time of day that leases end by, in seconds since 1970."""
        return self.clock.day_time(self._now())

    def entry_time(self) -> float:
        """The time of day that an entry which is written now has at least."""
        return self.clock.peek(self._now())

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` whenever the frontier has changed, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Observer]:
        """Gather changes, and wake also when only rights have changed, of which the feed does not tell."""
        with self.feed.observe() as observer:
            unsubscribe = self.subscribe(observer.wake)
            try:
                yield observer
            finally:
                unsubscribe()

    async def close(self) -> None:
        """Take no more, and wait for what is becoming durable; observers end. Whoever wrote it is told if it fails."""
        self._fail(StoreUsageError("the document is closed; open it again"))
        async with self._lock:
            if self._latest is not None:
                await asyncio.wait([self._latest])
            if self._snapshotter.is_due_at_close() and not self._is_astray:
                with contextlib.suppress(ReplicaStoreError):  # it takes longer to open, then
                    await self._snapshotter.keep(await self._snapshotter.take(self._replica))

    def _fail(self, failure: LatticaError) -> None:
        if self._failure is None:
            self._failure = failure
            self.feed.close(None if isinstance(failure, StoreUsageError) else failure)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise _copy(self._failure)

    # writing

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """See `Document.transaction`."""
        if self.is_writing:
            raise StoreUsageError("a transaction cannot be begun within another one; write everything in the first")
        async with self._lock:
            self._check_usable()
            self._writer = asyncio.current_task()
            updates: list[bytes] = []
            try:
                ydoc = self._replica.ydoc
                with _observed(ydoc, updates), ydoc.transaction():
                    yield
            except BaseException:
                with contextlib.suppress(LatticaError):  # then the document fails from now on, and says so
                    await self._undo(updates)
                raise
            finally:
                self._writer = None
            durable = await self._write(updates[0]) if updates else None
        if durable is not None:
            await _done(durable)

    async def _write(self, update: bytes) -> asyncio.Task[LatticaError | None]:
        try:
            entry = self._replica.write(self._key, update, self.clock.tick(self._now()))
            return await self._take_own(entry)
        except EntryRefusedError as error:
            await self._undo([update])
            raise StoreUsageError(f"nothing was written: {error.reason}") from error

    async def control(self, make: Callable[[Replica], Sequence[Grant | Revoke]]) -> None:
        """Grant and revoke what ``make`` says, in view of what is known; durable when this returns.

        Raises:
            StoreUsageError: We may not; what came before in the sequence is done.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        if self.is_writing:
            raise StoreUsageError("rights cannot be granted or revoked in a transaction; end it first")
        async with self._lock:
            self._check_usable()
            for action in make(self._replica):
                entry = self._replica.control(self._key, action, self.clock.tick(self._now()))
                try:
                    durable = await self._take_own(entry)
                except EntryRefusedError as error:
                    raise StoreUsageError(f"this cannot be granted or revoked here: {error.reason}") from error
                await _done(durable)

    async def join(self, capability: bytes) -> None:
        """Present a capability, unless that was done before; durable when this returns. Raises as `control`."""
        if self.is_writing:
            raise StoreUsageError("a capability cannot be presented in a transaction; end it first")
        async with self._lock:
            self._check_usable()
            if capability in self._replica.ledger.chain(ChainId(self._replica.own, Lane.DATA)).capabilities:
                return
            entry = self._replica.join(self._key, capability, self.clock.tick(self._now()))
            try:
                durable = await self._take_own(entry)
            except EntryRefusedError as error:
                raise StoreUsageError(f"the capability is of no use here: {error.reason}") from error
        await _done(durable)

    async def _take_own(self, entry: Entry) -> asyncio.Task[LatticaError | None]:
        verdict = self._replica.add_own(entry)
        if verdict not in (Verdict.ADDED, Verdict.CUTS):
            raise EntryRefusedError("our right to do so has been revoked, or what our identity writes is frozen")
        absorbed = Absorbed(cuts=verdict is Verdict.CUTS)
        absorbed.take(self._replica, entry)
        metrics.ENTRIES_WRITTEN.inc()
        if absorbed.must_replay:
            return await self._unbroken(self._settle_anew(absorbed, ()))
        return self._settle(absorbed, local=True)

    async def _undo(self, updates: Sequence[bytes]) -> None:
        """Forget what the document has written that will be no entry: it is made anew of those that there are."""
        if updates:
            await self._unbroken(self._reload())

    async def _reload(self) -> None:
        await self._flush()
        self._replica = await load_replica(self._disk, self.genesis, self._key.peer_id.raw)

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work to its end, cancelled or not, before which memory holds what is not on its way to the disk.

        If it fails, memory and disk differ for good: then the document cannot be used any more.
        """
        try:
            return await outlast(asyncio.get_running_loop().create_task(work))
        except LatticaError as error:
            self._is_astray = True
            self._fail(error)
            raise

    # what others write

    async def receive(self, raws: Sequence[bytes], proofs: Sequence[tuple[bytes, bytes]] = ()) -> Received:
        """Take in entries, and proofs of fraud; what is good is durable when this returns.

        Raises:
            EntryRefusedError: One is malformed, forged or from the future; nothing was taken.
            ReplicaStoreError: They are not durable, and the document cannot be used any more.
        """
        namespace = self.genesis.namespace
        entries = [read_entry(raw, namespace) for raw in raws]
        for entry in entries:
            check_time(entry.body.time, self._now())
        for raw in (raw for pair in proofs for raw in pair):
            if len(raw) > self.genesis.limits.entry:
                raise EntryRefusedError(f"it proves a fraud by {len(raw)} bytes of at most {self.genesis.limits.entry}")
        proven = [prove_fraud(namespace, one, other, self._verifier) for one, other in proofs]
        check_signatures(entries, self._verifier)
        async with self._lock:
            self._check_usable()
            absorbed = absorb(self._replica, entries)
            if absorbed.must_replay or absorbed.forks or proven or self._early:
                durable = await self._unbroken(self._settle_anew(absorbed, proven))
            else:
                durable = self._settle(absorbed)
        await _done(durable)
        lasts = {entry.chain: Head(entry.body.seq, entry.hash) for entry in entries}
        return Received(len(absorbed.added), absorbed.missing, absorbed.refused, lasts)

    async def _prove(self, fork: Entry, absorbed: Absorbed) -> list[tuple[ChainId, Fraud]]:
        """What an entry proves, together with the one here that it contradicts."""
        chain, seq = self._replica.ledger.rival(fork)
        raw = next((entry.raw for entry in absorbed.added if (entry.chain, entry.body.seq) == (chain, seq)), None)
        if raw is None:
            await self._flush()
            raws = await self._disk.run(self.genesis.namespace.raw, chain.author, chain.lane, seq, seq, 0)
            if not raws:
                return []  # a checkpoint covers it
            raw = raws[0]
        return [(chain, Fraud(seq, raw, fork.raw)), (fork.chain, Fraud(fork.body.seq, fork.raw, raw))]

    # checkpoints

    async def compact(self) -> bool:
        """Put the state in the place of all entries of data, here and, when they hear of it, everywhere.

        Only the owner can. Writers wait meanwhile: some seconds for a million items. ``False``: there is nothing to do.

        Raises:
            StoreUsageError: We are not the owner, or the cut is too large for an entry.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        if self.is_writing:
            raise StoreUsageError("a document cannot be compacted in a transaction; end it first")
        async with self._lock:
            self._check_usable()
            await self._flush()
            ledger = self._replica.ledger
            if not is_faithful(self._replica):
                raise StoreUsageError("the document was written to without a transaction; open it again")
            folds = folds_of(ledger)
            if all(fold.seq == ledger.chain(ChainId(fold.author, Lane.DATA)).base for fold in folds):
                return False
            raw = await asyncio.to_thread(make_state, folds, self._replica.ydoc.get_update())
            checkpoint = checkpoint_of(folds, raw)
            entry = self._replica.control(self._key, checkpoint, self.clock.tick(self._now()))
            try:
                if self._replica.add_own(entry) not in (Verdict.ADDED, Verdict.CUTS):
                    raise EntryRefusedError("what our identity writes is frozen")
            except EntryRefusedError as error:
                raise StoreUsageError(f"this document cannot be compacted here: {error.reason}") from error
            batch = Batch(self.genesis.namespace.raw)
            batch.put(record_of(entry))
            durable = self._fold(batch, checkpoint, entry.body.seq, folds, raw)
        await _done(durable)
        return True

    def _fold(
        self, batch: Batch, checkpoint: Checkpoint, seq: int, folds: Sequence[Fold], raw: bytes
    ) -> asyncio.Task[LatticaError | None]:
        drop_covered(batch, checkpoint, seq, raw)
        self._replica.ledger.forget(seq, folds)
        self._snapshotter.since = self._replica.ledger.size
        metrics.FOLDS.inc()
        return self._commit(batch, _Commit({}, self._replica.ledger.frontier(), ()))

    async def _fold_known(self) -> None:
        """Drop what the owner's latest checkpoint covers, once its state is found to follow from the entries."""
        try:
            while (seq := self._foldable()) is not None:
                async with self._lock:
                    await self._flush()
                    if self._failure is not None or self._is_astray or self._foldable() != seq:
                        return
                    stored = await stored_entries(self._disk, self.genesis.namespace)
                    base = await stored_base(self._disk, self.genesis)
                    ledger = self._replica.ledger
                    checkpoint, frozen = ledger.rights.checkpoints[seq], dict(ledger.frozen)
                folds, raw = await asyncio.to_thread(fold_at, self.genesis, frozen, stored, base, checkpoint)
                self._judged = seq
                if checkpoint_of(folds, raw) != checkpoint:
                    metrics.FOLDS_REFUSED.inc()
                    logger.error(
                        "checkpoint is not what its entries say namespace=%s seq=%d", self.genesis.namespace, seq
                    )
                    continue
                async with self._lock:
                    await self._flush()
                    ledger = self._replica.ledger
                    if self._failure is None and ledger.base < seq and ledger.reaches(checkpoint):
                        self._fold(Batch(self.genesis.namespace.raw), checkpoint, seq, folds, raw)
        except (ReplicaStoreError, BatchRefusedError):
            return  # whoever writes is told
        finally:
            self._folding = None

    def _foldable(self) -> int | None:
        """Number of the owner's latest checkpoint, if what it covers is here, and it was not judged yet."""
        ledger = self._replica.ledger
        seq = max(ledger.rights.checkpoints, default=0)
        if seq <= max(ledger.base, self._judged) or not ledger.reaches(ledger.rights.checkpoints[seq]):
            return None
        return seq

    async def adopt(self, seq: int, raw: bytes) -> None:
        """Take over the state of the owner's checkpoint ``seq``, and drop all that it stands for.

        Raises:
            EntryRefusedError: ``raw`` is not its state.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        async with self._lock:
            self._check_usable()
            await self._flush()
            before = self._replica
            checkpoint = before.ledger.rights.checkpoints.get(seq)
            if checkpoint is None or before.ledger.base >= seq:
                return
            state = read_state(raw, checkpoint.state)
            check_cut(checkpoint, state)
            stored = not_covered(checkpoint, await stored_entries(self._disk, self.genesis.namespace))
            settled = settle(before, Absorbed(), {}, stored, Base(seq, state))
            batch = batch_of(self.genesis.namespace, settled)
            drop_covered(batch, checkpoint, seq, raw)
            durable = self._replace(settled, stored, batch)
        await _done(durable)

    # to disk

    def _settle(self, absorbed: Absorbed, *, local: bool = False) -> asyncio.Task[LatticaError | None]:
        """Have what was plainly added on its way to the disk."""
        self._snapshotter.since += len(absorbed.added)
        for entry in absorbed.added:
            self.clock.observe(entry.body.time)
        heads = {entry.chain: Head(entry.body.seq, entry.hash) for entry in absorbed.added}
        changes = [_change(change, local=local) for change in absorbed.written] if self.feed.observed else []
        frontier = self._replica.ledger.frontier() if _may_thaw(self._replica, absorbed) else None
        batch = batch_of(self.genesis.namespace, Settled(self._replica, absorbed.added, (), {}))
        return self._commit(batch, _Commit(heads, frontier, changes))

    async def _settle_anew(
        self, absorbed: Absorbed, proven: Sequence[tuple[Entry, Fraud]]
    ) -> asyncio.Task[LatticaError | None]:
        """The same when something may not count any more."""
        found = [*self._early.items(), *((entry.chain, fraud) for entry, fraud in proven)]
        for fork in absorbed.forks:
            found += await self._prove(fork, absorbed)
        self._early = early_frauds(self._replica, found)
        frauds = new_frauds(self._replica, found)
        if not absorbed.must_replay and not frauds:
            return self._settle(absorbed)
        for entry in absorbed.added:
            self.clock.observe(entry.body.time)
        await self._flush()
        before = self._replica
        stored = await stored_entries(self._disk, self.genesis.namespace)
        base = await stored_base(self._disk, self.genesis)
        settled = settle(before, absorbed, frauds, stored, base)
        return self._replace(settled, [*stored, *absorbed.added], batch_of(self.genesis.namespace, settled))

    def _replace(self, settled: Settled, entries: Sequence[Entry], batch: Batch) -> asyncio.Task[LatticaError | None]:
        """Go on with another replica."""
        before, self._replica = self._replica, settled.replica
        metrics.REPLAYS.inc()
        metrics.FRAUDS.inc(len(settled.frauds))
        self._snapshotter.since = settled.replica.ledger.size
        lost = sum(
            entry.body.author == before.own and before.counts(entry) and not settled.replica.counts(entry)
            for entry in entries
        )
        change = Change(author=None, everything=True, lost=lost)
        return self._commit(batch, _Commit({}, settled.replica.ledger.frontier(), [change]))

    def _commit(self, batch: Batch, commit: _Commit) -> asyncio.Task[LatticaError | None]:
        self._latest = self._tasks.start(self._make_durable(batch, commit, self._latest))
        return self._latest

    async def _make_durable(
        self, batch: Batch, commit: _Commit, before: asyncio.Task[LatticaError | None] | None
    ) -> LatticaError | None:
        try:
            if batch.changes:
                await self._disk.commit(batch)
            elif before is not None:  # durable is what comes before, too
                await _done(before)
        except (ReplicaStoreError, BatchRefusedError) as error:
            self._is_astray = True
            self._fail(error)
            return error
        frontier = commit.frontier or self.frontier.with_heads(commit.heads)
        if frontier != self.frontier:
            self.frontier = frontier
            for listener in list(self._listeners):
                listener()
        for change in commit.changes:
            self.feed.publish(change)
        self._upkeep()
        return None

    def _upkeep(self) -> None:
        """Begin what is due: a snapshot, dropping what a checkpoint covers, a new checkpoint."""
        if self._folding is None and self._foldable() is not None:
            self._folding = self._tasks.start_unless_ending(self._fold_known())
        ledger = self._replica.ledger
        if self._compacting is None and self._replica.own == self.genesis.owner.raw and ledger.size > COMPACT_AFTER:
            self._compacting = self._tasks.start_unless_ending(self._compact_soon())
        if self._snapshotting is None and self._snapshotter.is_due(self._replica):
            self._snapshotting = self._tasks.start_unless_ending(self._snapshot())

    async def _compact_soon(self) -> None:
        try:
            await self.compact()
        except (LatticaError, ValueError) as error:
            logger.warning("document not compacted namespace=%s reason=%s", self.genesis.namespace, error)
            await asyncio.sleep(COMPACT_PAUSE_S)
        finally:
            self._compacting = None

    async def _snapshot(self) -> None:
        """Keep a snapshot. Writers wait while it is made, but not until it is durable."""
        try:
            async with self._lock:
                await self._flush()
                if self._failure is not None or self._is_astray:
                    return
                batch = await self._snapshotter.take(self._replica)
                # Committed by a task, as all batches are, and so before those that make it void.
                kept = self._tasks.start_unless_ending(self._snapshotter.keep(batch))
            if kept is not None:
                await kept
        except (ReplicaStoreError, BatchRefusedError):
            return  # whoever writes is told
        finally:
            self._snapshotting = None

    async def _flush(self) -> None:
        """Wait until the disk has everything; raises if it cannot have it."""
        if self._latest is not None:
            await _done(self._latest)


async def _done(durable: asyncio.Task[LatticaError | None]) -> None:
    error = await asyncio.shield(durable)
    if error is not None:
        raise _copy(error)


def _copy(error: LatticaError) -> LatticaError:
    """An error of its own for each that raises it: every time that one is raised, its traceback grows."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


@contextlib.contextmanager
def _observed(ydoc: Doc[Any], updates: list[bytes]) -> Iterator[None]:
    """Note the update of a transaction in this block, unless it is empty."""

    def note(event: TransactionEvent) -> None:
        if event.update != _EMPTY_UPDATE:
            updates.append(event.update)

    subscription = ydoc.observe(note)
    try:
        yield
    finally:
        ydoc.unobserve(subscription)


def _may_thaw(replica: Replica, absorbed: Absorbed) -> bool:
    """Whether there may be other frozen chains in the frontier: of those whose authors have rights."""
    return bool(replica.ledger.frozen) and any(entry.body.lane is Lane.CONTROL for entry in absorbed.added)


def _change(written: Written, *, local: bool) -> Change:
    body = written.entry.body
    return Change(author=PeerId(body.author), places=frozenset(written.places), time=to_seconds(body.time), local=local)
