"""Who may go on writing, by what is known now."""

from __future__ import annotations

from lattica.store.clock import to_seconds
from lattica.store.entry import ChainId, Lane
from lattica.store.ledger import Ledger


def may_write(ledger: Ledger, author: bytes, name: str | None = None) -> bool:
    """Whether the author's next entry may count: one that writes the container of this name, or any."""
    chain = ChainId(author, Lane.DATA)
    following = ledger.chain(chain).head + 1
    fraud = ledger.frozen.get(chain)
    if fraud is not None and fraud.seq <= following:
        return False
    return any(right.last >= following and (name is None or right.covers(name)) for right in ledger.rights_of(author))


def last_written(ledger: Ledger, author: bytes) -> float:
    """When the author wrote its latest entry that counts, in seconds since 1970; 0 if it has none."""
    return to_seconds(ledger.chain(ChainId(author, Lane.DATA)).time)
