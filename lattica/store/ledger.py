"""Which entries of a namespace count: the rules, without documents, disks and networks.

Whether an entry counts follows from those that it builds on, from the control entries, and from proofs of fraud; never
from when it came. An entry is added when all that it builds on is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from typing import NamedTuple

import msgspec

from lattica.errors import EntryRefusedError
from lattica.identity import PeerId
from lattica.store.anchors import unpacked
from lattica.store.canonical import STATE_LIMITS
from lattica.store.capability import MAX_CAPABILITIES, read_capability
from lattica.store.chain import MAX_EPOCHS, Chain, ChainDump, Epoch, Fold, new_client
from lattica.store.control import (
    MAX_CONTROL_ENTRIES,
    MAX_GRANTS_EACH,
    Action,
    Checkpoint,
    Control,
    ControlDump,
    Grant,
    Revoke,
    Right,
    Rights,
    Role,
    Scope,
    read_action,
)
from lattica.store.crowd import Crowd
from lattica.store.entry import MARK_BYTES, MAX_SEQ, ChainId, Dep, Entry, Kind, Lane, check_size
from lattica.store.frontier import Frontier, Head
from lattica.store.item_runs import Place
from lattica.store.namespace import Genesis, Policy
from lattica.store.roots import RootKind, TextRoots, parse_root
from lattica.store.state import State
from lattica.store.yupdate import Kind as Content
from lattica.store.yupdate import UpdateLimits, YUpdate, check_own, read_update
from lattica.store.yupdate_places import Displaced, ItemParents, ItemsDump

MAX_STRUCTS = 1 << 13
"""Structs of one entry: two authors who put thousands at one place make yrs compare each with each."""

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
    """Another entry of its author has its number, or another author's its client ID: fraud."""
    RESUMES = auto()
    """It would replace entries that are here: the namespace has to be replayed with it."""
    CUTS = auto()
    """Added, and it may have ended what is here: the namespace has to be replayed."""


@dataclass(frozen=True, slots=True)
class Fraud:
    """Two entries of one author with one number, or of two authors who begin with one client ID.

    Attributes:
        seq: The number; from it on none of the chain's entries counts.
        one: An entry of the chain, as sent.
        other: The other one.
    """

    seq: int
    one: bytes
    other: bytes


class Base(NamedTuple):
    """The state that stands for what a checkpoint covers.

    Attributes:
        seq: Number of the checkpoint among the owner's control entries.
        state: The state.
    """

    seq: int
    state: State


class LedgerDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A ledger as a snapshot holds it, without what is frozen.

    Attributes:
        chains: Their names, in the order in which they are numbered.
        entries: Of each chain.
        controls: For each author its control entries.
        items: Where the document's items are.
        base: See `Ledger`.
    """

    chains: list[ChainId]
    entries: list[ChainDump]
    controls: dict[bytes, list[ControlDump]]
    items: ItemsDump
    base: int


class Ledger:
    """The entries of a namespace that count.

    Attributes:
        genesis: The namespace's.
        chains: Of each author and lane that has entries.
        frozen: Chains whose authors' frauds are proven.
        rights: Who may write what, by the control entries that are here.
        touched: The places that the latest data entry wrote to.
        update: The latest update that was added.
        displaced: Those of its structs that belong elsewhere than they say.
        revision: Changes whenever anything is added; no two ledgers have the same.
        base: Number of the owner's checkpoint whose state stands for what it covers; 0: there is none.
        crowd: Whom of those that write it takes in.
    """

    def __init__(
        self, genesis: Genesis, frozen: Mapping[ChainId, Fraud] | None = None, base: Base | None = None
    ) -> None:
        self.genesis = genesis
        self.chains: dict[ChainId, Chain] = {}
        self.frozen = dict(frozen or {})
        self.rights = Rights(genesis)
        self.touched: set[Place] = set()
        self.update = YUpdate({}, {})
        self.displaced: Displaced = {}
        self.revision = next(_REVISIONS)
        self._places = ItemParents(TextRoots())
        self._clients: dict[int, ChainId] = {}
        self._names: dict[bytes, str] = {}
        self._presented: dict[bytes, list[Right]] = {}
        self._limits = UpdateLimits(size=genesis.limits.entry, structs=MAX_STRUCTS)
        self.crowd = Crowd(self)
        self._last_read: tuple[bytes, YUpdate] = (b"", YUpdate({}, {}))
        self.base = 0
        if base is not None:
            self._begin(base)

    def _begin(self, base: Base) -> None:
        self.base = base.seq
        for fold in base.state.folds:
            chain = ChainId(fold.author, Lane.DATA)
            self.chains[chain] = Chain.unfold(self.genesis.namespace, fold)
            self._clients.update((client, chain) for _, client, _ in fold.epochs)
        update = read_update(base.state.update, limits=STATE_LIMITS)
        _check_flat(update, _FLAT | {Content.GC})
        self._places.begin(update, unpacked(base.state.anchors), base.state.rejected)

    def forget(self, base: int, folds: Iterable[Fold], items: ItemParents) -> None:
        """Remember no more of what a checkpoint covers, all of which is here, than its state does.

        Args:
            base: Number of the checkpoint.
            folds: Of all chains of data, as in the state.
            items: Where the items of the state are, and of what is beyond it.
        """
        self.base = base
        for fold in folds:
            self.chains[ChainId(fold.author, Lane.DATA)].forget(fold)
        self._places = items
        self.renew()

    @property
    def items(self) -> ItemParents:
        """Where the document's items are."""
        return self._places

    @property
    def unfolded(self) -> int:
        """Number of the owner's first checkpoint after the one whose state stands for what it covers; 0: there is none.

        One after the other has to be folded: what refers to what an earlier one has buried is not in the state of the
        next.
        """
        return min((seq for seq in self.rights.checkpoints if seq > self.base), default=0)

    def reaches(self, checkpoint: Checkpoint) -> bool:
        """Whether all that a checkpoint covers is here."""
        return all(
            (chain := self.chain(ChainId(cut.author, Lane.DATA))).base >= cut.seq or chain.mark(cut.seq) == cut.mark
            for cut in checkpoint.cut
        )

    def frozen_from(self, chain: ChainId) -> int:
        """Number of the first entry of the chain that does not count for a fraud; beyond all if there is none."""
        fraud = self.frozen.get(chain)
        if fraud is None:
            return MAX_SEQ + 1
        return max(fraud.seq, self._floor(chain) + 1)

    def _floor(self, chain: ChainId) -> int:
        return self.rights.floor(chain.author) if chain.lane == Lane.DATA else 0

    def dump(self) -> LedgerDump:
        """All of it but what is frozen, for `load`."""
        numbers = {chain: number for number, chain in enumerate(self.chains)}
        return LedgerDump(
            list(numbers),
            [chain.dump(numbers) for chain in self.chains.values()],
            self.rights.dump(),
            self._places.dump(),
            self.base,
        )

    def load(self, dump: LedgerDump) -> None:
        """Add what was dumped; there must be nothing yet. Raises `msgspec.DecodeError`."""
        self.base = dump.base
        for name, chain in zip(dump.chains, dump.entries, strict=True):
            self.chains[name] = Chain.load(self.genesis.namespace, chain, dump.chains)
            self._clients.update((epoch.client, name) for epoch in chain.epochs)
        self.rights = Rights.load(self.genesis, dump.controls)
        self._places.load(dump.items)

    def ends(self) -> dict[int, int]:
        """The next clock of each client ID; the document's state, if it holds what the entries have written alone."""
        return self._places.ends()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return sum(map(len, self.chains.values()))

    def frontier(self) -> Frontier:
        """What is here: equal frontiers, equal states. Frauds of authors that have no right any more do not matter."""
        heads = {chain: Head(found.head, found.head_hash) for chain, found in self.chains.items()}
        frozen = {chain: fraud.seq for chain, fraud in self.frozen.items() if self.rights_of(chain.author)}
        return Frontier(self.genesis.namespace, heads, frozen, self.base)

    def renew(self) -> None:
        """Have another revision: what could not be added may be worth another try."""
        self.revision = next(_REVISIONS)

    def chain(self, chain: ChainId) -> Chain:
        """The chain; an empty one, not kept, if it has no entries."""
        return self.chains.get(chain) or Chain(self.genesis.namespace)

    def add(self, entry: Entry) -> Verdict:
        """Add an entry whose signature is good.

        Raises:
            EntryRefusedError: It breaks the rules, as all will find who have what it builds on.
        """
        check_size(entry, self.genesis)
        chain = self.chain(entry.chain)
        verdict = self._place_in_chain(entry, chain)
        if verdict is Verdict.ADDED:
            verdict = self._add_next(entry, chain)
        if verdict in (Verdict.ADDED, Verdict.CUTS):
            self.renew()
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
        if body.seq <= chain.base:
            return Verdict.KNOWN  # or settled otherwise
        if body.seq <= chain.head:
            mark = chain.mark(body.seq)
            if mark is None:
                return Verdict.SKIPPED
            return Verdict.KNOWN if mark == entry.mark else Verdict.FORK
        if body.seq >= self.frozen_from(entry.chain) or body.seq > self._floor(entry.chain) > body.after:
            return Verdict.MOOT
        rival = self._clients.get(new_client(self.genesis.namespace, entry), entry.chain)
        if rival != entry.chain:
            return Verdict.MOOT if self._is_settled(rival, entry) else Verdict.FORK
        if body.after == chain.head:
            return Verdict.ADDED if body.prev == chain.head_hash else Verdict.MISSING
        if body.after > chain.head:
            return Verdict.MISSING
        return Verdict.RESUMES if chain.mark(body.after) == body.prev[:MARK_BYTES] else Verdict.MISSING

    def _is_settled(self, rival: ChainId, fork: Entry) -> bool:
        """Whether a checkpoint covers the entry in which another author has begun with the client ID of this one."""
        client = new_client(self.genesis.namespace, fork)
        return self.chains[rival].first_of(client) <= self._floor(rival)

    def rival(self, fork: Entry) -> tuple[ChainId, int]:
        """Chain and number of the entry here that one contradicts, which was found to be a fork."""
        if self.chain(fork.chain).mark(fork.body.seq) is not None:
            return fork.chain, fork.body.seq
        client = new_client(self.genesis.namespace, fork)
        whose = self._clients[client]
        return whose, self.chains[whose].first_of(client)

    def _has_all(self, deps: Iterable[Dep], own: ChainId) -> bool:
        """Whether the dependencies are here. A control entry can depend on the owner's only."""
        good = True
        owner = self.genesis.owner.raw
        for dep in deps:
            chain = ChainId(dep.author, dep.lane)
            if chain == own or (own.lane is Lane.CONTROL and chain != (owner, Lane.CONTROL)):
                raise EntryRefusedError("it depends on what it must not depend on")
            known = self.chain(chain)
            settled = dep.seq <= known.base or dep.seq <= self._floor(chain) <= known.head
            if not settled and known.mark(dep.seq) != dep.mark:
                good = False
        return good

    # control

    def _add_control(self, entry: Entry, chain: Chain, seen: Mapping[ChainId, int]) -> Verdict:
        body = entry.body
        action = read_action(entry)
        if _is_for_owner(action) and body.author != self.genesis.owner.raw:
            raise EntryRefusedError("only the owner makes admins and checkpoints")
        owner_seen = seen.get(ChainId(self.genesis.owner.raw, Lane.CONTROL), 0)
        if not self.rights.may_control(body.author, body.seq, owner_seen):
            if self.rights.was_admin(body.author, owner_seen):
                return Verdict.MOOT
            raise EntryRefusedError("its author is no admin")
        if len(chain) >= MAX_CONTROL_ENTRIES:
            raise EntryRefusedError(f"its author has granted and revoked {MAX_CONTROL_ENTRIES} times")
        if isinstance(action, Grant) and self.rights.grants(body.author, action.author) >= MAX_GRANTS_EACH:
            raise EntryRefusedError(f"its author has given that one {MAX_GRANTS_EACH} rights")
        self.rights.add(body.author, Control(body.seq, entry.mark, owner_seen, action))
        self.chains[entry.chain] = chain
        chain.append(entry)
        return Verdict.CUTS if isinstance(action, Revoke) and self._may_cut(action) else Verdict.ADDED

    def _may_cut(self, revoke: Revoke) -> bool:
        data, control = (self.chain(ChainId(revoke.author, lane)) for lane in (Lane.DATA, Lane.CONTROL))
        return data.head > revoke.last or control.head > revoke.last_control

    def rights_of(self, author: bytes) -> list[Right]:
        """The author's rights to write, those that have ended included."""
        return self.rights.of(author, self._capabilities(author))

    def _capabilities(self, author: bytes) -> list[Right]:
        """What the author has presented; checked when it was."""
        if self.genesis.policy is not Policy.CAPABILITY:
            return []
        presented = self.chain(ChainId(author, Lane.DATA)).capabilities
        found = self._presented.get(author)
        if found is None or len(found) != len(presented):
            found = [read_capability(raw, self.genesis, author) for raw in presented]
            self._presented[author] = found
        return found

    # data

    def _add_data(self, entry: Entry, chain: Chain, seen: Mapping[ChainId, int]) -> Verdict:
        body = entry.body
        found = self.rights_of(body.author)
        if body.kind is Kind.JOIN:
            found = [*found, self._check_capability(entry, chain)]
        seen_rights = [
            right
            for right in found
            if not right.granter or seen.get(ChainId(right.granter, Lane.CONTROL), 0) >= right.seq
        ]
        if not seen_rights:
            raise EntryRefusedError("its author has no right to write")
        rights = [right for right in seen_rights if body.seq <= right.last]
        if not rights:
            return Verdict.MOOT
        epoch = self._epoch(entry, chain)
        clock: int | None = chain.clock if len(chain) and epoch is chain.epochs[-1] else 0
        self.touched = set()
        if body.kind is Kind.JOIN:
            chain.capabilities.append(body.payload)
        else:
            clock = self._write(entry, chain, seen, epoch.client, clock or 0, seen_rights)
        if clock is None:
            return Verdict.MOOT
        if not chain.epochs or chain.epochs[-1] is not epoch:
            chain.begin(epoch)
            self._clients[epoch.client] = entry.chain
        self.chains[entry.chain] = chain
        chain.append(entry, clock)
        return Verdict.ADDED

    def _write(
        self, entry: Entry, chain: Chain, seen: Mapping[ChainId, int], client: int, clock: int, rights: Sequence[Right]
    ) -> int | None:
        """Note where an entry's update writes; the client's next clock after it. ``None``: that right has ended."""
        update = self._read(entry.body.payload)
        end = check_own(update, client, clock)
        self._check_needs(update, entry.chain, chain, seen)
        _check_flat(update)
        placement = self._places.place(update)
        scope = Scope(rights)
        names = {self._check_place(place, entry.body.author, scope) for place in placement.touched}
        holding = [right for right in rights if entry.body.seq <= right.last]
        if len(holding) < len(rights) and not all(map(Scope(holding).covers, names)):
            return None
        self._places.add(placement)
        self.touched = placement.touched
        self.update, self.displaced = update, placement.displaced
        return end

    def _check_capability(self, entry: Entry, chain: Chain) -> Right:
        if self.genesis.policy is not Policy.CAPABILITY:
            raise EntryRefusedError("it presents a capability, which this namespace does not know")
        if len(chain.capabilities) >= MAX_CAPABILITIES:
            raise EntryRefusedError(f"its author has presented {MAX_CAPABILITIES} capabilities")
        right = read_capability(entry.body.payload, self.genesis, entry.body.author)
        return self.rights.ended(entry.body.author, right)

    def _epoch(self, entry: Entry, chain: Chain) -> Epoch:
        body = entry.body
        client = new_client(self.genesis.namespace, entry)
        if not client:
            return chain.epochs[-1]
        if len(chain.epochs) >= MAX_EPOCHS:
            raise EntryRefusedError(f"its author has begun anew {MAX_EPOCHS} times")
        if client in self._clients:
            raise EntryRefusedError("its author has had this client ID before")
        return Epoch(body.seq, client)

    def _check_needs(self, update: YUpdate, own: ChainId, chain: Chain, seen: Mapping[ChainId, int]) -> None:
        for client, end in update.needs().items():
            whose = self._clients.get(client)
            if whose == own:
                known = chain.clock_at(client, chain.head)
            elif whose is not None and whose in seen:
                known = self.chains[whose].clock_at(client, max(seen[whose], self._floor(whose)))
            else:
                known = 0
            if end > known:
                raise EntryRefusedError("it refers to what its author has not declared to have seen")

    def _read(self, raw: bytes) -> YUpdate:
        """The update; one of our own is looked at twice."""
        if raw is not self._last_read[0]:
            self._last_read = raw, read_update(raw, limits=self._limits)
        return self._last_read[1]

    def needed(self, update: bytes, own: ChainId) -> dict[ChainId, int]:
        """Number of the first entry of each other chain with which all is there that an update refers to."""
        found: dict[ChainId, int] = {}
        for client, end in self._read(update).needs().items():
            whose = self._clients.get(client)
            if whose is not None and whose != own:
                found[whose] = max(found.get(whose, 0), self.chains[whose].reaching(client, end))
        return found

    def _check_place(self, place: Place, author: bytes, scope: Scope) -> str:
        """The name of the container, which the author may write."""
        kind, name = parse_root(place.root)
        if kind in (RootKind.COUNTER, RootKind.OWN) and place.key != self._name(author):
            raise EntryRefusedError(f"it writes another author's part of {place.root!r}")
        if name.startswith("~") and name.partition("/")[0] != f"~{self._name(author)}":
            raise EntryRefusedError(f"{place.root!r} belongs to another author")
        if not scope.covers(name):
            raise EntryRefusedError(f"its author may not write {place.root!r}")
        return name

    def _name(self, author: bytes) -> str:
        name = self._names.get(author)
        if name is None:
            name = self._names[author] = str(PeerId(author))
        return name


def _is_for_owner(action: Action) -> bool:
    return isinstance(action, Checkpoint) or (isinstance(action, Grant) and action.role is Role.ADMIN)


_FLAT = frozenset((Content.DELETED, Content.BINARY, Content.STRING, Content.EMBED, Content.FORMAT, Content.ANY))


def _check_flat(update: YUpdate, kinds: Set[Content] = _FLAT) -> None:
    """Refuse shared types within others: what two authors create at the same time, one of them loses."""
    for structs in update.structs.values():
        for struct in structs:
            if struct.kind not in kinds:
                raise EntryRefusedError("it puts a shared type into another one; documents are flat")
