"""Who failed lately, and for how long to leave it alone."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.dht.limits import (
    BACKOFF_BASE,
    BACKOFF_FACTOR,
    BACKOFF_MAX,
    MAX_TABLE_FAILURES,
    MAX_TRACKED_FAILURES,
)
from lattica.identity import PeerId


@dataclass(slots=True)
class _Record:
    failures: int
    retry_at: float
    hostile: bool = False


class Backoff:
    """Consecutive failures of each peer, with exponentially growing pauses.

    Failures within one pause count once: three lookups that run into the same short outage are one piece of evidence.
    Bounded to `MAX_TRACKED_FAILURES` peers.
    """

    def __init__(self) -> None:
        self._records: dict[PeerId, _Record] = {}

    def failed(self, peer: PeerId, now: float) -> int:
        """Note a failure; returns how many spaced ones there have been in a row."""
        record = self._records.pop(peer, None) or _Record(0, now)
        if now >= record.retry_at:
            record.failures += 1
            pause = min(BACKOFF_BASE * BACKOFF_FACTOR ** (record.failures - 1), BACKOFF_MAX)
            record.retry_at = now + pause
        self._remember(peer, record)
        return record.failures

    def misbehaved(self, peer: PeerId, now: float) -> None:
        """Note that the peer broke the protocol: the longest pause at once, whatever it does."""
        self._records.pop(peer, None)
        self._remember(peer, _Record(MAX_TABLE_FAILURES, now + BACKOFF_MAX, hostile=True))

    def succeeded(self, peer: PeerId, now: float) -> bool:
        """Note that the peer is well; ``False`` if it is to be shunned all the same, since it broke the protocol."""
        record = self._records.get(peer)
        if record is not None and record.hostile and now < record.retry_at:
            return False
        self._records.pop(peer, None)
        return True

    def is_suspect(self, peer: PeerId) -> bool:
        """Whether its last request failed, however long ago: not to be recommended to others."""
        return peer in self._records

    def is_paused(self, peer: PeerId, now: float) -> bool:
        """Whether to leave it alone now."""
        record = self._records.get(peer)
        return record is not None and now < record.retry_at

    def _remember(self, peer: PeerId, record: _Record) -> None:
        self._records[peer] = record
        if len(self._records) > MAX_TRACKED_FAILURES:
            del self._records[next(iter(self._records))]
