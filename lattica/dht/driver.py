"""Running a lookup over the network: the machine decides, this sends and waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from lattica.dht.limits import LOOKUP_TIMEOUT, STALL_TIMEOUT
from lattica.dht.lookup import Lookup, Query
from lattica.dht.messages import Message
from lattica.dht.peer_info import PeerInfo
from lattica.errors import NetworkError

Ask = Callable[[PeerInfo], Awaitable[Message]]
"""Sends a lookup's request to a peer and returns the response; raises `NetworkError`."""


def ignore_response(_peer: PeerInfo, _response: Message) -> None:
    """The default for `on_response`: only the peers that the lookup finds are of interest."""


class LookupDriver:
    """Runs one `Lookup` to its end.

    Args:
        lookup: The machine; nothing else may drive it.
        ask: How to ask one peer.
        on_response: Called with every response; it may call ``lookup.stop()``.
    """

    def __init__(
        self, lookup: Lookup, ask: Ask, on_response: Callable[[PeerInfo, Message], None] = ignore_response
    ) -> None:
        self._lookup = lookup
        self._ask = ask
        self._on_response = on_response
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> bool:
        """Return when the lookup is done; ``False`` if it took `LOOKUP_TIMEOUT` and was stopped with what it had.

        Cancellation cancels the requests under way.
        """
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT), asyncio.TaskGroup() as tasks:
                self._start(self._lookup.start(), tasks)
        except TimeoutError:
            self._lookup.stop()
            return False
        return True

    def _start(self, queries: Iterable[Query], tasks: asyncio.TaskGroup) -> None:
        if self._lookup.done:
            for task in self._under_way:
                task.cancel()
            return
        for query in queries:
            task = tasks.create_task(self._query(query.peer, tasks))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _query(self, peer: PeerInfo, tasks: asyncio.TaskGroup) -> None:
        def stalled() -> None:
            self._start(self._lookup.timeout(peer.peer_id), tasks)

        stall = asyncio.get_running_loop().call_later(STALL_TIMEOUT, stalled)
        try:
            response = await self._ask(peer)
        except NetworkError as error:
            following = self._lookup.failure(peer.peer_id, str(error))
        else:
            following = self._lookup.response(peer.peer_id, response.closer_peers)
            self._on_response(peer, response)
        finally:
            stall.cancel()
        self._start(following, tasks)
