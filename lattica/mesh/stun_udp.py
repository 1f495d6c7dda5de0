"""Answers STUN Binding requests on UDP, on the number of the node's TCP port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from lattica.errors import RemoteProtocolError
from lattica.identity import PeerAddress
from lattica.mesh.stun import MAX_STUN_MESSAGE, Endpoint, answer_request

logger = logging.getLogger(__name__)

HOST_RATE, HOST_BURST = 10.0, 20.0
"""Answers per second, and at once, to one address. Sources can be forged: no one is to be flooded by us."""
TOTAL_RATE, TOTAL_BURST = 500.0, 1000.0
"""The same in all: about 30 KB/s."""
MAX_HOSTS = 4096
"""Addresses whose rate is remembered; with `TOTAL_RATE` one is forgotten only when it has its whole burst again."""


class RateLimit:
    """Token buckets by name, and one for all. Pure: the clock is the caller's."""

    def __init__(self, *, rate: float, burst: float, total_rate: float, total_burst: float, limit: int) -> None:
        self._rate, self._burst = rate, burst
        self._total_rate, self._total_burst = total_rate, total_burst
        self._limit = limit
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total: tuple[float, float] | None = None

    def take(self, name: str, now: float) -> bool:
        """Whether ``name`` may have one more, at ``now`` seconds; what is refused costs it nothing."""
        mine = _refill(self._buckets.get(name), self._rate, self._burst, now)
        everyones = _refill(self._total, self._total_rate, self._total_burst, now)
        if mine < 1.0 or everyones < 1.0:
            return False
        self._total = everyones - 1.0, now
        self._buckets[name] = mine - 1.0, now
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        return True

    def __len__(self) -> int:
        return len(self._buckets)


def _refill(bucket: tuple[float, float] | None, rate: float, burst: float, now: float) -> float:
    if bucket is None:
        return burst
    level, at = bucket
    return min(burst, level + (now - at) * rate)


class StunResponder(asyncio.DatagramProtocol):
    """Answers datagrams; made by `open_udp_responder`.

    Attributes:
        answered: How many requests were answered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.answered = 0
        self._clock = clock
        self._limit = RateLimit(
            rate=HOST_RATE, burst=HOST_BURST, total_rate=TOTAL_RATE, total_burst=TOTAL_BURST, limit=MAX_HOSTS
        )
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Called by asyncio. Junk is not worth a log line: anybody can send it, from anywhere."""
        if len(data) > MAX_STUN_MESSAGE:
            return
        remote = PeerAddress.tcp(str(addr[0]), int(addr[1]))  # also for its plain spelling of IPv4
        try:
            answer = answer_request(data, Endpoint(remote.host, remote.port))
        except RemoteProtocolError:
            return
        if self._limit.take(remote.host, self._clock()):
            self.answered += 1
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def open_udp_responder(host: str, port: int) -> AsyncIterator[StunResponder | None]:
    """Answer Binding requests on UDP while the block runs.

    An answer is 12 bytes longer than the shortest request (24 for IPv6): a forged source is sent 60 bytes for 48,
    headers included. Where the port cannot be had there is one warning and ``None``: the node lives without.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = _bind(host, port)
    except OSError as error:
        logger.warning("no stun over udp host=%s port=%d reason=%s", host, port, error.strerror or error)
        yield None
        return
    try:
        transport, responder = await loop.create_datagram_endpoint(StunResponder, sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        yield responder
    finally:
        transport.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
