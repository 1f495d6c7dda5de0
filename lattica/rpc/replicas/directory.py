"""Replicas of one node: what it offers, and the sets of those whom it calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import grpc
from prometheus_client import CollectorRegistry

from lattica.background import Background, background_tasks
from lattica.errors import NetworkError, RemoteProtocolError, UsageError
from lattica.identity import IdentityKey, PeerId
from lattica.rpc.names import check_name
from lattica.rpc.ports import ServiceRouting
from lattica.rpc.replicas.limits import (
    ASK_TIMEOUT_S,
    FAREWELL_CONCURRENCY,
    FAREWELL_TIMEOUT_S,
    MAX_CAPACITY,
)
from lattica.rpc.replicas.offers import Offers
from lattica.rpc.replicas.record import ServiceRecord, service_key, unseal_record
from lattica.rpc.replicas.replica_set import ReplicaSet
from lattica.rpc.replicas.servicer import ReplicasServicer, add_replicas_servicer
from lattica.rpc.replicas.settings import ReplicaSettings
from lattica.rpc.replicas.wire import SERVICE, Answer, encode_answer, encode_goodbye, encode_question, parse_answer
from lattica.rpc.service_metrics import ServiceMetrics

logger = logging.getLogger(__name__)

S = TypeVar("S")


class Calls(Protocol):
    """What replicas need of the rpc room: `Rpc` is one."""

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        """The channel to a peer."""

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a service to peers."""


