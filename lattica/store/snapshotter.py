"""When a replica is snapshotted: so seldom that it costs little, so often that opening it takes little."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import MAX_RAW_SIZE, Batch
from lattica.store.replica import Replica
from lattica.store.snapshot import dump_snapshot, is_faithful, take_snapshot

SNAPSHOT_AFTER: Final = 10_000
"""Entries since the last snapshot, at which the next one is made; they take half a second to open. With many entries it
waits for a quarter of all: of each entry, what is written for all snapshots is then some 200 bytes."""

SNAPSHOT_AT_CLOSE: Final = 1000
"""The same when the replica is closed."""

LARGE_STATE: Final = 1 << 18
"""Bytes of a checkpoint's state from which on a snapshot follows at once: a second for each 5 MB to open without."""

_log = logging.getLogger(__name__)


class Snapshotter:
    """Keeps one replica's snapshot on disk.

    Attributes:
        since: Entries since the last snapshot.
    """

    def __init__(self, disk: StoreDisk, replica: Replica) -> None:
        self.since = replica.ledger.size - replica.snapshotted
        self._disk = disk

    def is_due(self, replica: Replica) -> bool:
        """Whether it is time for the next one."""
        return self.since > SNAPSHOT_AFTER and self.since > replica.ledger.size // 4

    def folded(self, replica: Replica, size: int) -> None:
        """Note that a checkpoint's state of ``size`` bytes stands for what the last snapshot held, too."""
        self.since = max(replica.ledger.size, SNAPSHOT_AFTER + 1 if size > LARGE_STATE else 0)

    def is_due_at_close(self) -> bool:
        """Whether a last one is worth its while."""
        return self.since > SNAPSHOT_AT_CLOSE

    async def take(self, replica: Replica) -> Batch:
        """A snapshot of ``replica``, to be kept; it must not change meanwhile, and be what is durable.

        Nothing, if something was written to the document that is no entry, or if it is too large for the disk.

        Raises:
            ReplicaStoreError: The disk does not tell its last row.
        """
        batch = Batch(replica.genesis.namespace.raw)
        self.since = 0
        if is_faithful(replica):
            row = await self._disk.last_row(batch.namespace)
            raw = await asyncio.to_thread(dump_snapshot, take_snapshot(replica))
            if len(raw) <= MAX_RAW_SIZE:
                batch.snapshot(raw, row)
        return batch

    async def keep(self, batch: Batch) -> None:
        """Make a snapshot durable, or do without: all that is lost is time, at the next opening."""
        if not batch.changes:
            return
        try:
            await self._disk.commit(batch)
        except (ReplicaStoreError, BatchRefusedError) as error:
            _log.warning("snapshot not kept namespace=%s error=%s", batch.namespace.hex(), error)
