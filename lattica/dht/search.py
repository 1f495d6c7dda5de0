"""What a search for providers has found so far, for somebody who reads it while it goes on."""

from __future__ import annotations

import asyncio

from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId


class ProviderSearch:
    """Hands on each provider once, as soon as it is known with an address; the others at the end.

    A record without addresses may be followed by one with; the reader can do more with that.

    Args:
        local: Ourselves; never handed on.
        limit: After so many providers the search is `full`.
    """

    def __init__(self, *, local: PeerId, limit: int) -> None:
        self._seen = {local}
        self._left = limit
        self._without_address: dict[PeerId, PeerInfo] = {}
        # Not bounded by itself: at most `limit` providers and the end are ever put into it.
        self._found: asyncio.Queue[PeerInfo | None] = asyncio.Queue()

    @property
    def full(self) -> bool:
        """Whether as many were found as were wanted."""
        return self._left == 0

    def add(self, provider: PeerInfo) -> None:
        """Note a provider that somebody named."""
        if provider.peer_id in self._seen:
            return
        if provider.addresses:
            self._without_address.pop(provider.peer_id, None)
            self._hand_on(provider)
        elif len(self._without_address) < self._left:
            self._without_address[provider.peer_id] = provider

    def finish(self) -> None:
        """Note that nothing more will be found."""
        for provider in self._without_address.values():
            self._hand_on(provider)
        self._found.put_nowait(None)

    async def next(self) -> PeerInfo | None:
        """The next provider, or ``None`` at the end."""
        return await self._found.get()

    def _hand_on(self, provider: PeerInfo) -> None:
        if self._left:
            self._left -= 1
            self._seen.add(provider.peer_id)
            self._found.put_nowait(provider)