class Replicas:
    """What this node offers by name, and whom it calls by name; made by `open_replicas`."""

    def __init__(
        self,
        key: IdentityKey,
        calls: Calls,
        routing: ServiceRouting,
        tasks: Background,
        *,
        rng: random.Random,
        settings: ReplicaSettings,
        metrics: ServiceMetrics,
    ) -> None:
        self._local = key.peer_id
        self._calls = calls
        self._routing = routing
        self._tasks = tasks
        self._rng = rng
        self._settings = settings
        self._metrics = metrics
        self._offers = Offers(key, lease=settings.lease)
        self._sets: WeakValueDictionary[str, ReplicaSet] = WeakValueDictionary()
        self._offered_sets: dict[str, ReplicaSet] = {}

    def replica_set(self, name: str) -> ReplicaSet:
        """The replicas of a name; the same for all who call it. Never ourselves: what we offer is called directly.

        Made without waiting: they are looked for when it is first used, and watched while it is used.

        Raises:
            UsageError: No service can have that name.
        """
        replicas = self._sets.get(name)
        if replicas is None:
            check_name(name)
            replicas = self._sets[name] = ReplicaSet(
                name, self._local, ask=self._ask, routing=self._routing, tasks=self._tasks, rng=self._rng,
                settings=self._settings, counts=self._metrics.of(name),
            )  # fmt: skip
        return replicas

    @property
    def offered(self) -> list[str]:
        """The names that we offer."""
        return self._offers.names

    def announce(self, name: str, *, capacity: int = 1, load: Callable[[], float] = lambda: 0.0) -> None:
        """Offer a name to everybody, until it is withdrawn or the node stops; again: with another capacity and load.

        Made without waiting: the network is told in the background.

        Args:
            name: The service's.
            capacity: Calls that we run at once.
            load: How many calls run or wait here; asked for when a peer asks.

        Raises:
            UsageError: No service can have that name, or capacity.
        """
        check_offer(name, capacity)
        is_new = name not in self._offers
        self._offers.put(name, capacity=capacity, load=load)
        if is_new:
            # Watched too: whoever asks us hears of the others, and they hear of us.
            self._offered_sets[name] = self.replica_set(name)
            self._offered_sets[name].hold()
            self._tasks.start(self._announce(name))

    async def withdraw(self, name: str) -> None:
        """Offer a name no longer. Peers that lately asked for it are told, for at most `FAREWELL_TIMEOUT_S`.

        The others hear it when they ask. Unknown names are no error.
        """
        goodbye = self._withdrawn(name)
        if goodbye is not None:
            await self._farewell([goodbye])

    async def close(self) -> None:
        """Withdraw all names; who waits for a replica gets `NoReplicaError`."""
        for replicas in list(self._sets.values()):
            replicas.close()
        goodbyes = [goodbye for name in self._offers.names if (goodbye := self._withdrawn(name)) is not None]
        await self._farewell(goodbyes)

    def _withdrawn(self, name: str) -> tuple[ServiceRecord, list[PeerId]] | None:
        withdrawn = self._offers.withdraw(name, self._settings.clock(), self._settings.wall())
        if withdrawn is not None:
            self._offered_sets.pop(name).release()
            self._routing.withdraw(service_key(name))
        return withdrawn

    async def _announce(self, name: str) -> None:
        try:
            await self._routing.announce(service_key(name))
        except NetworkError as error:
            logger.warning("service not announced name=%s reason=%s", name, error)
        if name not in self._offers:  # withdrawn meanwhile
            self._routing.withdraw(service_key(name))

    # Asking others

    async def _ask(self, peer: PeerId, name: str) -> Answer:
        own = self._offers.record(name, self._settings.clock(), self._settings.wall())
        question = encode_question(name, own.envelope if own and not own.is_goodbye else b"")
        describe: Any = self._calls.channel(peer).unary_unary(f"/{SERVICE}/Describe")
        try:
            raw: bytes = await describe(question, timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if isinstance(error, NetworkError):
                raise
            raise NetworkError(f"{error.code().name.lower()}: {error.details()}") from error
        return parse_answer(raw)

    async def _farewell(self, goodbyes: list[tuple[ServiceRecord, list[PeerId]]]) -> None:
        told = [(goodbye, peer) for goodbye, askers in goodbyes for peer in askers]
        if not told or not self._settings.farewell:
            return
        limit = asyncio.Semaphore(FAREWELL_CONCURRENCY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT_S), asyncio.TaskGroup() as tasks:
                for goodbye, peer in told:
                    tasks.create_task(self._say_goodbye(goodbye, peer, limit))

    async def _say_goodbye(self, goodbye: ServiceRecord, peer: PeerId, limit: asyncio.Semaphore) -> None:
        async with limit:
            say: Any = self._calls.channel(peer).unary_unary(f"/{SERVICE}/Goodbye")
            try:
                await say(encode_goodbye(goodbye.envelope), timeout=FAREWELL_TIMEOUT_S)
            except (grpc.aio.AioRpcError, NetworkError) as error:
                logger.debug("goodbye not heard name=%s peer=%s reason=%s", goodbye.name, peer, error)

    # Answering others

    def describe(self, name: str, own: bytes, caller: PeerId) -> bytes:
        """The serialized answer to a question; raises `RemoteProtocolError`."""
        replicas = self._sets.get(name)
        if own and replicas is not None and name in self._offers:
            self._heard(replicas, own, caller)
        self._offers.asked(name, caller, self._settings.clock())
        record = self._offers.record(name, self._settings.clock(), self._settings.wall())
        return encode_answer(record.envelope if record else b"", replicas.records(caller) if replicas else ())

    def goodbye(self, own: bytes, caller: PeerId) -> None:
        """A peer withdraws a name; raises `RemoteProtocolError`."""
        record = unseal_record(own)
        if record.peer_id != caller or not record.is_goodbye:
            raise RemoteProtocolError("a goodbye that is not the caller's own", caller)
        if (replicas := self._sets.get(record.name)) is not None:
            replicas.heard(record)

    @staticmethod
    def _heard(replicas: ReplicaSet, own: bytes, caller: PeerId) -> None:
        if replicas.table.book.get(caller) is None:
            record = unseal_record(own)
            if record.peer_id != caller:
                raise RemoteProtocolError("an own record that is not the caller's", caller)
            replicas.heard(record)


def check_offer(name: str, capacity: int) -> None:
    """Raise `UsageError` unless a service can have that name and capacity."""
    check_name(name)
    if not 1 <= capacity <= MAX_CAPACITY:
        raise UsageError(f"a capacity is 1 to {MAX_CAPACITY} calls at once, not {capacity}")


@contextlib.asynccontextmanager
async def open_replicas(
    key: IdentityKey,
    calls: Calls,
    routing: ServiceRouting,
    *,
    rng: random.Random | None = None,
    settings: ReplicaSettings | None = None,
    metrics: ServiceMetrics | None = None,
) -> AsyncIterator[Replicas]:
    """Offer names and call by name until the block ends; then every name is withdrawn.

    Args:
        key: Signs what we offer.
        calls: The rpc room.
        routing: The DHT.
        rng: Source of choices and jitter; by default the operating system's.
        settings: Leases and clocks.
        metrics: Where calls by name are counted; without them they are not exported.
    """
    async with background_tasks() as tasks:
        replicas = Replicas(
            key,
            calls,
            routing,
            tasks,
            rng=rng or random.SystemRandom(),
            settings=settings or ReplicaSettings(),
            metrics=metrics or ServiceMetrics(CollectorRegistry()),
        )
        calls.add_servicer(add_replicas_servicer, ReplicasServicer(replicas))
        try:
            yield replicas
        finally:
            await replicas.close()
