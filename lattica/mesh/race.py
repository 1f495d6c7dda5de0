"""Several attempts at one thing, a little apart; the first success wins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from lattica.background import background_tasks

T = TypeVar("T")


async def race(
    attempts: Sequence[Callable[[], Awaitable[T | None]]],
    *,
    stagger: float | Sequence[float],
    discard: Callable[[T], None],
) -> T | None:
    """The first result that is not ``None``; ``None`` if every attempt gave that.

    The next attempt starts ``stagger`` seconds after the one before it (a sequence: that many after each one), or as
    soon as one has failed. Losers are cancelled; a result that comes too late goes to ``discard``, and so does the
    winner if the caller is cancelled.
    """
    results: list[T] = []
    settled = asyncio.Event()

    async def run(attempt: Callable[[], Awaitable[T | None]]) -> None:
        result = await attempt()
        if result is not None:
            results.append(result)
        settled.set()

    running: list[asyncio.Task[None]] = []
    try:
        async with background_tasks() as tasks:
            for number, attempt in enumerate(attempts):
                settled.clear()
                running.append(tasks.start(run(attempt)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(stagger[number] if isinstance(stagger, Sequence) else stagger):
                        await settled.wait()
                if results:
                    break
            while not results and not all(task.done() for task in running):
                settled.clear()
                await settled.wait()
    except BaseException:
        for result in results:
            discard(result)
        raise
    for late in results[1:]:
        discard(late)
    return results[0] if results else None
