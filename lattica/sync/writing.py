"""A transaction that a thread writes in: one task of the node's loop, to which all is brought that the thread does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar

from lattica.errors import UsageError
from lattica.store import Document
from lattica.sync.loop import LoopThread

T = TypeVar("T")

_CLOSED = "the node was closed while the transaction was open; nothing of it was written"


class _AbandonedError(Exception):
    """The thread's block has raised."""


class Writing:
    """One transaction. For one thread, which calls `begin`, `run` any number of times, and then `end` or `abandon`."""

    def __init__(self, loop: LoopThread[Any], document: Document) -> None:
        self._loop = loop
        self._document = document
        self._jobs: asyncio.Queue[_Job | _Last] = asyncio.Queue()
        self._begun: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended = False
        self._task: concurrent.futures.Future[None] | None = None

    def begin(self) -> None:
        """Wait until no one else writes; raises what `Document.transaction` does."""
        self._task = self._loop.start(self._serve())
        try:
            self._begun.result()
        except BaseException:
            self._loop.cancel(self._task)
            raise

    def run(self, operation: Callable[[], T]) -> T:
        """Run a function in the transaction."""
        job = _Job(operation)
        self._loop.call_soon(self._submit, job)
        result: T = job.done.result()
        return result

    def end(self) -> None:
        """Have what was written become durable; raises what `Document.transaction` does."""
        if self._task is not None:
            self._loop.call_soon(self._jobs.put_nowait, _Last.END)
            self._loop.wait(self._task)

    def abandon(self) -> None:
        """Write nothing."""
        with contextlib.suppress(UsageError, _AbandonedError):  # a node that is closed has abandoned it
            self._loop.call_soon(self._jobs.put_nowait, _Last.ABANDON)
            if self._task is not None:
                self._loop.wait(self._task)

    # in the loop

    def _submit(self, job: _Job) -> None:
        if self._ended:
            job.done.set_exception(UsageError(_CLOSED))
        else:
            self._jobs.put_nowait(job)

    async def _serve(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._loop.cancel_when_closing(task)
        try:
            async with self._document.transaction():
                self._begun.set_result(None)
                await self._work()
        except BaseException as error:
            if not self._begun.done():
                cancelled = isinstance(error, asyncio.CancelledError)
                self._begun.set_exception(UsageError(_CLOSED) if cancelled else error)
            raise
        finally:
            self._ended = True
            while not self._jobs.empty():
                if isinstance(job := self._jobs.get_nowait(), _Job):
                    job.done.set_exception(UsageError(_CLOSED))

    async def _work(self) -> None:
        while isinstance(job := await self._jobs.get(), _Job):
            job.run()
        if job is _Last.ABANDON:
            raise _AbandonedError


class _Last(Enum):
    """What comes after all jobs."""

    END = auto()
    ABANDON = auto()


class _Job:
    """A function that is to be called in the transaction."""

    def __init__(self, operation: Callable[[], Any]) -> None:
        self.done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._operation = operation

    def run(self) -> None:
        try:
            self.done.set_result(self._operation())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            self.done.set_exception(error)
