"""Thousands of DHT nodes in one process: the very machines that nodes run, over a network of events.

No asyncio and no wire format: messages are handed over as they are, latencies and deaths come from a seeded generator.
So one seed gives the same figures every time, and 1,000 nodes join in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest
from itertools import count
from typing import Final

from lattica.dht.keyspace import distance, key_of
from lattica.dht.limits import REQUEST_TIMEOUT, STALL_TIMEOUT, K
from lattica.dht.lookup import Lookup, Query
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, MessageType
from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId

LATENCY: Final = (0.02, 0.2)
"""Bounds of a request's duration, in seconds: from the same city to the other side of the world."""

CLOSE_ENOUGH: Final = 0.9
"""Part of the K nearest live nodes that a search for them has to name: so many replicas are as good as all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupOutcome:
    """How one lookup went.

    Attributes:
        found: Whether it found what it looked for.
        rounds: Requests in a row that it took.
        messages: Requests that it sent.
        seconds: How long it took, in simulated time; each dead peer asked holds a place for `STALL_TIMEOUT`.
    """

    found: bool
    rounds: int
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One network's lookups after a part of it died, none of its tables repaired.

    Attributes:
        size: Nodes before the deaths.
        table_peers: Contacts that a node has, on average.
        find_peer: Random live nodes looking for random live nodes.
        find_providers: Random live nodes looking for the provider of a key, stored before the deaths.
        find_closest: Random live nodes looking for the K live nodes nearest to a random key.
    """

    size: int
    table_peers: float
    find_peer: list[LookupOutcome]
    find_providers: list[LookupOutcome]
    find_closest: list[LookupOutcome]


