"""Who looks at a document now, and what they tell of themselves: a cursor, a name, a load. Never kept on disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from lattica.errors import StoreUsageError
from lattica.identity import PeerId
from lattica.store.changes import Observer
from lattica.store.due import Due
from lattica.store.journal import Journal
from lattica.store.lease import check_ttl
from lattica.store.lease_hold import MAX_WAIT_S, renewal_pause
from lattica.store.members import MembersChange, difference
from lattica.store.presence_record import MAX_PRESENCE_S, MIN_PRESENCE_S, decode_told, encode_told
from lattica.store.presence_table import PresenceTable
from lattica.store.values import Storable, Value
from lattica.store.writers import RightsStamp, may_write, rights_stamp

PRESENCE_TTL_S: Final = 30.0
"""Seconds for which others take us for present without hearing from us, as in Yjs (y-protocols, awareness.js)."""
MIN_PAUSE_S: Final = 0.05
"""Seconds between two records of ours: of what changes faster, as a pointer does, the newest is told."""


class Presence:
    """Who is present; from `Document.presence`. All who may write the document may be, and are seen by all.

    What carries records to others calls `connect` and `receive`, and `snapshot` for who has just come.
    """

    def __init__(self, journal: Journal, *, ttl: float = PRESENCE_TTL_S) -> None:
        check_ttl(ttl, MIN_PRESENCE_S, MAX_PRESENCE_S)
        self._journal = journal
        self._ttl = ttl
        self._table = PresenceTable(journal.key, journal.genesis.namespace, self._may_be_present, journal.now())
        self._value: Value = None
        self._version = 0
        self._renewal = Due(journal.now)
        self._pause = Due(journal.now)
        self._renewing: asyncio.Task[None] | None = None
        self._carriers: list[Callable[[bytes], object]] = []
        self._watchers: set[Observer] = set()

    async def set(self, value: Storable) -> None:
        """Be present, and tell ``value`` until something else is set; ``None``: be present no more.

        Returns when it was handed to those who carry it, or something newer was set: at most twenty times a second
        anything is told. If cancelled before, it is told a little later.

        Raises:
            StoreUsageError: We have no right to write here, or the document is closed.
            StoreValueError: It is too large (3,840 bytes are the most), or could not be kept in a document either.
        """
        if self._journal.feed.closed:
            raise StoreUsageError("the document is closed; open it again")
        if not self._may_be_present(self._journal.key.peer_id):
            raise StoreUsageError("who has no right to write a document cannot be present; ask for one")
        self._value = decode_told(encode_told(value))
        self._version += 1
        version = self._version
        if self._renewing is None or self._renewing.done():
            self._renewal.set(renewal_pause(self._ttl))
            self._renewing = self._journal.tasks.start(self._renew())
        await asyncio.sleep(self._pause.left())
        if version == self._version:
            self._tell()

    def values(self) -> dict[PeerId, Value]:
        """Those who are present, ourselves included, and what they tell."""
        return self._table.values(self._journal.now())

    async def changes(self) -> AsyncIterator[MembersChange]:
        """Yield those who are present as joined, if there are any, and then who comes, goes, or tells something else.

        Changes that come close together are told as one. Ends when the document is closed.
        """
        known: dict[PeerId, Value] = {}
        seen: tuple[int, RightsStamp] | None = None
        ends = 0.0
        feed = self._journal.feed
        with self._watch() as watch:
            while not feed.closed:
                watch.take()
                now = self._journal.now()
                stamp = self._table.changes, rights_stamp(self._journal.replica.ledger)
                if now >= ends or stamp != seen:
                    self._table.expire(now)
                    seen, ends, found = stamp, self._table.next_end(), self._table.values(now)
                    change, known = difference(known, found), found
                    if change:
                        yield change
                        continue
                await watch.wait(min(max(ends - self._journal.now(), 0.001), MAX_WAIT_S))
            feed.check()

    # for what carries records

    def connect(self, on_news: Callable[[bytes], object]) -> Callable[[], None]:
        """Hand each record of ours to ``on_news``, to be told to others, until what is returned is called.

        It is called in the event loop, must not block, and should not raise.
        """
        self._carriers.append(on_news)
        return lambda: self._carriers.remove(on_news)

    def receive(self, raw: bytes) -> bool:
        """Take in a record that has come from somebody; whether it is news, to be passed on to all others.

        Raises:
            EntryRefusedError: It is malformed, too large, forged, stale or of the future; its author has no right to be
                present; or too many are.
        """
        is_news = self._table.admit(raw, self._journal.now())
        if is_news:
            self._wake()
        return is_news

    def snapshot(self) -> list[bytes]:
        """The records to tell somebody who has just come; some MiB at most."""
        self._table.expire(self._journal.now())
        return self._table.snapshot()

    # within

    def _may_be_present(self, peer: PeerId) -> bool:
        return may_write(self._journal.replica.ledger, peer.raw)

    async def _renew(self) -> None:
        """Tell our value again before it ends; that we have gone, when the document is closed."""
        feed = self._journal.feed
        try:
            with feed.observe() as changes:
                while self._value is not None and not feed.closed:
                    await changes.wait(max(min(self._renewal.left(), MAX_WAIT_S), 0))
                    changes.take()
                    if self._value is not None and self._renewal.left() <= 0:
                        self._tell()
        finally:
            if self._value is not None:
                self._value = None
                self._tell()

    def _tell(self) -> None:
        self._pause.set(MIN_PAUSE_S)
        self._renewal.set(renewal_pause(self._ttl))
        if not self._may_be_present(self._journal.key.peer_id):
            return  # others would refuse it; we may get a right again
        raw = self._table.own(self._value, self._journal.now(), self._ttl)
        for carry in list(self._carriers):
            carry(raw)
        self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake()

    @contextlib.contextmanager
    def _watch(self) -> Iterator[Observer]:
        with self._journal.watch() as observer:
            self._watchers.add(observer)
            try:
                yield observer
            finally:
                self._watchers.discard(observer)
