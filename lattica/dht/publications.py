"""What we provide ourselves, and when each key is to be stored again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lattica.dht.limits import (
    PROVIDER_REPUBLISH_INTERVAL,
    PUBLISH_JITTER,
    PUBLISH_MIN_INTERVAL,
    PUBLISH_RETRY_MAX,
    PUBLISH_RETRY_MIN,
    K,
)


@dataclass(slots=True)
class _Publication:
    due: float
    taken_at: float = float("-inf")  # when somebody last accepted it
    accepted: int = 0
    failures: int = 0  # attempts in a row that nobody accepted
    table_size: int = 0  # when the last attempt began
    under_way: bool = False


class Publications:
    """The keys we provide. A pure schedule: `upcoming` says what to store when, `finished` is told how it went.

    A key that nobody took is due again within seconds, and at once when a first peer appears. One that fewer than `k`
    took is due when the table has doubled: the peers that now are nearest may be new. All are due when our addresses
    change. The rest wait for the republish interval of the spec.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._publications: dict[bytes, _Publication] = {}

    def __len__(self) -> int:
        return len(self._publications)

    def __contains__(self, key: bytes) -> bool:
        return key in self._publications

    def add(self, key: bytes, now: float) -> None:
        """Provide `key` from now on; due at once."""
        self._publications.setdefault(key, _Publication(now)).due = now

    def discard(self, key: bytes) -> None:
        """Stop providing `key`. The network forgets it when the records expire."""
        self._publications.pop(key, None)

    def upcoming(self) -> tuple[float, bytes] | None:
        """The key to store next, and when it is due; ``None`` if there is none that is not being stored."""
        return min(((p.due, key) for key, p in self._publications.items() if not p.under_way), default=None)

    def begin(self, key: bytes, *, table_size: int) -> None:
        """Note that `key` is being stored, with `table_size` peers known.

        Until `finished` or `interrupted` it is not due.
        """
        if publication := self._publications.get(key):
            publication.under_way, publication.table_size = True, table_size

    def finished(self, key: bytes, *, accepted: int, now: float) -> None:
        """Note that `accepted` peers took `key`, and plan the next time."""
        publication = self._publications.get(key)
        if publication is None:
            return
        publication.under_way, publication.accepted = False, accepted
        if accepted:
            publication.failures, publication.taken_at = 0, now
            early = self._rng.uniform(0, PUBLISH_JITTER)
            publication.due = now + PROVIDER_REPUBLISH_INTERVAL * (1 - early)
        else:
            publication.due = now + min(PUBLISH_RETRY_MIN * 2.0**publication.failures, PUBLISH_RETRY_MAX)
            publication.failures = min(publication.failures + 1, 16)

    def interrupted(self, key: bytes, now: float) -> None:
        """Note that storing `key` was given up half-way: it stays provided, and is due at once."""
        publication = self._publications.get(key)
        if publication is not None and publication.under_way:
            publication.under_way = False
            publication.due = now

    def peers_known(self, table_size: int, now: float) -> None:
        """Note how many peers the table holds: keys that too few took may be due."""
        for publication in self._publications.values():
            if publication.accepted < K and table_size >= max(1, 2 * publication.table_size):
                self._hasten(publication, now)

    def addresses_changed(self, now: float) -> None:
        """Note that the addresses in all our records are out of date."""
        for publication in self._publications.values():
            self._hasten(publication, now)

    @staticmethod
    def _hasten(publication: _Publication, now: float) -> None:
        publication.due = min(publication.due, max(now, publication.taken_at + PUBLISH_MIN_INTERVAL))
