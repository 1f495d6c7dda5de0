"""Replicated documents without an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from typing import TypeVar

from lattica.errors import StoreUsageError
from lattica.identity import PeerId
from lattica.node import Node
from lattica.store import (
    AuthorInfo,
    Change,
    Container,
    Counter,
    Document,
    Frontier,
    Genesis,
    Json,
    Limits,
    MembersChange,
    NamespaceId,
    OwnMap,
    Policy,
    Problem,
    Register,
    ReplicatedList,
    ReplicatedMap,
    ReplicatedSet,
    ReplicatedText,
    Role,
    Storable,
    Value,
    dump,
)
from lattica.store.store import FIND_TIMEOUT_S
from lattica.sync.containers import blocking
from lattica.sync.held import held
from lattica.sync.loop import LoopThread
from lattica.sync.members import SyncLease, SyncPresence
from lattica.sync.writing import Writing

C = TypeVar("C", bound=Container)
T = TypeVar("T")


class SyncStore:
    """The node's documents; `SyncNode.store`. All methods block, and may be called from any thread."""

    def __init__(self, loop: LoopThread[Node]) -> None:
        self._loop = loop
        self._documents: dict[NamespaceId, SyncDocument] = {}
        self._lock = threading.Lock()

    @property
    def namespaces(self) -> list[Genesis]:
        """The namespaces that are kept here."""

        async def namespaces() -> list[Genesis]:
            return self._loop.value.store.namespaces

        return self._loop.run(namespaces())

    def create(
        self, title: str = "", *, policy: Policy = Policy.ALLOW_LIST, limits: Limits | None = None
    ) -> SyncDocument:
        """A new namespace of ours, and its document, open; see `lattica.store.ReplicatedStore.create`."""
        return self._of(self._loop.run(self._loop.value.store.create(title, policy=policy, limits=limits)))

    def open(self, namespace: NamespaceId | str, *, timeout: float = FIND_TIMEOUT_S) -> SyncDocument:
        """The document of a namespace, the same object each time; see `lattica.store.ReplicatedStore.open`."""
        return self._of(self._loop.run(self._loop.value.store.open(namespace, timeout=timeout)))

    def close(self, namespace: NamespaceId) -> None:
        """Close a document; it stays on disk."""
        self._check_not_writing(namespace)
        self._loop.run(self._loop.value.store.close(namespace))

    def forget(self, namespace: NamespaceId) -> None:
        """Close a document and delete it here; others keep theirs."""
        self._check_not_writing(namespace)
        self._loop.run(self._loop.value.store.forget(namespace))

    def _of(self, document: Document) -> SyncDocument:
        with self._lock:
            known = self._documents.get(document.namespace)
            if known is None or known.document is not document:
                known = self._documents[document.namespace] = SyncDocument(self._loop, document)
            return known

    def _check_not_writing(self, namespace: NamespaceId) -> None:
        known = self._documents.get(namespace)
        if known is not None:
            known.check_not_writing()


