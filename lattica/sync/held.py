"""An asynchronous context that a thread keeps open in the node's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from lattica.errors import UsageError
from lattica.sync.loop import LoopThread

T = TypeVar("T")


@contextlib.contextmanager
def held(loop: LoopThread[Any], make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What a context yields, while the block runs or until the node is closed; raises what entering and leaving do."""
    entered: concurrent.futures.Future[T] = concurrent.futures.Future()
    leave = asyncio.Event()
    task = loop.start(_keep(loop, make, entered, leave))
    try:
        value = entered.result()
    except BaseException:
        loop.cancel(task)
        raise
    try:
        yield value
    finally:
        with contextlib.suppress(UsageError):  # the node is closed, and has left it
            loop.call_soon(leave.set)
            loop.wait(task)


async def _keep(
    loop: LoopThread[Any],
    make: Callable[[], AbstractAsyncContextManager[T]],
    entered: concurrent.futures.Future[T],
    leave: asyncio.Event,
) -> None:
    task = asyncio.current_task()
    if task is not None:
        loop.cancel_when_closing(task)
    try:
        async with make() as value:
            entered.set_result(value)
            await leave.wait()
    except BaseException as error:
        if not entered.done():
            cancelled = isinstance(error, asyncio.CancelledError)
            entered.set_exception(UsageError("the node is closed") if cancelled else error)
        raise
