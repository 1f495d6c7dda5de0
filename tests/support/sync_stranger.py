"""A peer that speaks the store's protocol by hand, and says what it likes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from ledger_replicas import SimReplica

from lattica.errors import NetworkError, StreamError
from lattica.identity import IdentityKey
from lattica.store.document import Document
from lattica.store.entry import ChainId, Entry, read_entry
from lattica.store.store import ReplicatedStore
from lattica.store.sync_state import locator_of
from lattica.store.sync_wire import FrameReader, FrameWriter, Offer, SyncMessage
from lattica.store.testing import MemoryLink, MemoryNetwork, MemorySide


class Stranger:
    """One stream of a peer's to a store, and a replica of its own that nobody controls.

    Attributes:
        sim: The replica: writes entries that are good, or would be.
        heard: What the store has said.
    """

    def __init__(self, key: IdentityKey, link: MemoryLink, sim: SimReplica) -> None:
        self.key = key
        self.sim = sim
        self.heard: list[SyncMessage] = []
        self._link = link
        self._writer = FrameWriter()
        self._reader = FrameReader()

    async def say(self, message: SyncMessage) -> None:
        await self._link.send(self._writer.write(message))

    async def say_bytes(self, frame: bytes) -> None:
        await self._link.send(frame)

    async def hear(self) -> SyncMessage | None:
        """The store's next frame; ``None`` at the end."""
        raw = await self._link.receive()
        if raw is None:
            return None
        self.heard.append(self._reader.read(raw))
        return self.heard[-1]

    async def wait_question(self) -> SyncMessage:
        """The store's next question."""
        while True:
            message = await self.hear()
            if message is None:
                raise StreamError("the store has ended the stream")
            if message.wanted:
                return message

    async def wait_end(self) -> None:
        """Until the store ends the stream; says that it is there meanwhile."""
        while True:
            try:
                async with asyncio.timeout(0.5):
                    if await self.hear() is None:
                        return
            except TimeoutError:
                await self.say(SyncMessage())

    async def offer(self, chain: ChainId, seq: int, mark: bytes) -> None:
        """Say that there is something to have, and wait until the store asks for it."""
        await self.say(SyncMessage(heads={chain: Offer(seq, mark[:8])}))
        await self.wait_question()

    async def give(self, *entries: Entry, raws: Sequence[bytes] = ()) -> None:
        """Offer entries, and send them, or ``raws`` instead."""
        last = entries[-1]
        await self.offer(last.chain, last.body.seq, last.hash)
        await self.say(SyncMessage(entries=tuple(raws or [entry.raw for entry in entries])))
        await self.say(SyncMessage(answered=True))

    async def ask(self, *chains: ChainId) -> list[bytes]:
        """All that the store has of some chains beyond what is here."""
        ledger = self.sim.replica.ledger
        await self.say(SyncMessage(wanted={chain: locator_of(ledger.chain(chain)) for chain in chains}))
        raws: list[bytes] = []
        while (message := await self.hear()) is not None:
            raws += message.entries
            if message.answered:
                break
        return raws


@contextlib.asynccontextmanager
async def stranger_at(
    network: MemoryNetwork, store: ReplicatedStore, document: Document, key: IdentityKey
) -> AsyncIterator[Stranger]:
    """A stream to a document of a store's, of a peer that knows all that is in it, while the block lasts."""
    sim = SimReplica(document.genesis, key)
    raws = [record.raw for _, record in await store.disk.records(document.namespace.raw)]
    sim.receive([read_entry(raw, document.namespace) for raw in raws])
    owner = next(peer for peer, running in network.stores.items() if running is store)
    with contextlib.suppress(NetworkError):
        async with MemorySide(network, key.peer_id).call(owner) as link:
            stranger = Stranger(key, link, sim)
            await stranger.say(SyncMessage(namespace=document.namespace.raw))
            yield stranger
