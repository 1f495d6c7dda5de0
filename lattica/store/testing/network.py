"""Nodes' stores over a network in memory, which can be cut, and counts bytes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lattica.errors import NetworkError, PeerUnreachableError, StreamError
from lattica.identity import IdentityKey, PeerId
from lattica.store.document import Document
from lattica.store.namespace import NamespaceId
from lattica.store.store import ReplicatedStore, open_store

WAITING_FRAMES = 16


def key_of(number: int) -> IdentityKey:
    """The identity of a numbered node: always the same."""
    return IdentityKey.from_seed(number.to_bytes(32))


class MemoryLink:
    """One side of a stream."""

    def __init__(self, network: MemoryNetwork, me: PeerId, peer: PeerId) -> None:
        self.peer = peer
        self._me = me
        self._network = network
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_FRAMES)
        self.has_ended = False
        self.other: MemoryLink

    async def send(self, frame: bytes) -> None:
        """See `SyncLink`."""
        self._network.check(self._me, self.peer)
        self._network.sent[self._me] += len(frame)
        self._network.frames[self._me] += 1
        if not self.other.has_ended:
            await self.other.inbox.put(frame)
        if self.other.has_ended:
            raise StreamError("the stream has ended")

    async def receive(self) -> bytes | None:
        """See `SyncLink`."""
        frame = await self.inbox.get()
        self._network.check(self._me, self.peer)
        return frame


@dataclass
class MemoryNetwork:
    """Who is there, and who reaches whom.

    Attributes:
        stores: Running ones.
        providers: What the DHT knows.
        cut: Pairs that do not reach each other.
        sent: Bytes of frames that each has sent.
        frames: How many those were.
        links: Streams that are open.
    """

    stores: dict[PeerId, ReplicatedStore] = field(default_factory=dict)
    providers: dict[bytes, set[PeerId]] = field(default_factory=dict)
    cut: set[frozenset[PeerId]] = field(default_factory=set)
    sent: Counter[PeerId] = field(default_factory=Counter)
    frames: Counter[PeerId] = field(default_factory=Counter)
    links: set[MemoryLink] = field(default_factory=set)

    def check(self, one: PeerId, other: PeerId) -> None:
        """Raise `StreamError` if the two do not reach each other."""
        if frozenset((one, other)) in self.cut:
            raise StreamError("the network is cut")

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Only those in one group reach each other. Streams between groups break at their next frame."""
        rows = [set(group) for group in groups]
        self.cut = {
            frozenset((one, other)) for row in rows for other_row in rows if row is not other_row
            for one in row for other in other_row
        }  # fmt: skip
        for link in self.links:
            if frozenset((link.peer, link._me)) in self.cut:
                with contextlib.suppress(asyncio.QueueFull):
                    link.inbox.put_nowait(None)

    def heal(self) -> None:
        """All reach each other again."""
        self.cut = set()

    @contextlib.asynccontextmanager
    async def open(
        self, key: IdentityKey, folder: Path, *, now: Callable[[], float] = time.time
    ) -> AsyncIterator[ReplicatedStore]:
        """A node's store, in the network until the block ends."""
        side = MemorySide(self, key.peer_id)
        async with open_store(key, folder / f"{key.peer_id}.db", side, side, now=now) as store:
            self.stores[key.peer_id] = store
            try:
                yield store
            finally:
                del self.stores[key.peer_id]


class MemorySide:
    """What one store sees of the network; implements `StorePeers` and `ReplicaRouting`."""

    def __init__(self, network: MemoryNetwork, me: PeerId) -> None:
        self._network = network
        self._me = me

    @contextlib.asynccontextmanager
    async def call(self, peer: PeerId) -> AsyncIterator[MemoryLink]:
        """See `StorePeers`."""
        network = self._network
        self._reach(peer)
        ours, theirs = MemoryLink(network, self._me, peer), MemoryLink(network, peer, self._me)
        ours.other, theirs.other = theirs, ours
        network.links |= {ours, theirs}
        serving = asyncio.get_running_loop().create_task(self._serve(theirs, peer))
        try:
            yield ours
        finally:
            network.links -= {ours, theirs}
            serving.cancel()
            await asyncio.wait([serving])

    async def _serve(self, link: MemoryLink, peer: PeerId) -> None:
        from lattica.store.sync_wire import FrameReader

        first = await link.receive()
        if first is not None:
            replicator = self._network.stores[peer].replicator_of(NamespaceId(FrameReader().read(first).namespace))
            if replicator is not None:
                link.inbox._queue.appendleft(first)  # type: ignore[attr-defined]
                link.inbox._unfinished_tasks += 1  # type: ignore[attr-defined]
                with contextlib.suppress(NetworkError):
                    await replicator.serve(link)
        link.has_ended = True
        while not link.inbox.empty():
            link.inbox.get_nowait()
        with contextlib.suppress(asyncio.QueueFull):
            link.other.inbox.put_nowait(None)

    async def genesis(self, peer: PeerId, namespace: bytes) -> bytes:
        """See `StorePeers`."""
        self._reach(peer)
        return self._network.stores[peer].genesis_of(NamespaceId(namespace)) or b""

    def _reach(self, peer: PeerId) -> None:
        if peer not in self._network.stores:
            raise PeerUnreachableError(peer, {"memory": "it is not there"})
        self._network.check(self._me, peer)

    async def find(self, key: bytes) -> AsyncIterator[PeerId]:
        """See `ReplicaRouting`."""
        for peer in sorted(self._network.providers.get(key, ())):
            if peer != self._me and frozenset((peer, self._me)) not in self._network.cut:
                yield peer

    async def announce(self, key: bytes) -> None:
        """See `ReplicaRouting`."""
        self._network.providers.setdefault(key, set()).add(self._me)

    def withdraw(self, key: bytes) -> None:
        """See `ReplicaRouting`."""
        self._network.providers.get(key, set()).discard(self._me)


async def converged(documents: Iterable[Document], timeout: float = 20.0) -> float:
    """Wait until all have one frontier; the seconds that took."""
    began = time.monotonic()
    documents = list(documents)
    async with asyncio.timeout(timeout):
        while len({document.frontier().digest() for document in documents}) > 1:
            await asyncio.sleep(0.01)
    return time.monotonic() - began
