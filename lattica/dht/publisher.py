"""Storing provider records at the peers nearest to their keys, now and again later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress

from lattica.dht.limits import ADDRESS_CHECK_INTERVAL, PUBLISH_CONCURRENCY
from lattica.dht.machine import KadMachine
from lattica.dht.messages import Message, MessageType
from lattica.dht.peer_info import PeerInfo
from lattica.dht.requester import Requester
from lattica.errors import NetworkError

log = logging.getLogger(__name__)


class Publisher:
    """Keeps our provider records in the network, as `Publications` schedules it.

    Args:
        find_closest: Looks up the peers nearest to a key.
    """

    def __init__(
        self,
        machine: KadMachine,
        requester: Requester,
        *,
        find_closest: Callable[[bytes], Awaitable[list[PeerInfo]]],
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._requester = requester
        self._find_closest = find_closest
        self._clock = clock
        self._wake = asyncio.Event()
        self._published_as = machine.local_info()

    def wake(self) -> None:
        """Look at the schedule again: it may have changed."""
        self._wake.set()

    async def publish(self, key: bytes) -> int:
        """Store our record for `key` at the nearest peers; returns how many took it.

        On cancellation the key stays provided and is stored in the background.
        """
        try:
            return await self._publish(key)
        finally:
            self.wake()

    def loops(self) -> list[Coroutine[None, None, None]]:
        """What is to run, each in a task of its own, until cancelled."""
        return [self._keep_watching(), *(self._keep_publishing() for _ in range(PUBLISH_CONCURRENCY))]

    async def _keep_publishing(self) -> None:
        while True:
            pause = None
            if upcoming := self._machine.publications.upcoming():
                due, key = upcoming
                pause = due - self._clock()
                if pause <= 0:
                    await self._publish(key)
                    continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _keep_watching(self) -> None:
        """Publish anew when our addresses have changed; see to keys that are due because the table has grown."""
        while True:
            await asyncio.sleep(ADDRESS_CHECK_INTERVAL)
            current = self._machine.local_info()
            if current != self._published_as:
                self._published_as = current
                self._machine.publications.addresses_changed(self._clock())
            upcoming = self._machine.publications.upcoming()
            if upcoming and upcoming[0] <= self._clock():
                self.wake()

    async def _publish(self, key: bytes) -> int:
        publications = self._machine.publications
        publications.begin(key, table_size=len(self._machine.table))
        try:
            peers = await self._find_closest(key)
            async with asyncio.TaskGroup() as tasks:
                sending = [tasks.create_task(self._store(key, peer)) for peer in peers]
            accepted = sum(task.result() for task in sending)
            publications.finished(key, accepted=accepted, now=self._clock())
        finally:
            publications.interrupted(key, self._clock())
        log.debug("dht stored provider records key=%s accepted=%d", key.hex(), accepted)
        return accepted

    async def _store(self, key: bytes, peer: PeerInfo) -> bool:
        record = Message(type=MessageType.ADD_PROVIDER, key=key, provider_peers=(self._machine.local_info(),))
        try:
            await self._requester.tell(peer, record)
        except NetworkError as error:
            log.debug("dht peer did not take a provider record peer=%s reason=%s", peer.peer_id, error)
            return False
        return True
