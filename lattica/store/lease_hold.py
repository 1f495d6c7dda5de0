"""Holding a lease: renewing our record before it ends, and withdrawing it when we leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from lattica.background import background_tasks
from lattica.errors import LatticaError, LeaseLostError, StoreUsageError
from lattica.identity import PeerId
from lattica.store.due import Due
from lattica.store.journal import Journal
from lattica.store.lease import check_ttl, lease_record, read_lease
from lattica.store.replicated_map import OwnMap
from lattica.store.values import Storable, Value
from lattica.store.writers import may_write

RENEW_AFTER = 1 / 3
"""Part of its duration after which a lease is renewed: two renewals may fail."""
RETRY_AFTER = 1 / 20
"""Part of its duration after which a renewal that failed is tried again."""
JITTER = 0.2
"""Part by which the time of renewals varies, lest all who began together renew together."""
MAX_WAIT_S = 5.0
"""Seconds after which the time of day is looked at again: it jumps when a computer wakes up or its clock is set."""
WITHDRAW_S = 2.0
"""Seconds that a block which was cancelled, or has raised, takes to withdraw its lease."""

log = logging.getLogger(__name__)


class Lease:
    """A lease that is being held; from `Document.hold`. Others see its value while it lasts.

    Attributes:
        ttl: Seconds that it lasts from each renewal on.
        until: When it ends unless it is renewed, in seconds since 1970.
        lost: Why it ended though it is still wanted; ``None`` while it lasts. A lost lease stays lost.
    """

    def __init__(self, journal: Journal, own: OwnMap, ttl: float) -> None:
        self.ttl = ttl
        self.until = 0.0
        self.lost: LeaseLostError | None = None
        self._journal = journal
        self._own = own
        self._author = str(PeerId(journal.replica.own))
        self._renewal = Due(journal.now)
        self._value: Value = None
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()

    @property
    def value(self) -> Value:
        """What others see."""
        return self._value

    async def update(self, value: Storable) -> None:
        """Show another value from now on; durable here when this returns.

        Raises:
            LeaseLostError: There is no lease any more.
            StoreUsageError: We may not write here, are in a transaction, or the value is too large; the old one stays.
        """
        if self._journal.is_writing:
            raise StoreUsageError("a lease cannot be updated within a transaction: it is an entry of its own")
        async with self._turn:
            if self.lost is not None:
                raise LeaseLostError(self.lost.name, self.lost.reason)
            await self._write(value)

    async def wait_lost(self) -> LeaseLostError:
        """Return once the lease is lost, with the reason."""
        await self._ended.wait()
        if self.lost is None:
            raise AssertionError
        return self.lost

    # for `hold`

    async def renew_until_lost(self) -> None:
        """Renew the lease before it ends, and at once when what was written does not count any more."""
        with self._journal.watch() as changes:
            while not self._is_lost():
                undone = any(change.everything for change in changes.take()) and not self._is_written()
                if undone or self._renewal.left() <= 0:
                    await self._renew()
                else:
                    await changes.wait(self._pause())

    async def withdraw(self) -> None:
        """Take the record back, unless it is lost."""
        async with self._turn:
            if not self._is_lost() and self._is_written():
                async with self._journal.transaction():
                    self._own.clear()

    def _is_lost(self) -> bool:
        """Whether it is over; says so to those who wait."""
        if self.lost is None and (reason := self._why_lost()):
            self.lost = LeaseLostError(self._own.name, reason)
            self._ended.set()
        return self.lost is not None

    def _why_lost(self) -> str | None:
        ledger = self._journal.replica.ledger
        if self._journal.feed.closed:
            return "the document is closed; open it again"
        if not may_write(ledger, self._journal.replica.own, self._own.name):
            return "our right to write it was revoked; ask for a new one"
        if self._journal.now() >= self.until:
            return "it was not renewed in time; hold it anew, with a longer ttl if the computer was only busy"
        return None

    def _is_written(self) -> bool:
        held = read_lease(self._own.get(self._author))
        return held is not None and held.until == round(self.until * 1000)

    def _pause(self) -> float:
        return min(self._renewal.left(), max(self.until - self._journal.now(), 0.001), MAX_WAIT_S)

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(self.until - self._journal.now()), self._turn:
                await self._write(self._value)
        except (LatticaError, TimeoutError) as error:
            log.warning("lease not renewed name=%s error=%s", self._own.name, error)
            self._renewal.set(self.ttl * RETRY_AFTER)

    async def _write(self, value: Storable) -> None:
        try:
            async with self._journal.transaction():
                self._own.set(lease_record(value, self._journal.entry_time() + self.ttl))
        except asyncio.CancelledError:
            self._note()  # it may have been written, and then has to be withdrawn
            raise
        self._note()

    def _note(self) -> None:
        """Go by what is in the document."""
        held = read_lease(self._own.get(self._author))
        if held is not None:
            self.until, self._value = held.until / 1000, held.value
            self._renewal.set(renewal_pause(self.ttl))


def renewal_pause(ttl: float) -> float:
    """Seconds until what lasts ``ttl`` seconds is renewed; drawn anew each time."""
    return ttl * RENEW_AFTER * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load


@contextlib.asynccontextmanager
async def hold(journal: Journal, own: OwnMap, value: Storable, ttl: float) -> AsyncIterator[Lease]:
    """See `Document.hold`."""
    check_ttl(ttl)
    lease = Lease(journal, own, ttl)
    try:
        await lease.update(value)
        async with background_tasks() as tasks:
            tasks.start(lease.renew_until_lost())
            yield lease
    except BaseException:
        with contextlib.suppress(LatticaError, TimeoutError):
            async with asyncio.timeout(WITHDRAW_S):
                await lease.withdraw()
        raise
    await lease.withdraw()
