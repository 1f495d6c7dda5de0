"""Threads in which a server runs the methods of services that are plain functions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

logger = logging.getLogger(__name__)

SYNC_THREADS = 32
"""Calls of plain functions that run at one time; others wait. Threads of their own: in asyncio's a slow service would
hold up disk work."""
MAX_WAITING = 1024
"""Calls of plain functions that wait for a thread; while there are so many, further ones are refused. Calls that came
before that, and whose request comes later, wait too."""
STOP_TIMEOUT_S = 1.0
"""Seconds, after the server has stopped, for functions that still run; they cannot be interrupted."""


class SyncThreads(ThreadPoolExecutor):
    """A thread pool that knows what runs.

    Attributes:
        running: What runs, and what waits for a thread.
    """

    def __init__(self) -> None:
        super().__init__(SYNC_THREADS, thread_name_prefix="lattica-rpc-sync")
        self.running: set[Future[Any]] = set()

    @property
    def is_full(self) -> bool:
        """Whether no more calls should be taken for now."""
        return len(self.running) >= SYNC_THREADS + MAX_WAITING

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`."""
        future = super().submit(fn, *args, **kwargs)
        self.running.add(future)
        future.add_done_callback(self.running.discard)
        return future


@contextlib.asynccontextmanager
async def sync_threads() -> AsyncIterator[SyncThreads]:
    """Threads that end with the block, unless a function in one of them does not return."""
    threads = SyncThreads()
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while threads.running:
                    await asyncio.sleep(0.01)
        if threads.running:
            logger.warning("node closes while functions of its services run in threads count=%d", len(threads.running))
        else:
            threads.shutdown(wait=True)
