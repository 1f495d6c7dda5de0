"""A session that leaves the gateways out: its channel is one connection to the peer's native port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId
from lattica.rpc.ports import NativeRoute
from lattica.rpc.session import Session

CONNECT_TIMEOUT_S = 5.0
"""Seconds to connect and shake hands, while the gateway serves on."""

FIRST_CALL_S = 0.02
"""Seconds from the gateway's handshake to the next one: a near peer has answered the first call by then, which so does
not share the processor with it."""


class NativeSession(Session):
    """A session for as long as its first connection lasts: its channel would dial again, where nobody watches it."""

    def __init__(
        self, route: NativeRoute, peer: PeerId, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    ) -> None:
        super().__init__(route, peer, interceptors)
        self._native = route

    def is_good(self, now: float) -> bool:
        """Whether new calls may use it: as far as gRPC knows, and as far as the system does, which knows first."""
        return super().is_good(now) and self._is_connected

    @property
    def _is_connected(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.READY and self._native.has_pipe

    async def connect(self) -> None:
        """Connect, or raise `PeerUnreachableError`; the session is closed then, or when that is cancelled."""
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._shake_hands()
            except TimeoutError as error:
                raise self._refusal("no handshake in time") from error
            self._native.connected()
        except BaseException as error:
            if isinstance(error, PeerUnreachableError):
                self._native.refused("; ".join(error.attempts.values()))
            await self.close(0.0)
            raise

    async def _shake_hands(self) -> None:
        """Try once. Somebody else may be at that address: he should not be asked again and again."""
        state = self.channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise self._refusal("no connection, or the wrong one")
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state()

    def _refusal(self, reason: str) -> PeerUnreachableError:
        return PeerUnreachableError(self._native.peer_id, {self._native.target: reason})

    async def wait_lost(self) -> None:
        """Return when the connection is lost, or the peer is about to end it."""
        await self.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

    def retired(self) -> None:
        """It gets no more calls; if that is because its connection is lost, the route has to know."""
        if not self._is_connected:
            self._native.lost()


async def wait_connected(session: Session) -> None:
    """Return when a session's channel is connected, as it is by its first call, and that has had its turn."""
    while (state := session.channel.get_state()) is not grpc.ChannelConnectivity.READY:
        await session.channel.wait_for_state_change(state)
    await asyncio.sleep(FIRST_CALL_S)
