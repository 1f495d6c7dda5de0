"""The life of one replica: what is written here and what comes in goes through its rules, to disk, and then to all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from lattica.background import Background, outlast
from lattica.errors import EntryRefusedError, LatticaError, StoreUsageError
from lattica.identity import IdentityKey
from lattica.store import metrics
from lattica.store.absorb import Absorbed, absorb, prove_fraud
from lattica.store.changes import Change, ChangeFeed, Observer, Problem
from lattica.store.clock import HybridClock, check_time
from lattica.store.commits import Commits, Durable, News
from lattica.store.control import Grant, Revoke
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch
from lattica.store.entry import ChainId, Entry, Lane, Verifier, check_size, read_entry
from lattica.store.frontier import Frontier, Head
from lattica.store.ledger import Fraud, Verdict
from lattica.store.loading import batch_of, load_replica, settled, stored_base, stored_entries
from lattica.store.postponed import Postponed
from lattica.store.received import Checked, Received
from lattica.store.replay_budget import ReplayBudget
from lattica.store.replica import Replica, observed
from lattica.store.settle import Settled, early_frauds, leaves_out, new_frauds
from lattica.store.signatures import SignatureChecker
from lattica.store.upkeep import Upkeep
from lattica.store.writers import may_write

T = TypeVar("T")


class Journal:
    """One replica, on disk and in memory.

    Attributes:
        genesis: The namespace's.
        lock: Held by whoever changes it.
        commits: Its way to the disk.
        upkeep: Its checkpoints and snapshots.
        clock: Its hybrid clock.

    Args:
        key: Ours.
        disk: Where its entries are.
        replica: What these make.
        tasks: What runs as long as it is open.
        now: Reads the time of day.
        budget: What replays may take that others' entries cause; ``None``: any time.
        signatures: Checks who signed these.
    """

    def __init__(
        self,
        key: IdentityKey,
        disk: StoreDisk,
        replica: Replica,
        tasks: Background,
        *,
        now: Callable[[], float] = time.time,
        budget: ReplayBudget | None = None,
        signatures: SignatureChecker | None = None,
    ) -> None:
        self.genesis = replica.genesis
        self.lock = asyncio.Lock()
        self.clock = HybridClock(max((chain.time for chain in replica.ledger.chains.values()), default=0))
        self._key = key
        self._disk = disk
        self._replica = replica
        self.upkeep = Upkeep(self, disk)
        self.commits = Commits(disk, tasks, replica.ledger.frontier(), self.upkeep.begin_due)
        self._tasks = tasks
        self._now = now
        self._signatures = signatures or SignatureChecker(tasks)
        self._verifier = Verifier(replica.genesis.namespace)
        self._early: dict[ChainId, Fraud] = {}
        self._postponed = Postponed(budget or ReplayBudget(burst=math.inf), tasks, self.take_up)
        self._writer: asyncio.Task[Any] | None = None

    @property
    def frontier(self) -> Frontier:
        """How far it goes, by what is durable."""
        return self.commits.frontier

    @property
    def feed(self) -> ChangeFeed:
        """Tells what changes, once that is durable."""
        return self.commits.feed

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

    def tick(self) -> int:
        """A hybrid time for an entry of ours."""
        return self.clock.tick(self._now())

    @contextlib.contextmanager
    def watch(self) -> Iterator[Observer]:
        """Gather changes, and wake also when only rights have changed, of which the feed does not tell."""
        with self.feed.observe() as observer:
            unsubscribe = self.commits.subscribe(observer.wake)
            try:
                yield observer
            finally:
                unsubscribe()

    async def close(self) -> None:
        """Take no more, and wait for what is becoming durable; observers end. Whoever wrote it is told if it fails."""
        self.commits.fail(StoreUsageError("the document is closed; open it again"))
        await self._postponed.close()
        await self.upkeep.end()
        async with self.lock:
            await self.commits.finish()
            await self.upkeep.snapshot_at_close()

    # writing

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """See `Document.transaction`."""
        if self.is_writing:
            raise StoreUsageError("a transaction cannot be begun within another one; write everything in the first")
        async with self.lock:
            self.commits.check()
            if not may_write(self._replica.ledger, self._replica.own):  # or the document would have to be made anew
                raise StoreUsageError("we have no right to write here, or it has ended; ask an admin for one")
            if not self._replica.ledger.crowd.takes(self._replica.own):
                self.feed.report(Problem.FULL)
                raise StoreUsageError("the document takes no more authors to whom nothing is granted; ask for a grant")
            self._writer = asyncio.current_task()
            updates: list[bytes] = []
            try:
                ydoc = self._replica.ydoc
                with observed(ydoc, updates), ydoc.transaction():
                    yield
            except BaseException:
                with contextlib.suppress(LatticaError):  # then the document fails from now on, and says so
                    await self._undo(updates)
                raise
            finally:
                self._writer = None
            durable = await self._write(updates[0]) if updates else None
        if durable is not None:
            await durable.wait()

    async def _write(self, update: bytes) -> Durable:
        with self.commits.ahead():
            try:
                entry = self._replica.write(self._key, update, self.tick())
                return await self._take_own(entry)
            except EntryRefusedError as error:
                refused = error
        await self._undo([update])
        raise StoreUsageError(f"nothing was written: {refused.reason}") from refused

    async def control(self, make: Callable[[Replica], Sequence[Grant | Revoke]]) -> None:
        """Grant and revoke what ``make`` says, in view of what is known; durable when this returns.

        Raises:
            StoreUsageError: We may not; what came before in the sequence is done.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        if self.is_writing:
            raise StoreUsageError("rights cannot be granted or revoked in a transaction; end it first")
        async with self.lock:
            self.commits.check()
            for action in make(self._replica):
                entry = self._replica.control(self._key, action, self.tick())
                try:
                    durable = await self._take_own(entry)
                except EntryRefusedError as error:
                    raise StoreUsageError(f"this cannot be granted or revoked here: {error.reason}") from error
                await durable.wait()

    async def join(self, capability: bytes) -> None:
        """Present a capability, unless that was done before; durable when this returns. Raises as `control`."""
        if self.is_writing:
            raise StoreUsageError("a capability cannot be presented in a transaction; end it first")
        async with self.lock:
            self.commits.check()
            if capability in self._replica.ledger.chain(ChainId(self._replica.own, Lane.DATA)).capabilities:
                return
            entry = self._replica.join(self._key, capability, self.tick())
            try:
                durable = await self._take_own(entry)
            except EntryRefusedError as error:
                raise StoreUsageError(f"the capability is of no use here: {error.reason}") from error
        await durable.wait()

    async def _take_own(self, entry: Entry) -> Durable:
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
        await self.commits.flush()
        self._replica = await load_replica(self._disk, self.genesis, self._key.peer_id.raw)

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work to its end, cancelled or not, before which memory holds what is not on its way to the disk.

        If it fails, memory and disk differ for good: then the document cannot be used any more.
        """
        return await outlast(asyncio.get_running_loop().create_task(self._whole(work)))

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        with self.commits.ahead():
            return await work

    # what others write

    async def receive(self, raws: Sequence[bytes], proofs: Sequence[tuple[bytes, bytes]] = ()) -> Received:
        """Take in entries, and proofs of fraud: `check`, `take`, and wait until what is good is durable."""
        received = await self.take(await self.check(raws, proofs))
        await received.durable.wait()
        return received

    async def check(self, raws: Sequence[bytes], proofs: Sequence[tuple[bytes, bytes]] = ()) -> Checked:
        """Read entries and proofs, and check who has signed them. While that lasts others may be taken.

        Raises:
            EntryRefusedError: One is malformed, forged or from the future.
        """
        namespace = self.genesis.namespace
        entries = [read_entry(raw, namespace) for raw in raws]
        for entry in entries:
            check_time(entry.body.time, self._now())
        for raw in (raw for pair in proofs for raw in pair):
            check_size(read_entry(raw, namespace), self.genesis)
        proven = [prove_fraud(namespace, one, other, self._verifier) for one, other in proofs]
        await self._signatures.check(entries, self._verifier)
        return Checked(entries, proven)

    async def take(self, checked: Checked) -> Received:
        """Take in what was checked. What is good is not durable yet, and nobody else is told of it before it is.

        Raises:
            ReplicaStoreError: The document cannot be used any more.
        """
        entries = checked.entries
        async with self.lock:
            self.commits.check()
            with self.commits.ahead():
                absorbed = absorb(self._replica, entries)
            if absorbed.left_out:
                self.feed.report(Problem.FULL)
            if absorbed.must_replay or absorbed.forks or checked.proven or self._early:
                durable = await self._unbroken(self._settle_anew(absorbed, checked.proven))
            else:
                durable = self._settle(absorbed)
        lasts = {entry.chain: Head(entry.body.seq, entry.hash) for entry in entries}
        return Received(durable, len(absorbed.added), absorbed.missing, absorbed.refused, lasts)

    async def take_up(self, *, waits: bool = True) -> None:
        """Look again at what had to wait for a replay; durable when this returns.

        Args:
            waits: Whether it goes on to wait if the replay is not due yet.

        Raises:
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        async with self.lock:
            self.commits.check()
            with self.commits.ahead():
                absorbed = absorb(self._replica, self._postponed.pool.take_entries())
            durable = await self._unbroken(self._settle_anew(absorbed, (), waits=waits))
        await durable.wait()

    async def _prove(self, fork: Entry, absorbed: Absorbed) -> list[tuple[ChainId, Fraud]]:
        """What an entry proves, together with the one here that it contradicts."""
        chain, seq = self._replica.ledger.rival(fork)
        raw = next((entry.raw for entry in absorbed.added if (entry.chain, entry.body.seq) == (chain, seq)), None)
        if raw is None:
            await self.commits.flush()
            raws = await self._disk.run(self.genesis.namespace.raw, chain.author, chain.lane, seq, seq, 0)
            if not raws:
                return []  # a checkpoint covers it
            raw = raws[0]
        return [(chain, Fraud(seq, raw, fork.raw)), (fork.chain, Fraud(fork.body.seq, fork.raw, raw))]

    # to disk

    def _settle(self, absorbed: Absorbed, *, local: bool = False) -> Durable:
        """Have what was plainly added on its way to the disk."""
        self.upkeep.added(len(absorbed.added))
        for entry in absorbed.added:
            self.clock.observe(entry.body.time)
        heads = {entry.chain: Head(entry.body.seq, entry.hash) for entry in absorbed.added}
        changes = [written.change(local=local) for written in absorbed.written] if self.feed.observed else []
        frontier = self._replica.ledger.frontier() if _may_thaw(self._replica, absorbed) else None
        batch = batch_of(self.genesis.namespace, Settled(self._replica, absorbed.added, (), {}))
        return self.commits.start(batch, News(heads=heads, frontier=frontier, changes=changes))

    async def _settle_anew(
        self, absorbed: Absorbed, proven: Sequence[tuple[Entry, Fraud]], *, waits: bool = True
    ) -> Durable:
        """The same when something may not count any more."""
        found = [*self._early.items(), *self._postponed.pool.take_frauds().items()]
        found += [(entry.chain, fraud) for entry, fraud in proven]
        for fork in absorbed.forks:
            found += await self._prove(fork, absorbed)
        self._early = early_frauds(self._replica, found)
        frauds = new_frauds(self._replica, found)
        if leaves_out(self._replica, found):
            self.feed.report(Problem.FULL)
        if not absorbed.must_replay and not frauds:
            return self._settle(absorbed)
        # What cuts is added already. Only the owner and admins can write that, and only so often.
        if waits and not absorbed.cuts and self._postponed.keeps(absorbed.resuming, frauds):
            return self._settle(absorbed)
        for entry in absorbed.added:
            self.clock.observe(entry.body.time)
        await self.commits.flush()
        with self._postponed.replay():
            stored = await stored_entries(self._disk, self.genesis.namespace)
            base = await stored_base(self._disk, self.genesis)
            outcome = await settled(self._replica, absorbed, frauds, stored, base)
        return self.replace(outcome, [*stored, *absorbed.added], batch_of(self.genesis.namespace, outcome))

    def replace(self, settled: Settled, entries: Sequence[Entry], batch: Batch) -> Durable:
        """Go on with another replica."""
        before = self._replica
        lost = sum(
            entry.body.author == before.own and before.counts(entry) and not settled.replica.counts(entry)
            for entry in entries
        )
        change = Change(author=None, everything=True, lost=lost)
        news = News(heads={}, frontier=settled.replica.ledger.frontier(), changes=[change])
        self._replica = settled.replica
        self.upkeep.replaced()
        metrics.REPLAYS.inc()
        metrics.FRAUDS.inc(len(settled.frauds))
        return self.commits.start(batch, news)


def _may_thaw(replica: Replica, absorbed: Absorbed) -> bool:
    """Whether there may be other frozen chains in the frontier: of those whose authors have rights."""
    return bool(replica.ledger.frozen) and any(entry.body.lane is Lane.CONTROL for entry in absorbed.added)
