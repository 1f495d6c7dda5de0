"""The DHT of one node on a real network."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from enum import Enum

from lattica.background import Background, background_tasks
from lattica.dht.diversity import IpDiversity
from lattica.dht.driver import LookupDriver, ignore_response
from lattica.dht.keyspace import is_multihash
from lattica.dht.lookup import Lookup
from lattica.dht.machine import KadMachine, no_addresses
from lattica.dht.messages import Message, MessageType, bounded_addresses, decode_request, encode
from lattica.dht.metrics import METRICS, DhtMetrics
from lattica.dht.peer_info import PeerInfo
from lattica.dht.ports import DhtTransport
from lattica.dht.publisher import Publisher
from lattica.dht.requester import Requester
from lattica.dht.search import ProviderSearch
from lattica.dht.upkeep import Upkeep
from lattica.errors import PeerUnreachableError, RemoteProtocolError, StreamError
from lattica.identity import PeerId

_MAX_ATTEMPTS_SHOWN = 5
"""Failed peers that the error of a fruitless `Dht.find_peer` names."""


class DhtMode(Enum):
    """Whether a node serves the DHT or only uses it."""

    CLIENT = "client"
    SERVER = "server"


class Dht:
    """Who has this content, and where is this peer. Open one with `open_dht`.

    All methods belong to the event loop that it was opened in.
    """

    def __init__(
        self,
        machine: KadMachine,
        transport: DhtTransport,
        background: Background,
        *,
        clock: Callable[[], float],
        metrics: DhtMetrics,
    ) -> None:
        self._machine = machine
        self._transport = transport
        self._background = background
        self._clock = clock
        self._metrics = metrics
        self._closed = False
        self._has_peers = asyncio.Event()
        self._requester = Requester(transport, machine, clock=clock, metrics=metrics, on_check=self._check)
        self._publisher = Publisher(machine, self._requester, find_closest=self._find_closest, clock=clock)
        self._upkeep = Upkeep(machine, self._requester, look_up=self._refresh, clock=clock)

    @property
    def routing_table_size(self) -> int:
        """How many peers the routing table holds."""
        return len(self._machine.table)

    def peer_seen(self, peer_id: PeerId, addresses: Sequence[bytes]) -> None:
        """Note that a peer says it serves the DHT (identify lists the protocol), and its addresses. Not for clients."""
        was_empty = not len(self._machine.table)
        check = self._machine.peer_seen(PeerInfo(peer_id, bounded_addresses(addresses)), self._clock())
        if check:
            self._check(check)
        if was_empty and len(self._machine.table):
            self._has_peers.set()
            self._upkeep.first_peer()
            self._publisher.wake()

    def peer_lost(self, peer_id: PeerId) -> None:
        """Note that a peer does not serve the DHT any longer.

        Not for a connection that merely closed: contacts need none, and one that is gone is found out by its silence.
        """
        self._machine.peer_lost(peer_id)

    async def wait_ready(self) -> None:
        """Return when at least one peer is known, so that lookups have somewhere to begin."""
        while not len(self._machine.table):
            self._has_peers.clear()
            await self._has_peers.wait()

    async def bootstrap(self) -> int:
        """Look ourselves up and refresh what was not used lately; returns how many peers are known then."""
        await self._upkeep.refresh()
        return self.routing_table_size

    async def find_peer(self, peer_id: PeerId, *, thorough: bool = True) -> PeerInfo:
        """Where a peer can be reached.

        By its connection if we have one, else by its own word if it answers, else by what most others say. Unless
        ``thorough``, the first who names an address ends the search: for callers who dial it, and ask again if not.

        Raises:
            PeerUnreachableError: Nobody who could be asked knows an address.
        """
        if peer_id == self._machine.local:
            return self._machine.local_info()
        if connected := self._machine.addresses_of_connected(peer_id):
            return PeerInfo(peer_id, connected)
        votes: Counter[bytes] = Counter()
        own: list[bytes] = []

        def take(responder: PeerInfo, response: Message) -> None:
            named = next((peer.addresses for peer in response.closer_peers if peer.peer_id == peer_id), ())
            if responder.peer_id == peer_id:
                own.extend((*named, *responder.addresses))
            else:
                votes.update(named)
            if own or (named and not thorough) or self._machine.addresses_of_connected(peer_id):
                lookup.stop()

        lookup = self._machine.lookup(peer_id.raw, self._clock())
        await self._run("find_peer", lookup, MessageType.FIND_NODE, peer_id.raw, take)
        known = self._machine.known_addresses(peer_id, self._clock())
        addresses = bounded_addresses((*own, *known, *(address for address, _ in votes.most_common())))
        if not addresses:
            raise PeerUnreachableError(peer_id, self._attempts(lookup))
        return PeerInfo(peer_id, addresses)

    def find_providers(self, key: bytes, *, limit: int) -> AsyncGenerator[PeerInfo, None]:
        """Yield up to `limit` peers that say they provide `key`, each once, as soon as it is known; never ourselves.

        Asks the network whether or not there are records here. Addresses are empty if nobody knew them: ask
        `find_peer`. Ending the iteration early (``break``, or closing the generator) cancels the requests under way.

        Raises:
            ValueError: `key` is not a multihash, or `limit` is not positive.
        """
        if not is_multihash(key) or limit < 1:
            raise ValueError("find_providers needs a multihash and a positive limit")
        return self._find_providers(key, limit)

    async def provide(self, key: bytes) -> int:
        """Announce that we provide `key`, now and until `stop_providing`; returns how many peers took the record.

        0 means that nobody could be reached yet; it is tried again within seconds, and when a first peer appears. If
        cancelled, the key stays provided.

        Raises:
            ValueError: `key` is not a multihash.
        """
        if not is_multihash(key):
            raise ValueError("only multihashes can be provided")
        self._machine.publications.add(key, self._clock())
        return await self._publisher.publish(key)

    def stop_providing(self, key: bytes) -> None:
        """Do not announce `key` any longer; what others hold expires within two days. Unknown keys are no error."""
        self._machine.publications.discard(key)

    async def _find_providers(self, key: bytes, limit: int) -> AsyncGenerator[PeerInfo, None]:
        # The search is a task of the DHT, not of this generator: a generator that its reader abandons is finalized in
        # some other task, where a task group or timeout of its own could not be left properly.
        search = ProviderSearch(local=self._machine.local, limit=limit)
        task = self._spawn(self._search(key, search))
        try:
            while (provider := await search.next()) is not None:
                yield provider
        finally:
            task.cancel()

    async def _search(self, key: bytes, search: ProviderSearch) -> None:
        def take(_: PeerInfo, response: Message) -> None:
            for provider in response.provider_peers:
                search.add(provider)
            if search.full:
                lookup.stop()

        lookup = self._machine.lookup(key, self._clock())
        try:
            for provider in self._machine.providers.get(key, self._clock()):
                search.add(provider)
            if not search.full:
                await self._run("find_providers", lookup, MessageType.GET_PROVIDERS, key, take)
        finally:
            search.finish()

    async def _find_closest(self, key: bytes) -> list[PeerInfo]:
        lookup = self._machine.lookup(key, self._clock())
        await self._run("provide", lookup, MessageType.FIND_NODE, key)
        return lookup.closest()

    async def _refresh(self, target: bytes) -> None:
        await self._run("refresh", self._machine.lookup(target, self._clock()), MessageType.FIND_NODE, target)

    async def _run(
        self,
        kind: str,
        lookup: Lookup,
        message_type: MessageType,
        key: bytes,
        on_response: Callable[[PeerInfo, Message], None] = ignore_response,
    ) -> None:
        request = Message(type=message_type, key=key)
        started = self._clock()
        in_time = await LookupDriver(lookup, lambda peer: self._requester.ask(peer, request), on_response).run()
        self._metrics.lookups.labels(kind, "ok" if in_time else "timeout").inc()
        self._metrics.lookup_seconds.labels(kind).observe(self._clock() - started)
        self._metrics.lookup_rounds.labels(kind).observe(lookup.rounds)

    @staticmethod
    def _attempts(lookup: Lookup) -> dict[str, str]:
        if not lookup.queries:
            return {"dht": "no other node is known yet; is a bootstrap peer up?"}
        answered = lookup.queries - len(lookup.failures)
        attempts = {"dht": f"asked {lookup.queries} nodes, {answered} answered, none knows an address"}
        failures = list(lookup.failures.items())[:_MAX_ATTEMPTS_SHOWN]
        return attempts | {str(peer_id): reason for peer_id, reason in failures}

    def _check(self, peer: PeerInfo) -> None:
        self._upkeep.check(peer)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        if self._closed:
            work.close()
            raise RuntimeError("this DHT is closed")
        return self._background.start(work)

    def set_mode(self, mode: DhtMode) -> None:
        """Begin or cease to answer others; peers learn of it when they next ask what we serve."""
        if not self._closed:
            self._transport.serve(self._serve if mode is DhtMode.SERVER else None)

    def _start(self, mode: DhtMode) -> None:
        self.set_mode(mode)
        for work in (*self._upkeep.loops(), *self._publisher.loops()):
            self._spawn(work)

    def _stop(self) -> None:
        self._closed = True
        self._transport.serve(None)

    async def _serve(self, sender: PeerId, data: bytes) -> bytes | None:
        """Answer one request; nothing in it waits, so that requests cannot pile up here."""
        kind = "unknown"
        try:
            request = decode_request(data, sender)
            kind = request.type.name.lower()
            response = self._machine.answer(sender, request, self._clock())
        except RemoteProtocolError:
            self._machine.peer_misbehaved(sender, self._clock())
            self._metrics.served.labels(kind, "malformed").inc()
            raise
        except StreamError:
            self._metrics.served.labels(kind, "refused").inc()
            raise
        self._metrics.served.labels(kind, "ok").inc()
        return None if response is None else encode(response)


@asynccontextmanager
async def open_dht(
    transport: DhtTransport,
    *,
    mode: DhtMode,
    rng: random.Random | None = None,
    clock: Callable[[], float] | None = None,
    addresses_of: Callable[[PeerId], Sequence[bytes]] = no_addresses,
    diversity: IpDiversity | None = None,
    metrics: DhtMetrics = METRICS,
) -> AsyncIterator[Dht]:
    """Run the DHT of one node until the ``async with`` block ends; it then has no task left and serves nothing.

    Args:
        transport: How to reach peers; see `DhtTransport`.
        mode: Servers answer others; clients only ask.
        rng: Source of refresh targets and jitter; by default the operating system's.
        clock: Monotonic seconds; the event loop's by default. Pauses are the event loop's in any case.
        addresses_of: Addresses of the peers that we are connected to. With it, others find clients through us.
        diversity: How many contacts one network block may take; no limit by default, which suits private networks.
        metrics: Where to count.
    """
    clock = clock or asyncio.get_running_loop().time
    machine = KadMachine(
        transport.local_peer,
        rng=rng or random.SystemRandom(),
        local_addresses=transport.local_addresses,
        addresses_of=addresses_of,
        diversity=diversity,
    )
    sizes = metrics.counting(machine.table, machine.providers, machine.publications)
    async with background_tasks() as background:
        dht = Dht(machine, transport, background, clock=clock, metrics=metrics)
        dht._start(mode)
        try:
            with sizes:
                yield dht
        finally:
            dht._stop()
