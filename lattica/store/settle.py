"""What follows when entries have come in: what is kept, what is not any more, and the replica that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from lattica.store.absorb import Absorbed
from lattica.store.entry import ChainId, Entry
from lattica.store.ledger import Base, Fraud
from lattica.store.replay import replay
from lattica.store.replica import Replica

MAX_EARLY_FRAUDS = 256
"""Frauds of authors without a right that are kept in mind: anybody can make any number."""
MAX_EARLY_BYTES = 4 << 20
"""Of their proofs."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be made durable, all at once.

    Attributes:
        replica: With what counts now; the same one, or a new one.
        put: New entries that count.
        drop: Entries that do not count any more. Our own are kept on disk: their numbers must not be used again.
        frauds: New proofs.
        replayed: Whether the replica was made anew, and what was known of the one before does not hold any more.
    """

    replica: Replica
    put: Sequence[Entry]
    drop: Sequence[Entry]
    frauds: Mapping[ChainId, Fraud]
    replayed: bool = False


def new_frauds(replica: Replica, found: Iterable[tuple[ChainId, Fraud]]) -> dict[ChainId, Fraud]:
    """Those of proven frauds that are news: of each chain the first, and that only if it is before the one known.

    One whose author has no right in the namespace is nobody's concern, nor is that of a stranger who is not taken in.
    """
    ledger = replica.ledger
    newcomers: set[bytes] = set()
    news: dict[ChainId, Fraud] = {}
    for chain, fraud in found:
        known = news.get(chain) or ledger.frozen.get(chain)
        is_news = (known is None or fraud.seq < known.seq) and ledger.rights_of(chain.author)
        if is_news and ledger.crowd.takes(chain.author, newcomers):
            news[chain] = fraud
            if not ledger.crowd.holds(chain.author):
                newcomers.add(chain.author)
    return news


def leaves_out(replica: Replica, found: Iterable[tuple[ChainId, Fraud]]) -> bool:
    """Whether one of proven frauds is of a stranger who is not taken in."""
    ledger = replica.ledger
    return any(ledger.rights_of(chain.author) and not ledger.crowd.takes(chain.author) for chain, _ in found)


def early_frauds(replica: Replica, found: Iterable[tuple[ChainId, Fraud]]) -> dict[ChainId, Fraud]:
    """Proven frauds of authors that have no right here, some of which may get to be known to have one.

    A peer tells its proofs once, and perhaps before the grants.
    """
    early = {chain: fraud for chain, fraud in found if not replica.ledger.rights_of(chain.author)}
    latest = list(early.items())[-MAX_EARLY_FRAUDS:]
    sizes = accumulate(len(fraud.one) + len(fraud.other) for _, fraud in reversed(latest))
    count = sum(size <= MAX_EARLY_BYTES for size in sizes)
    return dict(latest[len(latest) - count :])


def settle(
    replica: Replica,
    absorbed: Absorbed,
    frauds: Mapping[ChainId, Fraud],
    stored: Sequence[Entry] | None,
    base: Base | None = None,
) -> Settled:
    """What to keep.

    Args:
        replica: That has absorbed.
        absorbed: What.
        frauds: New ones.
        stored: All entries that were kept before, in order; needed if something must be replayed, or there are frauds.
        base: The state that stands for entries that are not kept, if there is one; needed then too.
    """
    if stored is None:
        return Settled(replica, absorbed.added, (), {})
    ledger = replica.ledger
    entries = _distinct([*stored, *absorbed.added, *absorbed.resuming])
    renewed, lost = replay(ledger.genesis, replica.own, {**ledger.frozen, **frauds}, entries, base)
    for lane, top in replica.tops.items():
        renewed.used(lane, top)
    gone = {entry.hash for entry in lost}
    before = {entry.hash for entry in stored}
    return Settled(
        renewed,
        [entry for entry in entries if entry.hash not in before and entry.hash not in gone],
        [entry for entry in lost if entry.hash in before and entry.body.author != replica.own],
        frauds,
        replayed=True,
    )


def _distinct(entries: Iterable[Entry]) -> list[Entry]:
    return list({entry.hash: entry for entry in entries}.values())
