"""A network in memory: DHT nodes of one process that reach each other with latency, loss and failures."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from lattica.dht.messages import Message, MessageType, decode_response, encode
from lattica.dht.metrics import DhtMetrics
from lattica.dht.peer_info import PeerInfo
from lattica.dht.ports import RequestHandler
from lattica.dht.service import Dht, DhtMode, open_dht
from lattica.errors import NetworkError, PeerUnreachableError, StreamError
from lattica.identity import PeerId

_NOBODY = PeerId(b"\x12\x20" + b"?" * 32)


@dataclass(slots=True)
class MemoryPeer:
    """One peer of a `MemoryNetwork`.

    Attributes:
        info: Its ID and its true address.
        handler: What answers; ``None`` for a client.
        on_peer: Called with each server that it comes to know by connecting, as identify would.
        silent: Whether requests to it and from it hang for ever.
        gone: Whether they fail at once.
    """

    info: PeerInfo
    handler: RequestHandler | None = None
    on_peer: Callable[[PeerId, Sequence[bytes]], None] | None = None
    silent: bool = False
    gone: bool = False

    async def answer(self, request: Message) -> Message:
        """What it answers to somebody whom it does not know."""
        if self.handler is None:
            raise StreamError("the peer does not speak the protocol")
        data = await self.handler(_NOBODY, encode(request))
        if data is None:
            raise StreamError("the peer has no answer to this")
        return decode_response(data, request, self.info.peer_id)

    async def holds(self, key: bytes) -> bool:
        """Whether it names any provider of a key."""
        return bool((await self.answer(Message(type=MessageType.GET_PROVIDERS, key=key))).provider_peers)


class MemoryNetwork:
    """Peers that reach each other in memory, with latency, loss and failures.

    Dialling needs the true address of the other, and tells both sides of servers, as identify does.

    Args:
        rng: Source of peer IDs, latencies and losses.
        latency: Bounds of one request's duration, in seconds.
        loss: Fraction of requests that hang.

    Attributes:
        loss: As given; may be changed.
        requests: How many requests were delivered so far, of all peers.
        most_under_way: The most requests of one peer that were under way at once.
    """

    def __init__(self, rng: random.Random, *, latency: tuple[float, float] = (0.01, 0.1), loss: float = 0.0) -> None:
        self.requests = 0
        self.most_under_way = 0
        self._under_way: Counter[PeerId] = Counter()
        self._rng = rng
        self._latency = latency
        self.loss = loss
        self._peers: dict[PeerId, MemoryPeer] = {}
        self._connected: set[frozenset[PeerId]] = set()

    def add(self) -> MemoryTransport:
        """A new peer's transport."""
        number = len(self._peers) + 1
        address = b"\x04\x0a" + number.to_bytes(3, "big") + b"\x06" + (4001).to_bytes(2, "big")  # /ip4/10.…/tcp/4001
        peer_id = PeerId(b"\x12\x20" + self._rng.randbytes(32))
        self._peers[peer_id] = MemoryPeer(PeerInfo(peer_id, (address,)))
        return MemoryTransport(self, self._peers[peer_id])

    def __getitem__(self, peer_id: PeerId) -> MemoryPeer:
        """A peer, for a test to break."""
        return self._peers[peer_id]

    def kill(self, peer_id: PeerId, *, silently: bool = False) -> None:
        """From now on dialling the peer fails; or, silently, requests to it hang."""
        self._peers[peer_id].silent, self._peers[peer_id].gone = silently, not silently
        self._connected = {pair for pair in self._connected if peer_id not in pair}

    def revive(self, peer_id: PeerId) -> None:
        """Undo `kill`."""
        self._peers[peer_id].silent = self._peers[peer_id].gone = False

    def connect(self, a: PeerId, b: PeerId) -> None:
        """Let two peers know each other, as a dial to a bootstrap address does."""
        self._connected.add(frozenset((a, b)))
        for me, other in ((self[a], self[b]), (self[b], self[a])):
            if me.on_peer and other.handler:
                me.on_peer(other.info.peer_id, other.info.addresses)

    def connections_of(self, peer_id: PeerId) -> set[PeerId]:
        """The peers that a peer is connected to."""
        return {other for pair in self._connected if peer_id in pair for other in pair if other != peer_id}

    async def deliver(
        self, sender: PeerId, receiver: PeerId, addresses: Sequence[bytes], message: bytes
    ) -> bytes | None:
        """Carry a request and its response, if it has one."""
        self._under_way[sender] += 1
        self.most_under_way = max(self.most_under_way, self._under_way[sender])
        try:
            return await self._deliver(sender, receiver, addresses, message)
        finally:
            self._under_way[sender] -= 1

    async def _deliver(
        self, sender: PeerId, receiver: PeerId, addresses: Sequence[bytes], message: bytes
    ) -> bytes | None:
        peer = self._peers.get(receiver)
        if peer is None or peer.gone or self[sender].gone or not self._dialable(sender, peer, addresses):
            raise PeerUnreachableError(receiver, {"memory": "nobody there"})
        await asyncio.sleep(self._rng.uniform(*self._latency))
        if peer.silent or self[sender].silent or self._rng.random() < self.loss:
            await asyncio.get_running_loop().create_future()  # nobody ever completes it
        if frozenset((sender, receiver)) not in self._connected:
            self.connect(sender, receiver)
        if peer.handler is None:
            raise StreamError("the peer does not speak the protocol")
        self.requests += 1
        try:
            return await peer.handler(sender, message)
        except NetworkError as error:
            raise StreamError("the stream was reset") from error

    def _dialable(self, sender: PeerId, peer: MemoryPeer, addresses: Sequence[bytes]) -> bool:
        connected = frozenset((sender, peer.info.peer_id)) in self._connected
        return connected or not set(addresses).isdisjoint(peer.info.addresses)

    @asynccontextmanager
    async def node(
        self, *, mode: DhtMode = DhtMode.SERVER, bootstrap: PeerId | None = None, metrics: DhtMetrics | None = None
    ) -> AsyncIterator[MemoryNode]:
        """A DHT node on this network, wired up as a real node would; connected to `bootstrap` if given."""
        transport = self.add()
        local = transport.local_peer
        async with open_dht(
            transport,
            mode=mode,
            rng=random.Random(self._rng.random()),  # noqa: S311 - a test is to be repeatable
            addresses_of=lambda peer: self[peer].info.addresses if peer in self.connections_of(local) else (),
            metrics=metrics or DhtMetrics(),
        ) as dht:
            self[local].on_peer = dht.peer_seen
            if bootstrap is not None:
                self.connect(local, bootstrap)
            yield MemoryNode(local, dht, self[local])

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[list[MemoryNode]]:
        """Servers that join one after the other through the first one, each bootstrapped when the next one comes."""
        async with AsyncExitStack() as stack:
            running: list[MemoryNode] = []
            for _ in range(count):
                bootstrap = running[0].peer_id if running else None
                node = await stack.enter_async_context(self.node(bootstrap=bootstrap))
                await node.dht.bootstrap()
                running.append(node)
            yield running