def run_trial(size: int, *, seed: int, dead: float, lookups: int) -> Trial:
    """Let `size` nodes join, some of them provide, a part `dead` of them die, and the rest look things up.

    Providers are spared: a record of a dead one would be found just the same.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation is to be repeatable
    network = SimulatedNetwork(rng)
    network.grow(size)
    provided = {b"\x12\x20" + rng.randbytes(32): rng.choice(network.live) for _ in range(max(size // 20, 1))}
    for key, provider in provided.items():
        network.provide(provider, key)
    network.kill(dead, spare=provided.values())
    live, keys = network.live, list(provided)
    return Trial(
        size=size,
        table_peers=sum(len(node.table) for node in network.nodes.values()) / size,
        find_peer=[network.find_peer(*rng.sample(live, 2)) for _ in range(lookups)],
        find_providers=[network.find_providers(rng.choice(live), rng.choice(keys)) for _ in range(lookups)],
        find_closest=[network.find_closest(rng.choice(live), rng.randbytes(32)) for _ in range(lookups)],
    )


class SimulatedNetwork:
    """Honest server nodes, each with a table of its own, some of them dead.

    Attributes:
        now: Simulated seconds.
        nodes: All nodes in the order in which they joined, dead ones included.
        dead: Those that do not answer.
    """

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.nodes: dict[PeerId, KadMachine] = {}
        self.dead: set[PeerId] = set()
        self._rng = rng

    @property
    def live(self) -> list[PeerId]:
        """The nodes that answer."""
        return [peer_id for peer_id in self.nodes if peer_id not in self.dead]

    def grow(self, size: int) -> None:
        """Let nodes join until there are `size`: each knows one other, drawn at random, and looks itself up."""
        joined = list(self.nodes)
        while len(joined) < size:
            node = self._add()
            if joined:
                self.meet(node, self.nodes[self._rng.choice(joined)])
                self._look_up(node, MessageType.FIND_NODE, node.local.raw)
            joined.append(node.local)

    def kill(self, fraction: float, *, spare: Iterable[PeerId] = ()) -> None:
        """Let `fraction` of all nodes die, drawn from those not spared; the others have yet to notice."""
        mortal = sorted(set(self.live).difference(spare))
        self.dead.update(self._rng.sample(mortal, round(fraction * len(self.nodes))))

    def find_peer(self, asker: PeerId, wanted: PeerId) -> LookupOutcome:
        """Let `asker` look for the address of `wanted`."""

        def is_found(response: Message) -> bool:
            return any(peer.peer_id == wanted for peer in response.closer_peers)

        return self._measure(asker, MessageType.FIND_NODE, wanted.raw, is_found)

    def find_providers(self, asker: PeerId, key: bytes) -> LookupOutcome:
        """Let `asker` look for a provider of `key`."""
        return self._measure(asker, MessageType.GET_PROVIDERS, key, lambda response: bool(response.provider_peers))

    def find_closest(self, asker: PeerId, key: bytes) -> LookupOutcome:
        """Let `asker` look for the `K` nodes nearest to `key`; found if `CLOSE_ENOUGH` of those that live are named."""
        started = self.now
        lookup = self._look_up(self.nodes[asker], MessageType.FIND_NODE, key)
        others = (peer_id for peer_id in self.live if peer_id != asker)
        truth = nsmallest(K, others, key=lambda peer_id: distance(lookup.target, key_of(peer_id.raw)))
        named = {peer.peer_id for peer in lookup.closest()}
        found = len(named.intersection(truth)) >= CLOSE_ENOUGH * len(truth)
        return LookupOutcome(found=found, rounds=lookup.rounds, messages=lookup.queries, seconds=self.now - started)

    def provide(self, provider: PeerId, key: bytes) -> int:
        """Let `provider` store a record at the nearest peers; returns how many took it."""
        node = self.nodes[provider]
        takers = self._look_up(node, MessageType.FIND_NODE, key).closest()
        record = Message(type=MessageType.ADD_PROVIDER, key=key, provider_peers=(node.local_info(),))
        for taker in takers:
            self.nodes[taker.peer_id].answer(provider, record, self.now)
        return len(takers)

    def _add(self) -> KadMachine:
        peer_id = PeerId(b"\x12\x20" + self._rng.randbytes(32))
        address = b"\x04\x0a" + len(self.nodes).to_bytes(3, "big") + b"\x06\x0f\xa1"  # /ip4/10.…/tcp/4001

        def addresses() -> Sequence[bytes]:
            return (address,)

        self.nodes[peer_id] = KadMachine(peer_id, rng=self._rng, local_addresses=addresses)
        return self.nodes[peer_id]

    def _measure(
        self, asker: PeerId, kind: MessageType, key: bytes, is_found: Callable[[Message], bool]
    ) -> LookupOutcome:
        started = self.now
        found: list[Message] = []

        def until_found(response: Message) -> bool:
            if is_found(response):
                found.append(response)
            return bool(found)

        lookup = self._look_up(self.nodes[asker], kind, key, until_found)
        return LookupOutcome(
            found=bool(found), rounds=lookup.rounds, messages=lookup.queries, seconds=self.now - started
        )

    def _look_up(
        self, node: KadMachine, kind: MessageType, key: bytes, is_enough: Callable[[Message], bool] = lambda _: False
    ) -> Lookup:
        """Run a lookup to its end, or until a response `is_enough`."""
        lookup = node.lookup(key, self.now)
        flight = _Flight(self, node, lookup, Message(type=kind, key=key), is_enough)
        flight.run()
        return lookup

    def latency(self) -> float:
        """How long the next request takes."""
        return self._rng.uniform(*LATENCY)

    def meet(self, a: KadMachine, b: KadMachine) -> None:
        """Connect two nodes: identify tells each that the other is a server."""
        self._see(a, b.local_info())
        self._see(b, a.local_info())

    def _see(self, node: KadMachine, peer: PeerInfo) -> None:
        doubtful = node.peer_seen(peer, self.now)
        if doubtful is None:
            return
        if doubtful.peer_id in self.dead:
            node.request_failed(doubtful.peer_id, self.now)
        else:
            node.peer_seen(doubtful, self.now)


class _Flight:
    """The requests of one lookup that are under way, as a queue of arrivals."""

    def __init__(
        self,
        network: SimulatedNetwork,
        node: KadMachine,
        lookup: Lookup,
        request: Message,
        is_enough: Callable[[Message], bool],
    ) -> None:
        self._network = network
        self._node = node
        self._lookup = lookup
        self._request = request
        self._is_enough = is_enough
        self._serial = count()
        self._arrivals: list[tuple[float, int, PeerInfo, Callable[[PeerInfo], list[Query]]]] = []
        self._stalled: set[PeerId] = set()

    def run(self) -> None:
        """Let one thing after the other happen until the lookup is done."""
        self._send(self._lookup.start())
        while self._arrivals and not self._lookup.done:
            self._network.now, _, peer, happen = heappop(self._arrivals)
            self._send(happen(peer))
        for peer_id in self._stalled:  # given up on, which a node takes for a failure
            self._node.request_failed(peer_id, self._network.now)

    def _send(self, queries: list[Query]) -> None:
        for query in queries:
            if query.peer.peer_id in self._network.dead:
                self._schedule(STALL_TIMEOUT, query.peer, self._stall)
                self._schedule(REQUEST_TIMEOUT, query.peer, self._fail)
            else:
                self._schedule(self._network.latency(), query.peer, self._answer)

    def _schedule(self, delay: float, peer: PeerInfo, happen: Callable[[PeerInfo], list[Query]]) -> None:
        heappush(self._arrivals, (self._network.now + delay, next(self._serial), peer, happen))

    def _stall(self, peer: PeerInfo) -> list[Query]:
        self._stalled.add(peer.peer_id)
        return self._lookup.timeout(peer.peer_id)

    def _fail(self, peer: PeerInfo) -> list[Query]:
        self._stalled.discard(peer.peer_id)
        self._node.request_failed(peer.peer_id, self._network.now)
        return self._lookup.failure(peer.peer_id, "timed out")

    def _answer(self, peer: PeerInfo) -> list[Query]:
        responder = self._network.nodes[peer.peer_id]
        self._network.meet(self._node, responder)
        response = responder.answer(self._node.local, self._request, self._network.now)
        assert response is not None  # noqa: S101 - lookups ask nothing else
        queries = self._lookup.response(peer.peer_id, response.closer_peers)
        if self._is_enough(response):
            self._lookup.stop()
            return []
        return queries
