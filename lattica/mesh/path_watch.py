"""Looks after pipes that carry calls: one on which nothing arrives any more is replaced before its timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lattica.mesh.live_pipes import LivePipe, PipeTable
from lattica.mesh.tcp_info import tcp_info

LOOK_S = 0.5
"""Seconds between two looks; one costs a system call for each pipe."""
DROP_AFTER_S = 10.0
"""Seconds after which a stalled pipe is given up if a good one has taken its place: its calls fail, can be repeated.
An outage of five seconds ends before: TCP sends again after at most twice its length."""


class PathWatch:
    """Watches the pipes of a table that we opened.

    Args:
        table: The pipes.
        stalled: Called when nothing arrives any more on a pipe.
        recovered: Called when it does again.
    """

    def __init__(
        self, table: PipeTable, *, stalled: Callable[[LivePipe], None], recovered: Callable[[LivePipe], None]
    ) -> None:
        self._table = table
        self._stalled = stalled
        self._recovered = recovered
        self._since: dict[LivePipe, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        ours = [pipe for pipe in self._table.all() if pipe.path is not None and pipe.carrier is not None]
        for pipe in ours:
            info = tcp_info(pipe.carrier.far) if pipe.carrier is not None else None
            stalled = info is not None and info.is_stalled
            if stalled and not pipe.is_stalled:
                self._since[pipe] = now
                pipe.is_stalled = True
                self._stalled(pipe)
            elif pipe.is_stalled and not stalled:
                del self._since[pipe]
                pipe.is_stalled = False
                self._recovered(pipe)
        for pipe in self._since.keys() - set(ours):
            del self._since[pipe]
        for pipe, since in self._since.items():
            if now - since >= DROP_AFTER_S and self._has_successor(pipe):
                self._table.drop(pipe)

    def _has_successor(self, pipe: LivePipe) -> bool:
        return any(other.path is not None and not other.is_stalled for other in self._table.of(pipe.peer_id))
