"""Keeping the routing table full and alive, and the provider records fresh, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from lattica.dht.limits import (
    ALPHA,
    MAX_PENDING_CHECKS,
    MIN_REFRESH_INTERVAL,
    PROVIDER_SWEEP_INTERVAL,
    REFRESH_INTERVAL,
    K,
)
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, MessageType
from lattica.dht.peer_info import PeerInfo
from lattica.dht.requester import Requester
from lattica.errors import NetworkError

log = logging.getLogger(__name__)


class Upkeep:
    """The periodic work of a node: refreshes, liveness checks and sweeps.

    Args:
        look_up: Runs a lookup for the peers nearest to some bytes.
    """

    def __init__(
        self,
        machine: KadMachine,
        requester: Requester,
        *,
        look_up: Callable[[bytes], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._requester = requester
        self._look_up = look_up
        self._clock = clock
        self._first_peer = asyncio.Event()
        self._checks: asyncio.Queue[PeerInfo] = asyncio.Queue(MAX_PENDING_CHECKS)
        self._checking: set[PeerInfo] = set()

    def loops(self) -> list[Coroutine[None, None, None]]:
        """What is to run, each in a task of its own, until cancelled."""
        return [self._keep_refreshing(), self._keep_sweeping(), *(self._keep_checking() for _ in range(ALPHA))]

    def first_peer(self) -> None:
        """Refresh now: the table was empty and is not any longer."""
        self._first_peer.set()

    def check(self, peer: PeerInfo) -> None:
        """Find out soon whether a contact is alive; does nothing if too many wait already."""
        if peer not in self._checking and not self._checks.full():
            self._checking.add(peer)
            self._checks.put_nowait(peer)

    async def refresh(self) -> None:
        """Look ourselves up, and something in each bucket that was not used for long."""
        for target in self._machine.refresh_targets(self._clock()):
            await self._look_up(target)

    async def _keep_refreshing(self) -> None:
        """Often while the table is short, since nodes that join together learn of each other late; then seldom."""
        pause = MIN_REFRESH_INTERVAL
        while True:
            if await self._first_peer_within(pause):
                pause = MIN_REFRESH_INTERVAL
            await self.refresh()
            for peer in self._machine.due_checks(self._clock()):
                self.check(peer)
            pause = min(2 * pause, REFRESH_INTERVAL) if len(self._machine.table) < K else REFRESH_INTERVAL

    async def _first_peer_within(self, pause: float) -> bool:
        try:
            async with asyncio.timeout(pause):
                await self._first_peer.wait()
        except TimeoutError:
            return False
        self._first_peer.clear()
        return True

    async def _keep_checking(self) -> None:
        while True:
            peer = await self._checks.get()
            try:
                await self._requester.ask(peer, self._ping())
            except NetworkError as error:
                log.debug("dht contact failed its check peer=%s reason=%s", peer.peer_id, error)
            finally:
                self._checking.discard(peer)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(PROVIDER_SWEEP_INTERVAL)
            dropped = self._machine.providers.expire(self._clock())
            log.debug("dht swept provider records dropped=%d left=%d", dropped, len(self._machine.providers))

    def _ping(self) -> Message:
        """A small request that any server answers. The spec forbids sending PING; go asks for a node, too."""
        return Message(type=MessageType.FIND_NODE, key=self._machine.local.raw)
