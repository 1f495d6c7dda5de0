"""Waits for what nobody announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return when ``condition`` holds; other tasks, threads or processes bring that about.

    Raises:
        TimeoutError: It does not within ``seconds``.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
