"""Nodes that offer and call services by name, over memory: real `Replicas`, no sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from service_records import key, peer

from lattica.errors import PeerUnreachableError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc import Replicas, open_replicas
from lattica.rpc.replicas import ReplicaSettings
from lattica.rpc.replicas.wire import parse_goodbye, parse_question


@dataclass
class MemoryServices:
    """A network of nodes by number.

    Attributes:
        providers: What the DHT knows: who announced which key. As there, it does not forget.
        asked: Questions that each node was asked.
        gone: Nodes that nobody reaches.
        answer: Answers of nodes that are not what they seem, by number.
        searches: Searches of the DHT so far.
    """

    providers: dict[bytes, list[PeerId]] = field(default_factory=dict)
    nodes: dict[PeerId, Replicas] = field(default_factory=dict)
    asked: dict[PeerId, int] = field(default_factory=dict)
    gone: set[PeerId] = field(default_factory=set)
    answer: dict[PeerId, Callable[[], bytes]] = field(default_factory=dict)
    searches: int = 0

    @contextlib.asynccontextmanager
    async def node(
        self, number: int, *, lease: float = 30.0, idle: float = 120.0, skew: float = 0.0, farewell: bool = True
    ) -> AsyncIterator[Replicas]:
        """A node whose wall clock is `skew` seconds ahead."""
        loop = asyncio.get_running_loop()
        settings = ReplicaSettings(
            lease=lease, idle=idle, farewell=farewell, clock=loop.time, wall=lambda: 1_750_000_000 + loop.time() + skew
        )
        local = _Node(self, peer(number))
        async with open_replicas(key(number), local, local, rng=random.Random(number), settings=settings) as replicas:
            self.nodes[peer(number)] = replicas
            yield replicas

    async def call(self, caller: PeerId, callee: PeerId, method: str, request: bytes) -> bytes:
        """One call from node to node."""
        await asyncio.sleep(0)
        if callee in self.gone or callee not in (self.nodes.keys() | self.answer.keys()):
            raise PeerUnreachableError(callee, {"memory": "nobody there"})
        self.asked[callee] = self.asked.get(callee, 0) + 1
        if callee in self.answer:
            return self.answer[callee]()
        try:
            if method.endswith("/Goodbye"):
                self.nodes[callee].goodbye(parse_goodbye(request), caller)
                return b""
            question = parse_question(request)
            return self.nodes[callee].describe(question.name, question.own, caller)
        except RemoteProtocolError as error:
            details = error.reason
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
        )


class _Node:
    """One node's way into the network: its channels, its server, its DHT."""

    def __init__(self, network: MemoryServices, local: PeerId) -> None:
        self._network = network
        self._local = local

    def channel(self, callee: PeerId) -> Any:
        return _Channel(self._network, self._local, callee)

    def add_servicer(self, register: object, servicer: object) -> None:
        """Calls go to `Replicas` directly."""

    async def find(self, key: bytes) -> AsyncIterator[PeerId]:
        self._network.searches += 1
        for provider in self._network.providers.get(key, []):
            await asyncio.sleep(0)
            if provider != self._local:
                yield provider

    async def announce(self, key: bytes) -> None:
        providers = self._network.providers.setdefault(key, [])
        if self._local not in providers:
            providers.append(self._local)

    def withdraw(self, key: bytes) -> None:
        """The DHT does not forget so soon."""


@dataclass(frozen=True)
class _Channel:
    network: MemoryServices
    caller: PeerId
    callee: PeerId

    def unary_unary(self, method: str) -> Any:
        async def call(request: bytes, *, timeout: float) -> bytes:
            async with asyncio.timeout(timeout):
                return await self.network.call(self.caller, self.callee, method, request)

        return call
