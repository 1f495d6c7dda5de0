"""Which entries of a namespace count: the rules, without documents, disks and networks.

Whether an entry counts follows from those that it builds on, from the control entries, and from proofs of fraud; never
from when it came. An entry is added when all that it builds on is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

from lattica.errors import EntryRefusedError
from lattica.identity import PeerId
from lattica.store.chain import Chain, Epoch, client_id
from lattica.store.control import MAX_CONTROL_ENTRIES, Control, Grant, Revoke, Right, Rights, Role, read_action
from lattica.store.entry import MARK_BYTES, ChainId, Dep, Entry, Lane
from lattica.store.frontier import Frontier, Head
from lattica.store.namespace import Genesis
from lattica.store.roots import RootKind, TextRoots, parse_root
from lattica.store.yupdate import Kind, UpdateLimits, YUpdate, check_own, read_update
from lattica.store.yupdate_places import ItemParents, Place

_REVISIONS = count()


class Verdict(Enum):
    """What became of an entry that was to be added."""

    ADDED = auto()
    KNOWN = auto()
    """It was there already."""
    MOOT = auto()
    """It does not count: it is beyond the end of its author's right, or of its chain."""
    SKIPPED = auto()
    """A later entry of its author, which is here, has left it out."""
    MISSING = auto()
    """Something that it builds on is not here, or does not count here."""
    FORK = auto()
    """Another entry of its author has its number: fraud."""
    RESUMES = auto()
    """It would replace entries that are here: the namespace has to be replayed with it."""
    CUTS = auto()
    """Added, and it may have ended what is here: the namespace has to be replayed."""


@dataclass(frozen=True, slots=True)
class Fraud:
    """Two entries of one author with one number.

    Attributes:
        seq: The number; from it on none of the chain's entries counts.
        one: An entry, as sent.
        other: The other one.
    """

    seq: int
    one: bytes
    other: bytes


