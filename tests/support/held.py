"""What this process holds, so that a test can tell what it has left."""

from __future__ import annotations

import asyncio
import threading

from descriptors import descriptors, opened_since


class Held:
    """Threads, open files and tasks as of now. What others held then, they may let go meanwhile."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._files = descriptors()
        self._tasks = asyncio.all_tasks()

    def since(self) -> list[str]:
        """What has come since, and is still there."""
        threads = set(threading.enumerate()) - self._threads
        tasks = asyncio.all_tasks() - self._tasks
        return [*(one.name for one in threads), *map(repr, tasks), *opened_since(self._files)]
