"""Whom a replica of an open namespace takes in: all to whom something was granted, and so many strangers.

Which strangers these are depends on whom it has heard of first, so two replicas that are full may hold different ones.
But strangers on whose entries somebody has built to whom something was granted, and those on whom these entries build,
are taken by all: so all that such authors write gets everywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lattica.store.control import EVERYBODY
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.namespace import MAX_AUTHORS, Policy

if TYPE_CHECKING:
    from lattica.store.ledger import Ledger


class Crowd:
    """The authors of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._vouched: dict[bytes, int] = {}  # up to which entry
        self._counted = (-1, -1, -1)
        self._count = 0

    def holds(self, author: bytes) -> bool:
        """Whether entries of data, or a fraud, of the author are here."""
        ledger = self._ledger
        return ChainId(author, Lane.DATA) in ledger.chains or any(
            ChainId(author, lane) in ledger.frozen for lane in Lane
        )

    def takes(self, author: bytes, newcomers: Collection[bytes] = ()) -> bool:
        """Whether the author's entries of data and frauds are taken in, if those of the newcomers are.

        Whether it has a right to write is another question.
        """
        if self.holds(author) or author == self._ledger.genesis.owner.raw:
            return True
        others = len(newcomers) - (author in newcomers)
        if len(self._ledger.chains) + others >= MAX_AUTHORS:
            return False
        return not self._is_stranger(author) or self._strangers() + others < self._ledger.genesis.limits.strangers

    def vouch(self, author: bytes, seq: int = 0) -> None:
        """Take the author for no stranger, if there is room; up to an entry also those on whom it builds."""
        known = self._vouched.get(author, -1)
        if seq > known and (known >= 0 or len(self._vouched) < MAX_AUTHORS):
            self._vouched[author] = seq
            self._ledger.renew()

    def note_left(self, entry: Entry) -> None:
        """Note an entry that may build on what is not here: who was granted something vouches for others so.

        Strangers do not vouch for strangers but in entries that are vouched for, nor does who may not write any more.
        """
        if self._is_trusted(entry):
            for dep in entry.body.deps:
                if dep.lane is Lane.DATA and self._ledger.chain(ChainId(dep.author, Lane.DATA)).head < dep.seq:
                    self.vouch(dep.author, dep.seq)

    def _is_trusted(self, entry: Entry) -> bool:
        author, seq = entry.body.author, entry.body.seq
        if author == self._ledger.genesis.owner.raw or seq <= self._vouched.get(author, 0):
            return True
        return any(right.mark != EVERYBODY and seq <= right.last for right in self._ledger.rights_of(author))

    def _is_stranger(self, author: bytes) -> bool:
        ledger = self._ledger
        if ledger.genesis.policy is not Policy.OPEN or author in self._vouched:
            return False
        return not ledger.rights.names(author)

    def _strangers(self) -> int:
        ledger = self._ledger
        now = len(ledger.chains), ledger.rights.size, len(self._vouched)
        if now != self._counted:
            authors = {chain.author for chain in ledger.chains if chain.lane == Lane.DATA}
            authors |= {chain.author for chain in ledger.frozen}
            self._counted, self._count = now, sum(map(self._is_stranger, authors))
        return self._count
