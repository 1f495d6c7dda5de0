"""Members of a document, and who is present in it, without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lattica.errors import LeaseLostError
from lattica.identity import PeerId
from lattica.store import Lease, MembersChange, Presence, Storable, Value
from lattica.sync.loop import LoopThread


class SyncLease:
    """A lease that is being held; from `SyncDocument.hold`."""

    def __init__(self, loop: LoopThread[Any], lease: Lease) -> None:
        self._loop = loop
        self._lease = lease

    @property
    def lost(self) -> LeaseLostError | None:
        """Why it ended though it is still wanted; ``None`` while it lasts."""
        return self._lease.lost

    def update(self, value: Storable) -> None:
        """Show another value from now on; see `lattica.store.Lease.update`."""
        self._loop.run(self._lease.update(value))


class SyncPresence:
    """Who looks at a document now; `SyncDocument.presence`."""

    def __init__(self, loop: LoopThread[Any], presence: Presence) -> None:
        self._loop = loop
        self._presence = presence

    def set(self, value: Storable) -> None:
        """Be present, and tell ``value``; ``None``: no more. See `lattica.store.Presence.set`."""
        self._loop.run(self._presence.set(value))

    def values(self) -> dict[PeerId, Value]:
        """Those who are present, ourselves included, and what they tell."""

        async def values() -> dict[PeerId, Value]:
            return self._presence.values()

        return self._loop.run(values())

    def changes(self) -> Iterator[MembersChange]:
        """Yield those who are present, and then who comes, goes, or tells something else; waits for each."""
        return self._loop.watch(self._presence.changes())
