"""Calls in threads that are held up until the test lets them go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120.0


class Gate:
    """Holds up a function that runs in a thread, the first time that it is called, until it is opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, *args: Any) -> Any:
        self._reached.set()
        assert self._opened.wait(PATIENCE_S)
        return self._function(*args)

    async def wait_reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def open(self) -> None:
        self._opened.set()
