"""Who is present: the newest record of each author, while it is good.

A record is good here for its ``ttl`` from when it came in, and nowhere beyond `MAX_SKEW_S` after its own end: so clocks
may differ by that much, and who vanishes is gone its ``ttl`` and `MAX_SKEW_S` after its last word at the latest, by its
own clock. Nothing here reads a clock or touches a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey, PeerId
from lattica.store.namespace import NamespaceId
from lattica.store.presence_record import (
    PresenceBody,
    PresenceRecord,
    encode_told,
    read_presence,
    sign_presence,
    verify_presence,
)
from lattica.store.values import Storable, Value

MAX_PRESENT: Final = 1024
"""Authors in a table, those who have gone lately included."""
MAX_TABLE_BYTES: Final = 1 << 20
"""Of all their records."""


@dataclass(slots=True)
class _Slot:
    """One author's newest record; kept when its author has gone, lest an older one comes back from somebody else."""

    record: PresenceRecord
    ends: float
    gone: bool


class PresenceTable:
    """Who is present in one namespace.

    Attributes:
        changes: Counts what may have changed who is present.
    """

    def __init__(
        self, key: IdentityKey, namespace: NamespaceId, may_be_present: Callable[[PeerId], bool], started: float
    ) -> None:
        """An empty table, of a process that ``started`` then (seconds since 1970)."""
        self.changes = 0
        self._key = key
        self._own = key.peer_id
        self._namespace = namespace
        self._may_be_present = may_be_present
        self._instance = int(started * 1000)
        self._seq = 0
        self._slots: dict[PeerId, _Slot] = {}
        self._bytes = 0

    def own(self, value: Storable, now: float, ttl: float) -> bytes:
        """A record of ours to be told to others: ``value`` for ``ttl`` seconds; that we have gone if it is ``None``.

        Raises:
            StoreValueError: The value cannot be told.
        """
        body = PresenceBody(
            author=self._own.raw,
            instance=self._instance,
            seq=self._seq + 1,
            issued=int(now * 1000),
            ttl=round(ttl * 1000),
            value=encode_told(value),
        )
        record = sign_presence(self._key, self._namespace, body)
        self._seq += 1
        self._put(self._own, record, now)
        return record.raw

    def admit(self, raw: bytes, now: float) -> bool:
        """Take in somebody's record; whether it is news, which others want to hear.

        Raises:
            EntryRefusedError: It is malformed, too large, forged, stale or of the future; its author has no right to be
                present; or too many are. The table stays as it was.
        """
        record = read_presence(raw)
        record.check_time(now)
        author = record.author
        known = self._slots.get(author)
        if author == self._own or (known is not None and record.version <= known.record.version):
            return False
        if not self._may_be_present(author):
            raise EntryRefusedError("its author has no right to write, hence none to be present")
        verify_presence(record, self._namespace)
        self._make_room(author, len(raw), now)
        self._put(author, record, now)
        return True

    def values(self, now: float) -> dict[PeerId, Value]:
        """Those who are present, ourselves included, and what they tell."""
        return {
            author: slot.record.value for author, slot in self._slots.items() if self._is_present(author, slot, now)
        }

    def snapshot(self) -> list[bytes]:
        """What to tell somebody who has just come: all records that are good, also of those who said that they go."""
        return [slot.record.raw for slot in self._slots.values() if not slot.gone]

    def expire(self, now: float) -> list[PeerId]:
        """Forget what is not good any more; returns who has gone by that, without a word or without a right."""
        left = []
        for author, slot in list(self._slots.items()):
            if not slot.gone and (now >= slot.ends or not self._may_be_present(author)):
                slot.gone = True
                if slot.record.value is not None:
                    left.append(author)
            if now >= slot.record.stale_at:
                self._remove(author)
        self.changes += bool(left)
        return left

    def next_end(self) -> float:
        """When the next record ends, in seconds since 1970; infinity if there is none."""
        return min((slot.ends for slot in self._slots.values() if not slot.gone), default=float("inf"))

    def _is_present(self, author: PeerId, slot: _Slot, now: float) -> bool:
        told = slot.record.value is not None and not slot.gone
        return told and now < slot.ends and self._may_be_present(author)

    def _put(self, author: PeerId, record: PresenceRecord, now: float) -> None:
        self._remove(author)
        ends = min(now + record.body.ttl / 1000, record.stale_at)
        self._slots[author] = _Slot(record, ends, gone=False)
        self._bytes += len(record.raw)
        self.changes += 1

    def _remove(self, author: PeerId) -> None:
        slot = self._slots.pop(author, None)
        if slot is not None:
            self._bytes -= len(slot.record.raw)

    def _make_room(self, author: PeerId, size: int, now: float) -> None:
        """See to it that a record of this size fits in, at the expense of those who have gone."""
        if self._has_room(author, size):
            return
        self.expire(now)
        for other, slot in list(self._slots.items()):
            if slot.gone or slot.record.value is None:
                self._remove(other)
            if self._has_room(author, size):
                return
        raise EntryRefusedError(f"{MAX_PRESENT} authors, or {MAX_TABLE_BYTES >> 10} KiB of what they tell, are present")

    def _has_room(self, author: PeerId, size: int) -> bool:
        known = self._slots.get(author)
        room = MAX_TABLE_BYTES - self._bytes + (len(known.record.raw) if known else 0)
        return size <= room and (known is not None or len(self._slots) < MAX_PRESENT)
