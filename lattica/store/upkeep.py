"""What keeps a replica small and quick to open: checkpoints, and snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.checkpoints import Checkpoints
from lattica.store.disk import StoreDisk
from lattica.store.snapshotter import Snapshotter

if TYPE_CHECKING:
    from lattica.store.journal import Journal


class Upkeep:
    """Checkpoints and snapshots of one journal.

    Attributes:
        checkpoints: The former.
    """

    def __init__(self, journal: Journal, disk: StoreDisk) -> None:
        self._journal = journal
        self._disk = disk
        self._snapshotter = Snapshotter(disk, journal.replica)
        self._snapshotting: asyncio.Task[None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self.checkpoints = Checkpoints(journal, disk, self._snapshotter)

    def added(self, entries: int) -> None:
        """Note entries that were added."""
        self._snapshotter.since += entries

    def replaced(self) -> None:
        """Note that there is another replica: its snapshot is void."""
        self._snapshotter.since = self._journal.replica.ledger.size

    def begin_due(self) -> None:
        """Begin what is due: a snapshot, dropping what a checkpoint covers, a new checkpoint."""
        self.checkpoints.begin_due()
        self._begin_snapshot()

    async def end(self) -> None:
        """Begin no more snapshots; until the one that is being made is kept, or given up."""
        if self._resting is not None:
            self._resting.cancel()
        if self._snapshotting is not None:
            await asyncio.wait([self._snapshotting])

    async def snapshot_at_close(self) -> None:
        """Keep a last snapshot if it is worth its while; the journal's lock is held."""
        if self._snapshotter.is_due_at_close() and not self._journal.commits.is_astray:
            with contextlib.suppress(ReplicaStoreError):  # it takes longer to open, then
                taken = await self._snapshotter.take(self._journal.replica)
                if taken is not None:
                    await self._snapshotter.keep((await asyncio.to_thread(taken.make)).batch)

    def _begin_snapshot(self) -> None:
        """Begin one that is due; if it has to wait, have it begin then, though nothing more is written."""
        if self._snapshotting is not None or self._resting is not None or self._journal.commits.failure is not None:
            return
        wait = self._snapshotter.due_in(self._journal.replica, time.monotonic())
        if wait:
            self._resting = asyncio.get_running_loop().call_later(wait, self._has_rested)
        elif wait is not None:
            self._snapshotting = self._journal.tasks.start_unless_ending(self._snapshot())

    def _has_rested(self) -> None:
        self._resting = None
        self._begin_snapshot()

    async def _snapshot(self) -> None:
        """Keep a snapshot. Writers wait while the replica is copied."""
        journal = self._journal
        try:
            async with journal.lock:
                taken = await self._snapshotter.take(journal.replica) if await self.checkpoints.is_settled() else None
            if taken is None:
                return
            started = time.monotonic()
            made = await asyncio.to_thread(taken.make)
            self._snapshotter.took((now := time.monotonic()) - started, now)
            async with journal.lock:
                await journal.commits.finish()
                if not taken.is_of(journal.replica) or journal.commits.is_astray:
                    self._snapshotter.give_up(taken, journal.replica)
                    return
                journal.replica.bury(made.document)
                # Committed by a task, as all batches are, and so before those that make it void.
                kept = journal.tasks.start_unless_ending(self._snapshotter.keep(made.batch))
            if kept is not None:
                await kept
        except (ReplicaStoreError, BatchRefusedError):
            return  # whoever writes is told
        finally:
            self._snapshotting = None
