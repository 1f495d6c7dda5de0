"""Who may go on writing, by what is known now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lattica.store.clock import to_seconds
from lattica.store.control import Rights, Scope
from lattica.store.entry import ChainId, Lane
from lattica.store.ledger import Ledger


class RightsStamp(NamedTuple):
    """Stays equal as long as nobody's rights change.

    Attributes:
        rights: Replaced when the namespace is replayed, as after a fraud.
        counting: For each author how many control entries count.
    """

    rights: Rights
    counting: Mapping[bytes, int]


def rights_stamp(ledger: Ledger) -> RightsStamp:
    """The stamp now; takes as long as there are admins."""
    return RightsStamp(ledger.rights, dict(ledger.rights.counting))


def may_write(ledger: Ledger, author: bytes, name: str | None = None) -> bool:
    """Whether the author's next entry may count: one that writes the container of this name, or any."""
    chain = ChainId(author, Lane.DATA)
    following = ledger.chain(chain).head + 1
    if ledger.frozen_from(chain) <= following:
        return False
    rights = [right for right in ledger.rights_of(author) if right.last >= following]
    return bool(rights) if name is None else Scope(rights).covers(name)


def last_written(ledger: Ledger, author: bytes) -> float:
    """When the author wrote its latest entry that counts, in seconds since 1970; 0 if it has none."""
    return to_seconds(ledger.chain(ChainId(author, Lane.DATA)).time)
