"""A node's replicas: all namespaces that it takes part in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from lattica.background import Background, background_tasks, cancelled
from lattica.errors import EntryRefusedError, NetworkError, NoReplicaError, StoreUsageError
from lattica.identity import IdentityKey, PeerId
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.document import Document
from lattica.store.journal import Journal
from lattica.store.loading import load_replica
from lattica.store.namespace import Genesis, Limits, NamespaceId, Policy, create_genesis, read_genesis
from lattica.store.ports import ReplicaRouting, StorePeers
from lattica.store.replay_budget import ReplayBudget
from lattica.store.replicator import Replicator
from lattica.store.signatures import SignatureChecker

FIND_TIMEOUT_S = 30.0
"""Seconds that `ReplicatedStore.open` looks for a namespace that is not here."""
RECALL_TIMEOUT_S = 10.0
"""Seconds that it waits then for entries of our own, from whoever has the namespace."""
RECALL_PAUSE_S = 0.05
SEARCH_PAUSE_S = 1.0
"""Seconds between two searches for a namespace."""


class ReplicatedStore:
    """All documents of a node; made by `open_store`."""

    def __init__(
        self,
        key: IdentityKey,
        disk: StoreDisk,
        tasks: Background,
        peers: StorePeers,
        routing: ReplicaRouting,
        now: Callable[[], float],
        geneses: dict[NamespaceId, Genesis],
    ) -> None:
        self._key = key
        self._disk = disk
        self._tasks = tasks
        self._peers = peers
        self._routing = routing
        self._now = now
        self._geneses = geneses
        self._open: dict[NamespaceId, _Open] = {}
        self._signatures = SignatureChecker(tasks)
        self._turns: dict[NamespaceId, asyncio.Lock] = {}
        self._known: dict[NamespaceId, PeerId] = {}

    @property
    def namespaces(self) -> list[Genesis]:
        """The namespaces that are kept here."""
        return list(self._geneses.values())

    @property
    def disk(self) -> StoreDisk:
        """The file."""
        return self._disk

    async def create(
        self, title: str = "", *, policy: Policy = Policy.ALLOW_LIST, limits: Limits | None = None
    ) -> Document:
        """A new namespace of ours, and its document, open.

        Args:
            title: For people, up to 200 characters; not unique, and never changed.
            policy: Who may write: everybody, or those that are granted to.
            limits: What it takes.

        Raises:
            NamespaceError: No namespace can be like this.
            ReplicaStoreError: It could not be kept.
        """
        genesis = create_genesis(self._key, title=title, policy=policy, limits=limits)
        await self._keep(genesis)
        return await self.open(genesis.namespace)

    async def open(self, namespace: NamespaceId | str, *, timeout: float = FIND_TIMEOUT_S) -> Document:
        """The document of a namespace, in touch with other replicas from now on; the same object each time.

        Returns at once if it is kept here, whoever can be reached. Otherwise its beginning is looked for, and what we
        have written to it before; the document fills up after this has returned.

        Raises:
            NamespaceError: The ID is malformed.
            NoReplicaError: Nobody who has it was found in ``timeout`` seconds.
            ReplicaStoreError: It cannot be kept.
        """
        if isinstance(namespace, str):
            namespace = NamespaceId.parse(namespace)
        async with self._turn(namespace):
            opened = self._open.get(namespace)
            if opened is not None and opened.is_closing:
                await self._close(namespace)  # whoever began it was cancelled
                opened = None
            if opened is None:
                known = self._geneses.get(namespace)
                opened = self._open[namespace] = await self._start(known or await self._fetch(namespace, timeout))
                opened.is_recalled = known is not None
            if not opened.is_recalled:
                await self._recall(opened)
        return opened.document

    async def close(self, namespace: NamespaceId) -> None:
        """Close a document: it is neither written nor kept up to date any more, and stays on disk.

        Waits for transactions that are under way. Cancelled meanwhile, it may be closed or not; it can be opened again.
        """
        opened = self._open.get(namespace)
        if opened is not None and opened.journal.is_writing:
            raise StoreUsageError("a document cannot be closed in a transaction of its own; end that first")
        async with self._turn(namespace):
            await self._close(namespace)

    async def forget(self, namespace: NamespaceId) -> None:
        """Close a document and delete it here; others keep theirs.

        Who writes to it again has to have back first what it wrote before: `open` gets that from another replica.
        """
        async with self._turn(namespace):
            await self._close(namespace)
            self._geneses.pop(namespace, None)
            await self._disk.forget(namespace.raw)

    async def finish(self) -> None:
        """Close all documents; `open_store` calls this."""
        for namespace in list(self._open):
            await self.close(namespace)

    def _turn(self, namespace: NamespaceId) -> asyncio.Lock:
        """One at a time opens or closes it: who opens has to find on disk all that was written."""
        return self._turns.setdefault(namespace, asyncio.Lock())

    async def _close(self, namespace: NamespaceId) -> None:
        opened = self._open.get(namespace)
        if opened is not None:
            opened.is_closing = True
            await cancelled(opened.running)
            self._routing.withdraw(namespace.multihash)
            await opened.journal.close()
            del self._open[namespace]

    def genesis_of(self, namespace: NamespaceId) -> bytes | None:
        """The signed genesis of a namespace that is kept here."""
        genesis = self._geneses.get(namespace)
        return None if genesis is None else genesis.raw

    def replicator_of(self, namespace: NamespaceId) -> Replicator | None:
        """What keeps an open document up to date."""
        opened = self._open.get(namespace)
        return None if opened is None or opened.is_closing else opened.replicator

    async def _keep(self, genesis: Genesis) -> None:
        batch = Batch(genesis.namespace.raw)
        batch.genesis(genesis.raw)
        await self._disk.commit(batch)
        self._geneses[genesis.namespace] = genesis

    async def _start(self, genesis: Genesis) -> _Open:
        replica = await load_replica(self._disk, genesis, self._key.peer_id.raw)
        journal = Journal(
            self._key,
            self._disk,
            replica,
            self._tasks,
            now=self._now,
            budget=ReplayBudget(),
            signatures=self._signatures,
        )
        journal.upkeep.begin_due()
        document = Document(journal)
        replicator = Replicator(
            self._key.peer_id, journal, document.presence, self._disk, self._peers.call, self._routing, self._tasks
        )
        if genesis.namespace in self._known:
            replicator.add_peers([self._known.pop(genesis.namespace)])
        running = self._tasks.start(replicator.run())
        return _Open(document, journal, replicator, running)

    # a namespace that is not here

    async def _recall(self, opened: _Open) -> None:
        """Wait for what we may have written before we forgot it: a number used again would be taken for fraud."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECALL_TIMEOUT_S):
                while not opened.replicator.has_own:
                    await asyncio.sleep(RECALL_PAUSE_S)
        opened.is_recalled = True

    async def _fetch(self, namespace: NamespaceId, timeout: float) -> Genesis:
        attempts: dict[str, str] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    genesis = await self._search(namespace, attempts)
                    if genesis is not None:
                        await self._keep(genesis)
                        return genesis
                    await asyncio.sleep(SEARCH_PAUSE_S)
        raise NoReplicaError(f"namespace {namespace}", attempts)

    async def _search(self, namespace: NamespaceId, attempts: dict[str, str]) -> Genesis | None:
        try:
            async for peer in self._routing.find(namespace.multihash):
                try:
                    genesis = read_genesis(await self._peers.genesis(peer, namespace.raw), namespace)
                    self._known[namespace] = peer
                    return genesis
                except (NetworkError, EntryRefusedError) as error:
                    attempts[str(peer)] = str(error)
        except NetworkError as error:
            attempts["dht"] = str(error)
        return None


@dataclass(slots=True)
class _Open:
    """A document in use."""

    document: Document
    journal: Journal
    replicator: Replicator
    running: asyncio.Task[None]
    is_closing: bool = False
    is_recalled: bool = False


@contextlib.asynccontextmanager
async def open_store(
    key: IdentityKey,
    path: Path,
    peers: StorePeers,
    routing: ReplicaRouting,
    *,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[ReplicatedStore]:
    """A node's replicas, in the file ``path``, until the block ends; then all that was written is durable.

    Raises:
        ReplicaStoreError: The file cannot be used.
    """
    async with open_store_disk(path) as disk, background_tasks() as tasks:
        geneses = [read_genesis(raw, NamespaceId(raw_id)) for raw_id, raw in (await disk.namespaces()).items()]
        by_name = {genesis.namespace: genesis for genesis in geneses}
        store = ReplicatedStore(key, disk, tasks, peers, routing, now, by_name)
        try:
            yield store
        finally:
            await store.finish()
