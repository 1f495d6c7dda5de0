"""A replicated document, as programs use it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence, Set
from typing import Any

from pycrdt import Doc

from lattica.errors import StoreUsageError
from lattica.identity import PeerId
from lattica.store.capability import capability_text, parse_capability, sign_capability
from lattica.store.changes import Change, Problem
from lattica.store.contents import Content, state_of
from lattica.store.control import EVERYBODY, Grant, Revoke, Role
from lattica.store.counter import Counter
from lattica.store.description import AuthorInfo, describe_authors
from lattica.store.entry import MAX_SEQ, ChainId, Lane
from lattica.store.frontier import Frontier
from lattica.store.journal import Journal
from lattica.store.lease import MAX_LEASE_BYTES
from lattica.store.lease_hold import Lease, hold
from lattica.store.members import Members
from lattica.store.namespace import Genesis, NamespaceId, Policy
from lattica.store.presence import Presence
from lattica.store.replica import Replica
from lattica.store.replicated_list import ReplicatedList
from lattica.store.replicated_map import OwnMap, Register, ReplicatedMap
from lattica.store.replicated_set import ReplicatedSet
from lattica.store.replicated_text import ReplicatedText
from lattica.store.values import Storable


class Document:
    """One namespace's document; from `ReplicatedStore`.

    Its containers are there as soon as they are named. Reading them takes no time. Writing takes a transaction, which
    becomes one entry: signed, durable, and sent to others.

        async with document.transaction():
            document.map("settings")["rate"] = 0.1
            document.counter("steps").add(1)
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: set[str] = set()
        self._presence = Presence(journal)

    @property
    def namespace(self) -> NamespaceId:
        """The namespace's ID: tell it to whoever is to open the document."""
        return self._journal.genesis.namespace

    @property
    def genesis(self) -> Genesis:
        """What the namespace was made as."""
        return self._journal.genesis

    @property
    def author(self) -> str:
        """Our peer ID as text."""
        return str(PeerId(self._journal.replica.own))

    @property
    def ydoc(self) -> Doc[Any]:
        """The Yjs document. Do not keep it: it is replaced when something does not count any more.

        Values that were replaced may be garbage in it: it is for reading, and for copies, not for others' replicas.
        """
        return self._journal.replica.ydoc

    # containers

    def map(self, name: str) -> ReplicatedMap:
        """A mapping of strings to values."""
        return ReplicatedMap(self, name)

    def list(self, name: str) -> ReplicatedList:
        """A list of values."""
        return ReplicatedList(self, name)

    def text(self, name: str) -> ReplicatedText:
        """A text."""
        return ReplicatedText(self, name)

    def counter(self, name: str) -> Counter:
        """A number that everybody adds to."""
        return Counter(self, name)

    def set(self, name: str) -> ReplicatedSet:
        """A set, in which an addition wins over a removal that does not know of it."""
        return ReplicatedSet(self, name)

    def register(self, name: str) -> Register:
        """One value."""
        return Register(self, name)

    def own(self, name: str) -> OwnMap:
        """One value of each author, which nobody else can write."""
        return OwnMap(self, name)

    # reading

    def roots(self) -> Sequence[str]:
        """The containers that were written or looked at, as ``"map:settings"``, sorted; some may be empty."""
        return sorted(self.ydoc.keys())

    def state(self) -> dict[str, Content]:
        """A copy of all that it holds, by container: ``{"map:settings": {"rate": 0.1}, "counter:steps": 7}``."""
        return state_of(self)

    def authors(self) -> Sequence[AuthorInfo]:
        """Who may write, and has written, as far as is known here; the owner first."""
        return describe_authors(self._journal.replica.ledger)

    def frontier(self) -> Frontier:
        """How far this replica goes, by what is durable. Replicas with equal frontiers have equal `state`."""
        return self._journal.frontier

    @property
    def problems(self) -> Set[Problem]:
        """What may keep it from being what others hold, as far as that came up since it was opened; see `changes`."""
        return self._journal.feed.problems

    def changes(self) -> AsyncIterator[Change]:
        """Yield what changes from now on, by us and by others, once it is durable here.

        A slow observer does not hold up anything: it misses details, and is told so. Ends when the document is closed;
        raises `ReplicaStoreError` if the disk fails.
        """
        return self._journal.feed.changes()

    # writing

    def check_writing(self) -> None:
        """Raise `StoreUsageError` unless the current task is in a transaction of this document."""
        if not self._journal.is_writing:
            raise StoreUsageError("written outside of a transaction; use `async with document.transaction():`")

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Document]:
        """Write in this block, from this task: all of it becomes one entry, durable here when the block has ended.

        Other writers wait meanwhile, so do not wait for anything slow in it. If the block raises, nothing is written.
        Cancelled while the entry becomes durable, it is written or not, but never in part.

        Raises:
            StoreUsageError: We may not write here, or it is too large for one entry; nothing is written.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        async with self._journal.transaction():
            yield self

    async def compact(self) -> bool:
        """Put the state in the place of its history, here and, when they hear of it, in all replicas.

        The owner's node does this by itself once in a while. What is folded is settled: no later revocation or proof of
        fraud takes it back. Writers wait meanwhile: some seconds for a million items. ``False``: there is nothing to
        do.

        Raises:
            StoreUsageError: We are not the owner.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        return await self._journal.upkeep.checkpoints.compact()

    # members

    @contextlib.asynccontextmanager
    async def hold(self, name: str, value: Storable, *, ttl: float = 30.0) -> AsyncIterator[Lease]:
        """Be a member of ``name`` in this block: ``value`` is shown to all until we leave, or vanish.

            async with document.hold("workers", {"layers": [0, 12]}) as lease:
                await lease.update({"layers": [0, 24]})

        The lease is renewed in the background, each third of its duration, by an entry that all keep until `compact`:
        the shorter, the faster ghosts vanish, and the more there is to keep. It is our value in `own` of this name,
        where nothing else should be written. At the end of the block it is withdrawn; if the block raised or was
        cancelled, as far as that works within two seconds.

        Args:
            name: As of a container.
            value: What to tell; 4 KiB at most.
            ttl: Seconds after which others take us for gone if they hear nothing: 1 s to a day. Those whose clocks
                differ from ours see us for longer or shorter, by at most 60 s.

        Raises:
            StoreUsageError: We may not write there, or hold this name already.
            StoreValueError: The value cannot be kept.
        """
        if name in self._held:
            raise StoreUsageError(f"{name!r} is held already by this document; use `update` of the lease")
        self._held.add(name)
        try:
            async with hold(self._journal, OwnMap(self, name, max_bytes=MAX_LEASE_BYTES), value, ttl) as lease:
                yield lease
        finally:
            self._held.discard(name)

    def members(self, name: str) -> Members:
        """Those who `hold` the name, as a mapping of peer IDs to what they tell.

        Who vanishes without a word is in it for at most its ``ttl`` and 60 s after its last heartbeat came in.
        """
        return Members(self._journal, OwnMap(self, name))

    @property
    def presence(self) -> Presence:
        """Who looks at the document now, and what they tell; never kept."""
        return self._presence

    # rights

    async def grant(self, peer: PeerId, role: Role = Role.WRITER, *, paths: Sequence[str] = ()) -> None:
        """Give a peer the right to write; durable when this returns. What it wrote before stays without effect.

        Args:
            peer: Who.
            role: An admin may also grant and revoke the right to write.
            paths: Names of containers that it may write, and of all below (``"a"`` covers ``"a/b"``). Without:
                everything.

        Raises:
            StoreUsageError: We are no admin, or not the owner, who alone makes admins.
        """
        await self._journal.control(lambda _: [Grant(peer.raw, role, tuple(paths))])

    def capability(self, peer: PeerId, *, paths: Sequence[str] = ()) -> str:
        """A right to write that the peer brings with it, by `join`: as text to be handed over. Nothing is written here.

        For namespaces whose policy is ``capability``. Only that peer can use it; once it has, `revoke` ends it.

        Args:
            peer: Who.
            paths: As for `grant`.

        Raises:
            StoreUsageError: We are not the owner, or the namespace has another policy.
        """
        if self.genesis.policy is not Policy.CAPABILITY:
            raise StoreUsageError(
                f"this namespace's policy is {self.genesis.policy}, so it takes no capabilities; grant"
            )
        return capability_text(sign_capability(self._journal.key, self.genesis, peer.raw, tuple(paths)))

    async def join(self, capability: str) -> None:
        """Present a capability: we may write then, here and wherever the entry that does so gets. Durable at the end.

        Raises:
            StoreUsageError: It is malformed, not for us or not for this namespace, or was revoked.
        """
        await self._journal.join(parse_capability(capability))

    async def revoke(self, peer: PeerId) -> None:
        """End all rights of a peer that are known here; durable when this returns.

        What we have seen of it goes on to count. What it wrote and we have not seen counts nowhere, even if it could
        not know. A right that somebody grants without knowing of this stays.

        Raises:
            StoreUsageError: We are no admin; or the peer is one, and we are not the owner.
        """
        await self._journal.control(lambda replica: _revocations(replica, peer.raw))


def _revocations(replica: Replica, author: bytes) -> list[Revoke]:
    ledger = replica.ledger
    if author == ledger.genesis.owner.raw:  # whose right has no name
        raise StoreUsageError("the owner's right to write cannot be revoked")
    if replica.own != ledger.genesis.owner.raw and ledger.rights.was_admin(author, MAX_SEQ):
        raise StoreUsageError("the peer is an admin; only the owner can revoke that")
    last = ledger.chain(ChainId(author, Lane.DATA)).head
    last_control = ledger.chain(ChainId(author, Lane.CONTROL)).head
    marks = [right.mark for right in ledger.rights_of(author) if right.last > last]
    if ledger.genesis.policy is not Policy.OPEN:
        marks = [mark for mark in marks if mark != EVERYBODY]
    return [Revoke(author, mark, last, last_control) for mark in marks]
