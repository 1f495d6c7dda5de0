"""Taking in others' entries: check who signed them, add what can be added, say what is to be done about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from lattica.errors import EntryRefusedError
from lattica.identity import PeerId
from lattica.store.chain import Chain, new_client
from lattica.store.changes import Change
from lattica.store.clock import to_seconds
from lattica.store.entry import MARK_BYTES, ChainId, Entry, Lane, Verifier, read_entry
from lattica.store.item_runs import Place
from lattica.store.ledger import Fraud, Verdict
from lattica.store.namespace import NamespaceId
from lattica.store.replica import Replica


class Written(NamedTuple):
    """An entry of data that was added.

    Attributes:
        entry: The entry.
        places: What it has written to.
    """

    entry: Entry
    places: Set[Place]

    def change(self, *, local: bool) -> Change:
        """What those who watch the document are told."""
        body = self.entry.body
        author, time = PeerId(body.author), to_seconds(body.time)
        return Change(author=author, places=frozenset(self.places), time=time, local=local)


@dataclass(slots=True)
class Absorbed:
    """What became of some entries.

    Attributes:
        added: In order; to be kept on disk before anybody is told of them.
        written: What those of them that are data have written to.
        known: How many were here already, or do not count.
        missing: How many build on what is not here.
        left_out: How many are of strangers that are not taken in.
        forks: Each contradicts an entry that is here: of each chain the first, which is enough.
        resuming: Would replace entries that are here, if they count; of each chain one way on, in order.
        cuts: What is here may not count any more.
        refused: Broke the rules, and how.
    """

    added: list[Entry] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    known: int = 0
    missing: int = 0
    left_out: int = 0
    forks: list[Entry] = field(default_factory=list)
    resuming: list[Entry] = field(default_factory=list)
    cuts: bool = False
    refused: list[tuple[Entry, str]] = field(default_factory=list)

    def take(self, replica: Replica, entry: Entry) -> None:
        """Note an entry that was just added."""
        self.added.append(entry)
        if entry.body.lane is Lane.DATA:
            self.written.append(Written(entry, replica.ledger.touched))

    def note(self, replica: Replica, entry: Entry, verdict: Verdict, left: list[Entry]) -> None:
        """Note what became of an entry; those that could not be added here are left."""
        if verdict in (Verdict.ADDED, Verdict.CUTS):
            self.take(replica, entry)
            self.cuts |= verdict is Verdict.CUTS
        elif verdict is Verdict.FORK:
            self.forks.append(entry)
        elif verdict in (Verdict.RESUMES, Verdict.MISSING, Verdict.SKIPPED):
            left.append(entry)
        else:
            self.known += 1

    @property
    def must_replay(self) -> bool:
        """Whether the document has to be made anew."""
        return self.cuts or bool(self.resuming)


def absorb(replica: Replica, entries: Iterable[Entry]) -> Absorbed:
    """Add entries whose signatures are good, in order; none is left half added.

    The numbers of our own, which come back after a backup was restored, are not used again, whatever becomes of them.
    """
    result = Absorbed()
    left: list[Entry] = []
    tops = dict.fromkeys(Lane, 0)
    chains, crowd = replica.ledger.chains, replica.ledger.crowd
    for entry in entries:
        if entry.chain not in chains and entry.body.lane is Lane.DATA and not crowd.takes(entry.body.author):
            result.left_out += 1
            continue
        try:
            verdict = replica.add(entry)
        except EntryRefusedError as error:
            result.refused.append((entry, error.reason))
            continue
        result.note(replica, entry, verdict, left)
        if entry.body.author == replica.own:
            tops[entry.body.lane] = max(tops[entry.body.lane], entry.body.seq)
    for lane, top in tops.items():
        replica.used(lane, top)
    forks = sorted(result.forks, key=lambda entry: entry.body.seq, reverse=True)
    result.forks = list({entry.chain: entry for entry in forks}.values())
    for entry in left:
        crowd.note_left(entry)
    result.resuming = _resuming(replica, left)
    result.missing = len({entry.hash for entry in left} - {entry.hash for entry in result.resuming})
    return result


def _resuming(replica: Replica, left: Iterable[Entry]) -> list[Entry]:
    """Of entries that could not be added those that would go on from an earlier entry of their chain than the last one.

    Of each chain one way on, the longest: whether it counts takes a replay to tell, and nobody may cause many at once.
    It may hold what was skipped here. No honest author's does, which would go back and forth; the longer way counts.
    """
    chains: dict[ChainId, dict[bytes, Entry]] = {}
    for entry in left:
        chains.setdefault(entry.chain, {})[entry.hash] = entry
    found = []
    for chain, entries in chains.items():
        found += _longest_way(replica.ledger.chain(chain), entries)
    return found


def _longest_way(known: Chain, entries: Mapping[bytes, Entry]) -> list[Entry]:
    tried: set[bytes] = set()
    for entry in sorted(entries.values(), key=lambda entry: entry.body.seq, reverse=True):
        if entry.body.seq > known.head and entry.hash not in tried:
            way = _way(entry, entries)
            after = way[0].body.after
            if after < known.head and known.mark(after) == way[0].body.prev[:MARK_BYTES]:
                return way
            tried.update(before.hash for before in way)
    return []


def _way(entry: Entry, entries: Mapping[bytes, Entry]) -> list[Entry]:
    """The entry and those that lead to it, in order."""
    way = [entry]
    while (before := entries.get(way[-1].body.prev)) is not None and before.body.seq == way[-1].body.after:
        way.append(before)
    return way[::-1]


def check_signatures(entries: Iterable[Entry], verifier: Verifier) -> None:
    """Check that their authors have signed the entries: each of them.

    An entry holds the hash of the one before it, but nobody else learns that its author has signed that one, once the
    later entry was refused, cut off or skipped: it could not be passed on, nor prove a fraud.

    Raises:
        EntryRefusedError: One is forged.
    """
    for entry in entries:
        verifier.verify(entry)


def prove_fraud(namespace: NamespaceId, one: bytes, other: bytes, verifier: Verifier) -> tuple[Entry, Fraud]:
    """The first of two entries, and that they prove a fraud of its author's.

    Raises:
        EntryRefusedError: They do not.
    """
    first, second = read_entry(one, namespace), read_entry(other, namespace)
    if first.chain == second.chain:
        contradict = first.body.seq == second.body.seq and first.hash != second.hash
    else:
        contradict = new_client(namespace, first) == new_client(namespace, second) != 0
    if not contradict:
        raise EntryRefusedError("it proves no fraud")
    verifier.verify(first)
    verifier.verify(second)
    return first, Fraud(first.body.seq, one, other)
