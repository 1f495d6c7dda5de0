"""Tasks that serve while a block of code runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)
T = TypeVar("T")


class Background:
    """Starts tasks that end with the block of `background_tasks`."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run ``coroutine`` until it ends or the block does. If it raises, the block is cancelled and raises too."""
        try:
            task = self._group.create_task(coroutine, name=name)
        except RuntimeError:  # the block is ending
            coroutine.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start_unless_ending(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
        """As `start`, for what is not worth doing any more when the block is ending: then ``None``."""
        try:
            return self.start(coroutine)
        except RuntimeError:
            return None

    def cancel_all(self) -> None:
        """Cancel every task that still runs."""
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def background_tasks() -> AsyncIterator[Background]:
    """A task group whose tasks are cancelled and awaited when the block ends.

    Unlike with `asyncio.TaskGroup`, an exception of the block itself comes out as it is, not in a group: callers
    of a service catch the service's errors, whatever runs behind it. A task that fails raises an `ExceptionGroup`.
    """
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            background = Background(group)
            try:
                yield background
            except Exception as error:  # noqa: BLE001 - raised again below, outside the group
                failure = error
            finally:
                background.cancel_all()
    except BaseExceptionGroup as errors:
        raise errors from failure
    if failure is not None:
        raise failure


async def outlast(future: asyncio.Future[T]) -> T:
    """The future's result. Cancellation takes effect only when the future is done."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # nobody asks for it any more
        raise cancelled
    return future.result()


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` and wait until it has ended; an exception of its own is left to whoever asks for its result."""
    task.cancel()
    await asyncio.wait([task])


def first_leaf(group: ExceptionGroup[E]) -> E:
    """The first exception in a group that is no group itself."""
    error = group.exceptions[0]
    return first_leaf(error) if isinstance(error, ExceptionGroup) else error
