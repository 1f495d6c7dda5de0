"""Blocking work in threads, without leaving any behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_to_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a thread and return what it does.

    Cancellation waits for the function to end before it takes effect: no thread works on a file that its owner closes.
    """
    work = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _wait_done(work)
        raise


async def _wait_done(work: asyncio.Future[T]) -> None:
    """Wait for a future, however often this task is cancelled meanwhile; its outcome is nobody's any more."""
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue
    if not work.cancelled():
        work.exception()
