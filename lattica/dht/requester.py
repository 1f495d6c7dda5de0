"""Sending one request to one peer, with its deadline, its checks and its consequences."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lattica.dht.limits import MAX_CONCURRENT_REQUESTS, REQUEST_TIMEOUT, STALL_TIMEOUT
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, decode_response, encode
from lattica.dht.metrics import DhtMetrics
from lattica.dht.peer_info import PeerInfo
from lattica.dht.ports import DhtTransport
from lattica.errors import NetworkError, RemoteProtocolError, StreamError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Requester:
    """Asks peers over the transport and tells the machine how it went.

    At most `MAX_CONCURRENT_REQUESTS` are under way; each has `REQUEST_TIMEOUT` from the moment it starts, dialling
    included. One that is cancelled when it was already slow counts as failed: a lookup went on without it, and the next
    one should not wait for the same peer.

    Args:
        on_check: Called with a contact that the routing table wants checked.
    """

    def __init__(
        self,
        transport: DhtTransport,
        machine: KadMachine,
        *,
        clock: Callable[[], float],
        metrics: DhtMetrics,
        on_check: Callable[[PeerInfo], None],
    ) -> None:
        self._transport = transport
        self._machine = machine
        self._clock = clock
        self._metrics = metrics
        self._on_check = on_check
        self._places = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

    async def ask(self, peer: PeerInfo, request: Message) -> Message:
        """The peer's response.

        Raises:
            NetworkError: There is none, or not in time.
            RemoteProtocolError: It is malformed.
        """

        async def exchange() -> Message:
            data = await self._transport.request(peer.peer_id, peer.addresses, encode(request))
            return decode_response(data, request, peer.peer_id)

        return await self._attempt(peer, request, exchange)

    async def tell(self, peer: PeerInfo, message: Message) -> None:
        """Send a message that has no response; returns when it is written.

        Raises:
            NetworkError: It could not be sent, or not in time.
        """

        async def send() -> None:
            await self._transport.send(peer.peer_id, peer.addresses, encode(message))

        await self._attempt(peer, message, send)

    async def _attempt(self, peer: PeerInfo, request: Message, act: Callable[[], Awaitable[T]]) -> T:
        async with self._places:
            started = self._clock()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    result = await act()
            except asyncio.CancelledError:
                if self._clock() - started >= STALL_TIMEOUT:
                    self._failed(peer, request, "timeout")
                raise
            except TimeoutError as error:
                self._failed(peer, request, "timeout")
                raise StreamError(f"no answer within {REQUEST_TIMEOUT:g} s") from error
            except RemoteProtocolError as error:
                log.warning("dht peer broke the protocol peer=%s reason=%s", peer.peer_id, error.reason)
                self._machine.peer_misbehaved(peer.peer_id, self._clock())
                self._count(request, "malformed")
                raise
            except NetworkError:
                self._failed(peer, request, "unreachable")
                raise
        now = self._clock()
        self._count(request, "ok")
        self._metrics.request_seconds.labels(request.type.name.lower()).observe(now - started)
        if check := self._machine.peer_seen(peer, now):
            self._on_check(check)
        return result

    def _failed(self, peer: PeerInfo, request: Message, outcome: str) -> None:
        self._machine.request_failed(peer.peer_id, self._clock())
        self._count(request, outcome)

    def _count(self, request: Message, outcome: str) -> None:
        self._metrics.requests.labels(request.type.name.lower(), outcome).inc()
