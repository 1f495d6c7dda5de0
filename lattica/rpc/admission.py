"""How many calls may be unanswered at once, and who is next when there is room for another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Admission:
    """Calls to one peer, within a number and a size; lanes take turns at waiting for room.

    Each call that ends lets in as many as there is room for then, and wakes no others. The size may be exceeded by one
    call.

    Args:
        max_calls: Calls at once.
        max_bytes: Bytes of their arguments.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._calls = 0
        self._bytes = 0
        self._waiting: dict[Hashable, deque[tuple[asyncio.Future[None], int]]] = {}

    def enter_nowait(self, size: int) -> bool:
        """Take the place of a call with arguments of ``size`` bytes; false if it has to `wait_entered`."""
        if self._calls >= self._max_calls or self._bytes >= self._max_bytes:
            return False
        self._calls += 1
        self._bytes += size
        return True

    async def wait_entered(self, lane: Hashable, size: int) -> None:
        """Take a place when it is this lane's turn; if cancelled, none is taken."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append((entered, size))
        try:
            await entered
        except asyncio.CancelledError:
            if entered.done() and not entered.cancelled():
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        """Give the place up, for who is next."""
        self._calls -= 1
        self._bytes -= size
        while self._waiting and self._calls < self._max_calls and self._bytes < self._max_bytes:
            self._let_in()

    def _let_in(self) -> None:
        lane = next(iter(self._waiting))
        queue = self._waiting.pop(lane)
        entered, size = queue.popleft()
        if not entered.done():  # its caller has gone
            self._calls += 1
            self._bytes += size
            entered.set_result(None)
        if queue:
            self._waiting[lane] = queue  # behind the others
