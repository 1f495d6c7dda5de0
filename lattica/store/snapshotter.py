"""When a replica is snapshotted: so seldom that it costs little, so often that opening it takes little."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, NamedTuple

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import MAX_RAW_SIZE, Batch
from lattica.store.graves import Content
from lattica.store.replica import Replica
from lattica.store.snapshot import Snapshot, bury_replaced, dump_snapshot, is_faithful, take_snapshot

SNAPSHOT_AFTER: Final = 10_000
"""Entries since the last snapshot, at which the next one is made; they take half a second to open. With many entries it
waits for a quarter of all: of each entry, what is written for all snapshots is then some 200 bytes."""

REST: Final = 10
"""How often a snapshot's own time has to pass before the next one: while much comes in, they take a tenth of it."""

SNAPSHOT_AT_CLOSE: Final = 1000
"""The same when the replica is closed."""

LARGE_STATE: Final = 1 << 18
"""Bytes of a checkpoint's state from which on a snapshot follows at once: a second for each 5 MB to open without."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A replica, copied, to be made a snapshot of.

    Attributes:
        replica: Which.
        snapshot: The copy.
        row: The last row that it covers.
        since: Entries since the snapshot before.
    """

    replica: Replica
    snapshot: Snapshot
    row: int
    since: int

    def is_of(self, replica: Replica) -> bool:
        """Whether it holds still: entries may have come, but none is taken back or dropped."""
        return replica is self.replica and replica.ledger.base == self.snapshot.ledger.base

    def make(self) -> Made:
        """For a thread: takes seconds for a million values that were replaced."""
        buried = bury_replaced(self.snapshot)
        batch = Batch(self.snapshot.namespace)
        raw = dump_snapshot(buried)
        if len(raw) <= MAX_RAW_SIZE:  # else it is too large for the disk
            batch.snapshot(raw, self.row)
        return Made(batch, buried.document)


class Made(NamedTuple):
    """A snapshot to be kept, and the document as it is there."""

    batch: Batch
    document: Content


class Snapshotter:
    """Keeps one replica's snapshot on disk.

    Attributes:
        since: Entries since the last snapshot.
    """

    def __init__(self, disk: StoreDisk, replica: Replica) -> None:
        self.since = replica.ledger.size - replica.snapshotted
        self._disk = disk
        self._rests_until = float("-inf")

    def due_in(self, replica: Replica, now: float) -> float | None:
        """Seconds until it is time for the next one, seen from ``now`` on a monotonic clock.

        ``None`` while too little has come since the last one.
        """
        if self.since <= max(SNAPSHOT_AFTER, replica.ledger.size // 4):
            return None
        return max(0.0, self._rests_until - now)

    def took(self, seconds: float, now: float) -> None:
        """Note how long making a snapshot has taken, which is made now."""
        self._rests_until = now + REST * seconds

    def folded(self, replica: Replica, size: int) -> None:
        """Note that a checkpoint's state of ``size`` bytes stands for what the last snapshot held, too."""
        self.since = max(replica.ledger.size, SNAPSHOT_AFTER + 1 if size > LARGE_STATE else 0)

    def is_due_at_close(self) -> bool:
        """Whether a last one is worth its while."""
        return self.since > SNAPSHOT_AT_CLOSE

    async def take(self, replica: Replica) -> Taken | None:
        """A copy of ``replica``, which must not change meanwhile, and be what is durable.

        ``None`` if something was written to the document that is no entry.

        Raises:
            ReplicaStoreError: The disk does not tell its last row.
        """
        since, self.since = self.since, 0
        if not is_faithful(replica):
            return None
        row = await self._disk.last_row(replica.genesis.namespace.raw)
        return Taken(replica, take_snapshot(replica), row, since)

    def give_up(self, taken: Taken, replica: Replica) -> None:
        """Make another one soon: this one is void."""
        self.since = max(self.since, min(self.since + taken.since, replica.ledger.size))

    async def keep(self, batch: Batch) -> None:
        """Make a snapshot durable, or do without: all that is lost is time, at the next opening."""
        if not batch.changes:
            return
        try:
            await self._disk.commit(batch)
        except (ReplicaStoreError, BatchRefusedError) as error:
            _log.warning("snapshot not kept namespace=%s error=%s", batch.namespace.hex(), error)
