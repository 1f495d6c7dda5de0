"""What counts of a set of entries, from the beginning: for a store that is opened, or when something counts no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from lattica.errors import EntryRefusedError
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.ledger import Base, Fraud, Ledger, Verdict
from lattica.store.namespace import Genesis
from lattica.store.replica import Replica

_GOOD = (Verdict.ADDED, Verdict.CUTS)


def replay(
    genesis: Genesis,
    own: bytes,
    frozen: Mapping[ChainId, Fraud],
    entries: Sequence[Entry],
    base: Base | None = None,
) -> tuple[Replica, list[Entry]]:
    """A replica of those entries that count, and the others.

    An entry that resumes takes the place of those that it skips, if it counts itself. So when one is found not to, all
    begins anew without it. That happens rarely, and not for long: one entry fewer each time.

    Args:
        genesis: The namespace's.
        own: Our peer ID.
        frozen: The proven frauds.
        entries: Whose signatures are good, each after those that it builds on, none twice.
        base: The state of a checkpoint, whose entry is among them; what it covers does not have to be.
    """
    control = [entry for entry in entries if entry.body.lane is Lane.CONTROL and not _is_frozen(entry, frozen)]
    while True:
        replica = Replica(genesis, own, frozen, base)
        chosen = _chosen(control)
        failed = _add_all(replica, chosen)
        without = _beyond_rights(replica, chosen) or _skipping(failed, chosen, control)
        if not without:
            break
        control = _without(control, without)
    control = _without(chosen, {entry.hash for entry in failed})
    data = [entry for entry in entries if entry.body.lane is Lane.DATA and _may_count(replica.ledger, entry)]
    while True:
        chosen = _chosen(data)
        failed = _add_all(replica, chosen)
        without = _skipping(failed, chosen, data)
        if not without:
            break
        data = _without(data, without)
        replica = Replica(genesis, own, frozen, base)
        _add_all(replica, control)
    counting = {entry.hash for entry in [*control, *chosen]} - {entry.hash for entry in failed}
    for lane in Lane:
        used = (entry.body.seq for entry in entries if entry.chain == (own, lane))
        replica.used(lane, max(used, default=0))
    return replica, [entry for entry in entries if entry.hash not in counting]


def _is_frozen(entry: Entry, frozen: Mapping[ChainId, Fraud]) -> bool:
    fraud = frozen.get(entry.chain)
    return fraud is not None and entry.body.seq >= fraud.seq


def _may_count(ledger: Ledger, entry: Entry) -> bool:
    """Whether a data entry is not beyond a fraud, nor at odds with a checkpoint."""
    body = entry.body
    floor = ledger.rights.floor(body.author)
    if body.seq <= ledger.chain(entry.chain).base or body.seq > floor > body.after:
        return False
    return body.seq < ledger.frozen_from(entry.chain)


def _without(entries: Sequence[Entry], hashes: Set[bytes]) -> list[Entry]:
    return [entry for entry in entries if entry.hash not in hashes]


def _chosen(candidates: Sequence[Entry]) -> list[Entry]:
    """The entries without those that others of their chains have skipped."""
    after: dict[ChainId, int] = {}
    chosen = []
    for entry in sorted(candidates, key=lambda entry: entry.body.seq, reverse=True):
        if entry.body.seq <= after.get(entry.chain, entry.body.seq):
            after[entry.chain] = entry.body.after
            chosen.append(entry.hash)
    kept = set(chosen)
    return [entry for entry in candidates if entry.hash in kept]


def _add_all(replica: Replica, entries: Iterable[Entry]) -> list[Entry]:
    failed = []
    for entry in entries:
        try:
            good = replica.add(entry) in _GOOD
        except EntryRefusedError:
            good = False
        if not good:
            failed.append(entry)
    return failed


def _beyond_rights(replica: Replica, chosen: Sequence[Entry]) -> set[bytes]:
    """Control entries that were added, and do not count as their authors' rights have turned out."""
    beyond = set()
    counting = replica.ledger.rights.counting
    for author, count in counting.items():
        chain = replica.ledger.chain(ChainId(author, Lane.CONTROL))
        if count < len(chain):
            last = chain.seq_at(count - 1) if count else 0
            beyond |= {
                entry.hash for entry in chosen if entry.chain == ChainId(author, Lane.CONTROL) and entry.body.seq > last
            }
    return beyond


def _skipping(failed: Sequence[Entry], chosen: Sequence[Entry], candidates: Sequence[Entry]) -> set[bytes]:
    """Those of the failed in whose favour others were not chosen."""
    kept = {entry.hash for entry in chosen}
    left_out: dict[ChainId, list[int]] = {}
    for entry in candidates:
        if entry.hash not in kept:
            left_out.setdefault(entry.chain, []).append(entry.body.seq)
    return {
        entry.hash
        for entry in failed
        if any(entry.body.after < number <= entry.body.seq for number in left_out.get(entry.chain, ()))
    }
