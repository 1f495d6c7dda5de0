"""The search for providers: goes on while a fetch runs, harder while it has none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from lattica.content.ports import ContentRouting
from lattica.errors import NetworkError
from lattica.identity import PeerId

logger = logging.getLogger(__name__)

SEARCH_PAUSE_S = 20.0
"""Seconds between two searches while the fetch has a provider."""
URGENT_PAUSE_S = 1.0
"""The same while it has none."""
SEARCH_S = 30.0
"""Seconds after which a search that has not ended is given up for the next one."""
MAX_CANDIDATES = 64
"""Peers that one fetch tries at most: whoever answers for the DHT can name as many as it likes."""


class ProviderSearch:
    """Looks for providers of a key, again and again.

    Attributes:
        failure: Why the latest search failed; empty if it did not, or has not yet.
        somebody: Set when the first provider is found.
    """

    def __init__(self, routing: ContentRouting, key: bytes) -> None:
        self.failure = ""
        self.somebody = asyncio.Event()
        self._routing = routing
        self._key = key
        self._found: dict[PeerId, None] = {}
        self._queue: asyncio.Queue[PeerId] = asyncio.Queue()
        self._urgent = asyncio.Event()
        self._urgent.set()

    async def run(self) -> None:
        """Search until cancelled."""
        while True:
            self.failure = ""
            try:
                async with asyncio.timeout(SEARCH_S):
                    await self._search()
            except TimeoutError:
                logger.debug("provider search not complete")
            except NetworkError as error:
                self.failure = str(error)
                logger.info("provider search failed reason=%s", error)
            await asyncio.sleep(URGENT_PAUSE_S)
            try:
                async with asyncio.timeout(SEARCH_PAUSE_S):
                    await self._urgent.wait()
            except TimeoutError:
                continue

    def set_urgent(self, is_urgent: bool) -> None:
        """Say whether the fetch lacks a provider."""
        if is_urgent:
            self._urgent.set()
        else:
            self._urgent.clear()

    async def next_peer(self) -> PeerId:
        """The next provider found. One that is found again in a later search comes again."""
        return await self._queue.get()

    def repeat(self) -> None:
        """Have `next_peer` return every provider found so far once more."""
        while not self._queue.empty():
            self._queue.get_nowait()
        for peer in self._found:
            self._queue.put_nowait(peer)

    async def _search(self) -> None:
        peers = self._routing.find_providers(self._key)
        try:
            async for peer in peers:
                if len(self._found) < MAX_CANDIDATES or peer in self._found:
                    self._found[peer] = None
                    self._queue.put_nowait(peer)
                    self.somebody.set()
        finally:
            if isinstance(peers, AsyncGenerator):
                await peers.aclose()
