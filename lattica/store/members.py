"""Who holds a lease at the moment, and who comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field

from lattica.identity import PeerId
from lattica.store.changes import Change
from lattica.store.journal import Journal
from lattica.store.lease import Held, leases_at
from lattica.store.lease_hold import MAX_WAIT_S
from lattica.store.replicated_map import OwnMap
from lattica.store.values import Value
from lattica.store.writers import RightsStamp, last_written, may_write, rights_stamp


@dataclass(frozen=True, slots=True)
class MembersChange:
    """What has changed among members.

    Attributes:
        joined: Those who are new, with what they tell.
        updated: Those who tell something else than before.
        left: Those who have gone: withdrawn, expired or revoked; with what they told.
    """

    joined: Mapping[PeerId, Value] = field(default_factory=dict)
    updated: Mapping[PeerId, Value] = field(default_factory=dict)
    left: Mapping[PeerId, Value] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.joined or self.updated or self.left)


class Members(Mapping[PeerId, Value]):
    """Those who hold a lease of one name and may write it, and what they tell; from `Document.members`.

    Every look at it is a look at the clock: whose lease has ended is not in it any more.
    """

    def __init__(self, journal: Journal, own: OwnMap) -> None:
        self._journal = journal
        self._own = own

    def __getitem__(self, peer: PeerId) -> Value:
        author = str(peer)
        return self._leases([(author, self._own[author])])[peer].value

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._leases())

    def __len__(self) -> int:
        return len(self._leases())

    def items(self) -> ItemsView[PeerId, Value]:
        """All of them, as they are now."""
        return _values(self._leases()).items()

    def values(self) -> ValuesView[Value]:
        """What they tell, as it is now."""
        return _values(self._leases()).values()

    async def changes(self) -> AsyncIterator[MembersChange]:
        """Yield those who are there as joined, if there are any, and then who comes and goes.

        Changes that come close together are told as one. Ends when the document is closed.
        """
        known: dict[PeerId, Value] = {}
        rights: RightsStamp | None = None
        feed = self._journal.feed
        with self._journal.watch() as changes:
            ends = 0.0
            while not feed.closed:
                written = any(self._concerns(change) for change in changes.take())
                stamp = rights_stamp(self._journal.replica.ledger)
                if written or self._journal.now() >= ends or rights != stamp:
                    rights = stamp
                    leases = self._leases()
                    ends = min((held.until / 1000 for held in leases.values()), default=float("inf"))
                    found = _values(leases)
                    change, known = difference(known, found), found
                    if change:
                        yield change
                        continue
                await changes.wait(min(max(ends - self._journal.now(), 0.001), MAX_WAIT_S))
            feed.check()

    def _concerns(self, change: Change) -> bool:
        return change.everything or any(place.root == self._own.root for place in change.places)

    def _leases(self, records: list[tuple[str, Value]] | None = None) -> dict[PeerId, Held]:
        records = list(self._own.items()) if records is None else records
        return leases_at(records, self._journal.now(), self._last_written)

    def _last_written(self, peer: PeerId) -> float | None:
        ledger = self._journal.replica.ledger
        return last_written(ledger, peer.raw) if may_write(ledger, peer.raw, self._own.name) else None


def _values(leases: Mapping[PeerId, Held]) -> dict[PeerId, Value]:
    return {peer: held.value for peer, held in leases.items()}


def difference(before: Mapping[PeerId, Value], after: Mapping[PeerId, Value]) -> MembersChange:
    """What has changed from ``before`` to ``after``."""
    return MembersChange(
        {peer: value for peer, value in after.items() if peer not in before},
        {peer: value for peer, value in after.items() if peer in before and not _same(before[peer], value)},
        {peer: value for peer, value in before.items() if peer not in after},
    )


def _same(one: Value, other: Value) -> bool:
    return repr(one) == repr(other)  # unlike ==, tells 1 from True, and finds NaN equal to itself
