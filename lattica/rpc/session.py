"""What a channel to a peer ID uses for a while: one gRPC channel over one route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from lattica.identity import PeerId
from lattica.rpc.options import channel_options
from lattica.rpc.ports import Route

logger = logging.getLogger(__name__)

RENEW_BEFORE_S = 1800.0
"""Seconds before its certificate's end at which a session is replaced; meanwhile it serves on."""

Kind = Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


class Session:
    """One gRPC channel over one route, for as long as both are good.

    Attributes:
        route: The route.
        channel: The channel.
        watches: Wait for a better route, and so on; they end with the session.
    """

    def __init__(self, route: Route, peer: PeerId, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=route.tls.authority,
            private_key=route.tls.private_key,
            certificate_chain=route.tls.certificate,
        )
        self.route = route
        self.channel = grpc.aio.secure_channel(
            route.target, credentials, options=channel_options(peer.dns_label), interceptors=interceptors
        )
        self._methods: dict[object, Any] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.watches: list[asyncio.Task[None]] = []

    def is_good(self, now: float) -> bool:
        """Whether new calls may use it; if it is stalled, not before that has passed."""
        return self.route.failure is None and now < self.route.expires_at

    def is_ready(self, now: float) -> bool:
        """Whether new calls may use it now."""
        return self.is_good(now) and not self.route.is_stalled

    def is_ageing(self, now: float) -> bool:
        """Whether it is time to replace it."""
        return now >= self.route.expires_at - RENEW_BEFORE_S

    def call(self, definition: MethodDefinition, *request: Any, **options: Any) -> Any:
        """Start a call."""
        method = self._methods.get(definition)
        if method is None:
            make = getattr(self.channel, definition.kind)
            method = make(definition.path, definition.serialize, definition.deserialize)
            self._methods[definition] = method
        call = method(*request, **options)
        self._running += 1
        self._idle.clear()
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _: object) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def retired(self) -> None:
        """It gets no more calls."""

    async def close(self, grace: float | None) -> None:
        """Close channel and route when no call runs, at the latest after ``grace`` seconds; at once if cancelled."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            logger.info("session closed with calls running target=%s calls=%d", self.route.target, self._running)
        finally:
            for watch in self.watches:
                watch.cancel()
            await self.channel.close()
            self.route.close()


@dataclass(frozen=True, slots=True, eq=False)
class MethodDefinition:
    """A method as generated code describes it."""

    kind: Kind
    path: str
    serialize: Callable[[Any], bytes] | None
    deserialize: Callable[[bytes], Any] | None