@dataclass(frozen=True, slots=True)
class MemoryNode:
    """A running DHT on a `MemoryNetwork`.

    Attributes:
        peer_id: Who it is.
        dht: Its DHT.
        peer: Its place on the network, for a test to break.
    """

    peer_id: PeerId
    dht: Dht
    peer: MemoryPeer

    async def providers(self, key: bytes, *, limit: int = 20) -> list[PeerInfo]:
        """Whom it finds as providers of a key."""
        return [provider async for provider in self.dht.find_providers(key, limit=limit)]


class MemoryTransport:
    """The `DhtTransport` of one peer of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, peer: MemoryPeer) -> None:
        self._network = network
        self._peer = peer

    @property
    def local_peer(self) -> PeerId:
        """Who this is."""
        return self._peer.info.peer_id

    def local_addresses(self) -> Sequence[bytes]:
        """The one true address."""
        return self._peer.info.addresses

    async def request(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> bytes:
        """See `DhtTransport.request`."""
        response = await self._network.deliver(self.local_peer, peer, addresses, message)
        if response is None:
            raise StreamError("the peer closed the stream without an answer")
        return response

    async def send(self, peer: PeerId, addresses: Sequence[bytes], message: bytes) -> None:
        """See `DhtTransport.send`."""
        await self._network.deliver(self.local_peer, peer, addresses, message)

    def serve(self, handler: RequestHandler | None) -> None:
        """See `DhtTransport.serve`."""
        self._peer.handler = handler