class Ledger:
    """The entries of a namespace that count.

    Attributes:
        genesis: The namespace's.
        chains: Of each author and lane that has entries.
        frozen: Chains whose authors' frauds are proven.
        touched: The places that the latest data entry wrote to.
        revision: Changes whenever anything is added; no two ledgers have the same.
    """

    def __init__(self, genesis: Genesis, frozen: Mapping[ChainId, Fraud] | None = None) -> None:
        self.genesis = genesis
        self.chains: dict[ChainId, Chain] = {}
        self.frozen = dict(frozen or {})
        self.touched: set[Place] = set()
        self.revision = next(_REVISIONS)
        self._places = ItemParents(TextRoots())
        self._clients: dict[int, ChainId] = {}
        self._controls: dict[bytes, list[Control]] = {}
        self._rights: Rights | None = None
        self._rights_of: dict[bytes, list[Right]] = {}
        self._names: dict[bytes, str] = {}
        self._limits = UpdateLimits(size=genesis.limits.entry)

    @property
    def rights(self) -> Rights:
        """Who may write what, by the control entries that are here."""
        if self._rights is None:
            self._rights = Rights(self.genesis, self._controls)
            self._rights_of.clear()
        return self._rights

    def frontier(self) -> Frontier:
        """What is here: equal frontiers, equal states."""
        heads = {chain: Head(found.head, found.head_hash) for chain, found in self.chains.items()}
        return Frontier(self.genesis.namespace, heads, {chain: fraud.seq for chain, fraud in self.frozen.items()})

    def chain(self, chain: ChainId) -> Chain:
        """The chain; an empty one, not kept, if it has no entries."""
        return self.chains.get(chain) or Chain(self.genesis.namespace)

    def add(self, entry: Entry) -> Verdict:
        """Add an entry whose signature is good.

        Raises:
            EntryRefusedError: It breaks the rules, as all will find who have what it builds on.
        """
        if len(entry.raw) > self.genesis.limits.entry:
            raise EntryRefusedError(f"it has {len(entry.raw)} bytes of at most {self.genesis.limits.entry}")
        chain = self.chain(entry.chain)
        verdict = self._place_in_chain(entry, chain)
        if verdict is Verdict.ADDED:
            verdict = self._add_next(entry, chain)
        if verdict in (Verdict.ADDED, Verdict.CUTS):
            self.revision = next(_REVISIONS)
        return verdict

    def _add_next(self, entry: Entry, chain: Chain) -> Verdict:
        if entry.body.time <= chain.time:
            raise EntryRefusedError("it is not later than the entry before it")
        if not self._has_all(entry.body.deps, entry.chain):
            return Verdict.MISSING
        seen = chain.seen_with(entry.body.deps)
        if entry.body.lane is Lane.CONTROL:
            return self._add_control(entry, chain, seen)
        return self._add_data(entry, chain, seen)

    def _place_in_chain(self, entry: Entry, chain: Chain) -> Verdict:
        body = entry.body
        fraud = self.frozen.get(entry.chain)
        if body.seq <= chain.head:
            mark = chain.mark(body.seq)
            if mark is None:
                return Verdict.SKIPPED
            return Verdict.KNOWN if mark == entry.mark else Verdict.FORK
        if fraud is not None and body.seq >= fraud.seq:
            return Verdict.MOOT
        if body.after == chain.head:
            return Verdict.ADDED if body.prev == chain.head_hash else Verdict.MISSING
        if body.after > chain.head:
            return Verdict.MISSING
        known = chain.mark(body.after) if body.after else self.genesis.namespace.raw[:MARK_BYTES]
        return Verdict.RESUMES if known == body.prev[:MARK_BYTES] else Verdict.MISSING

    def _has_all(self, deps: Iterable[Dep], own: ChainId) -> bool:
        """Whether the dependencies are here. A control entry can depend on the owner's only."""
        good = True
        owner = self.genesis.owner.raw
        for dep in deps:
            chain = ChainId(dep.author, dep.lane)
            if chain == own or (own.lane is Lane.CONTROL and chain != (owner, Lane.CONTROL)):
                raise EntryRefusedError("it depends on what it must not depend on")
            known = self.chains.get(chain)
            if known is None or known.mark(dep.seq) != dep.mark:
                good = False
        return good

    # control

    def _add_control(self, entry: Entry, chain: Chain, seen: Mapping[ChainId, int]) -> Verdict:
        body = entry.body
        action = read_action(entry)
        if isinstance(action, Grant) and action.role is Role.ADMIN and body.author != self.genesis.owner.raw:
            raise EntryRefusedError("only the owner makes admins")
        owner_seen = seen.get(ChainId(self.genesis.owner.raw, Lane.CONTROL), 0)
        if not self.rights.may_control(body.author, body.seq, owner_seen):
            if self.rights.was_admin(body.author, owner_seen):
                return Verdict.MOOT
            raise EntryRefusedError("its author is no admin")
        if len(chain) >= MAX_CONTROL_ENTRIES:
            raise EntryRefusedError(f"its author has granted and revoked {MAX_CONTROL_ENTRIES} times")
        self._controls.setdefault(body.author, []).append(Control(body.seq, entry.mark, owner_seen, action))
        self.chains[entry.chain] = chain
        chain.append(entry)
        self._rights = None
        return Verdict.CUTS if isinstance(action, Revoke) and self._may_cut(action) else Verdict.ADDED

    def _may_cut(self, revoke: Revoke) -> bool:
        data, control = (self.chain(ChainId(revoke.author, lane)) for lane in (Lane.DATA, Lane.CONTROL))
        return data.head > revoke.last or control.head > revoke.last_control

    def rights_of(self, author: bytes) -> list[Right]:
        """The author's rights to write, those that have ended included."""
        rights = self.rights
        found = self._rights_of.get(author)
        if found is None:
            found = self._rights_of[author] = rights.of(author)
        return found

    # data

    def _add_data(self, entry: Entry, chain: Chain, seen: Mapping[ChainId, int]) -> Verdict:
        body = entry.body
        seen_rights = [
            right
            for right in self.rights_of(body.author)
            if not right.granter or seen.get(ChainId(right.granter, Lane.CONTROL), 0) >= right.seq
        ]
        if not seen_rights:
            raise EntryRefusedError("its author has no right to write")
        rights = [right for right in seen_rights if body.seq <= right.last]
        if not rights:
            return Verdict.MOOT
        epoch = self._epoch(entry, chain)
        update = read_update(body.payload, limits=self._limits)
        clock = check_own(update, epoch.client, chain.clock if len(chain) and epoch is chain.epochs[-1] else 0)
        self._check_needs(update, entry.chain, chain, seen)
        _check_flat(update)
        placement = self._places.place(update)
        for place in placement.touched:
            self._check_place(place, body.author, rights)
        self._places.add(placement)
        self.touched = placement.touched
        if not chain.epochs or chain.epochs[-1] is not epoch:
            chain.epochs.append(epoch)
            self._clients[epoch.client] = entry.chain
        self.chains[entry.chain] = chain
        chain.append(entry, clock)
        return Verdict.ADDED

    def _epoch(self, entry: Entry, chain: Chain) -> Epoch:
        body = entry.body
        if chain.epochs and body.seq == chain.head + 1:
            return chain.epochs[-1]
        client = client_id(self.genesis.namespace, body.author, body.seq)
        if client in self._clients:
            raise EntryRefusedError("its author's client ID is taken")
        return Epoch(body.seq, client)

    def _check_needs(self, update: YUpdate, own: ChainId, chain: Chain, seen: Mapping[ChainId, int]) -> None:
        for client, end in update.needs().items():
            whose = self._clients.get(client)
            if whose == own:
                known = chain.clock_at(client, chain.head)
            elif whose is not None and whose in seen:
                known = self.chains[whose].clock_at(client, seen[whose])
            else:
                known = 0
            if end > known:
                raise EntryRefusedError("it refers to what its author has not declared to have seen")

    def _check_place(self, place: Place, author: bytes, rights: Iterable[Right]) -> None:
        kind, name = parse_root(place.root)
        if kind in (RootKind.COUNTER, RootKind.OWN) and place.key != self._name(author):
            raise EntryRefusedError(f"it writes another author's part of {place.root!r}")
        if name.startswith("~") and name.partition("/")[0] != f"~{self._name(author)}":
            raise EntryRefusedError(f"{place.root!r} belongs to another author")
        if not any(right.covers(name) for right in rights):
            raise EntryRefusedError(f"its author may not write {place.root!r}")

    def _name(self, author: bytes) -> str:
        name = self._names.get(author)
        if name is None:
            name = self._names[author] = str(PeerId(author))
        return name


_FLAT = frozenset((Kind.DELETED, Kind.BINARY, Kind.STRING, Kind.EMBED, Kind.FORMAT, Kind.ANY))


def _check_flat(update: YUpdate) -> None:
    """Refuse shared types within others: what two authors create at the same time, one of them loses."""
    for structs in update.structs.values():
        for struct in structs:
            if struct.kind not in _FLAT:
                raise EntryRefusedError("it puts a shared type into another one; documents are flat")