class SyncDocument:
    """One namespace's document. All methods block, and may be called from any thread.

    Containers are those of `lattica.store.Document`; each call of theirs runs as a whole in the node's loop, and is a
    round trip to its thread. What is read is a copy.

        with document.transaction():
            document.map("settings")["rate"] = 0.1
            document.counter("steps").add(1)

    Attributes:
        document: What code in the node's loop uses.
    """

    def __init__(self, loop: LoopThread[Node], document: Document) -> None:
        self.document = document
        self._loop = loop
        self._thread = threading.local()

    @property
    def namespace(self) -> NamespaceId:
        """The namespace's ID: tell it to whoever is to open the document."""
        return self.document.namespace

    @property
    def genesis(self) -> Genesis:
        """What the namespace was made as."""
        return self.document.genesis

    # containers

    def map(self, name: str) -> ReplicatedMap:
        """A mapping of strings to values."""
        return self._container(ReplicatedMap, name)

    def list(self, name: str) -> ReplicatedList:
        """A list of values."""
        return self._container(ReplicatedList, name)

    def text(self, name: str) -> ReplicatedText:
        """A text."""
        return self._container(ReplicatedText, name)

    def counter(self, name: str) -> Counter:
        """A number that everybody adds to."""
        return self._container(Counter, name)

    def set(self, name: str) -> ReplicatedSet:
        """A set, in which an addition wins over a removal that does not know of it."""
        return self._container(ReplicatedSet, name)

    def register(self, name: str) -> Register:
        """One value."""
        return self._container(Register, name)

    def own(self, name: str) -> OwnMap:
        """One value of each author, which nobody else can write."""
        return self._container(OwnMap, name)

    def _container(self, kind: type[C], name: str) -> C:
        return blocking(kind, self.document, name, self._run)

    def _run(self, operation: Callable[[], T], /) -> T:
        if self._loop.is_current:
            return operation()
        writing = self._writing
        if writing is not None:
            return writing.run(operation)

        async def run() -> T:
            return operation()

        return self._loop.run(run())

    def check_not_writing(self) -> None:
        """Raise `StoreUsageError` if this thread is in a transaction: what waits for its end would wait for ever."""
        if self._writing is not None:
            raise StoreUsageError("this thread is in a transaction of the document; do this after it")

    @property
    def _writing(self) -> Writing | None:
        """The transaction that this thread is in."""
        return getattr(self._thread, "writing", None)

    # reading

    def dump(self) -> dict[str, Json]:
        """All containers that hold something, as JSON can say it."""
        return self._run(lambda: dump(self.document))

    def authors(self) -> Sequence[AuthorInfo]:
        """Who may write, and has written; the owner first."""
        return self._run(self.document.authors)

    def frontier(self) -> Frontier:
        """How far this replica goes, by what is durable."""
        return self._run(self.document.frontier)

    @property
    def problems(self) -> Set[Problem]:
        """What may keep it from being what others hold; see `Document.problems`."""
        return self.document.problems

    def changes(self) -> Iterator[Change]:
        """Yield what changes from now on, by us and by others, once it is durable here; see `Document.changes`.

        Waits for each change. Ends when the document or the node is closed.
        """
        return self._loop.watch(self.document.changes())

    # writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SyncDocument]:
        """Write in this block, from this thread: all of it becomes one entry, durable here when the block has ended.

        Other writers wait meanwhile. If the block raises, or the node is closed before it ends, nothing is written.

        Raises:
            StoreUsageError: We may not write here, it is too large for one entry, or this thread is in a transaction
                of this document already; nothing is written.
            ReplicaStoreError: It is not durable, and the document cannot be used any more.
        """
        self.check_not_writing()
        writing = Writing(self._loop, self.document)
        writing.begin()
        self._thread.writing = writing
        try:
            yield self
        except BaseException:
            writing.abandon()
            raise
        else:
            writing.end()
        finally:
            self._thread.writing = None

    def compact(self) -> bool:
        """Put the state in the place of its history; see `lattica.store.Document.compact`."""
        self.check_not_writing()
        return self._loop.run(self.document.compact())

    # members

    @contextlib.contextmanager
    def hold(self, name: str, value: Storable, *, ttl: float = 30.0) -> Iterator[SyncLease]:
        """Be a member of ``name`` in this block, or until the node is closed; see `lattica.store.Document.hold`.

        The block runs on if the lease is lost: look at `SyncLease.lost`.
        """
        self.check_not_writing()
        with held(self._loop, lambda: self.document.hold(name, value, ttl=ttl)) as lease:
            yield SyncLease(self._loop, lease)

    def members(self, name: str) -> dict[PeerId, Value]:
        """Those who `hold` the name now, and what they tell."""
        return self._run(lambda: dict(self.document.members(name)))

    def watch_members(self, name: str) -> Iterator[MembersChange]:
        """Yield who joins, leaves, or tells something else; see `lattica.store.Members.changes`. Waits for each."""
        return self._loop.watch(self.document.members(name).changes())

    @property
    def presence(self) -> SyncPresence:
        """Who looks at the document now, and what they tell; never kept."""
        return SyncPresence(self._loop, self.document.presence)

    # rights

    def grant(self, peer: PeerId, role: Role = Role.WRITER, *, paths: Sequence[str] = ()) -> None:
        """Give a peer the right to write; see `lattica.store.Document.grant`."""
        self.check_not_writing()
        self._loop.run(self.document.grant(peer, role, paths=paths))

    def revoke(self, peer: PeerId) -> None:
        """End all rights of a peer that are known here; see `lattica.store.Document.revoke`."""
        self.check_not_writing()
        self._loop.run(self.document.revoke(peer))
