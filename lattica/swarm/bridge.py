"""The one crossing between asyncio, where Lattica runs, and trio, where libp2p runs.

A `TrioThread` is a trio event loop in a thread of its own. `TrioThread.call` runs a trio function from asyncio and
`TrioThread.ask` an asyncio function from trio. A hop costs under a millisecond, which suits control traffic only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from lattica.background import Background, background_tasks
from lattica.errors import StreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_CLOSED = "the node is closing"


class TrioThread:
    """A running trio loop; made by `open_trio_thread`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: Background) -> None:
        self._loop = loop
        self._tasks = tasks
        self._started: asyncio.Future[None] = loop.create_future()
        self._finished: asyncio.Future[BaseException | None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="lattica-swarm")
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None
        self.nursery: trio.Nursery

    async def call(
        self,
        function: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """Run ``function(*args)`` in trio and return its result or raise its exception.

        Cancelling the caller cancels the trio side. If its result was made all the same, it goes to ``discard``
        (called in the asyncio thread).

        Raises:
            StreamError: The trio loop has stopped.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        scope = trio.CancelScope()

        async def run() -> None:
            report = partial(_set_exception, outcome, StreamError(_CLOSED))
            try:
                with scope:
                    report = partial(_set_result, outcome, await function(*args))
            except Exception as error:  # noqa: BLE001 - belongs to the caller, in the other thread
                report = partial(_set_exception, outcome, error)
            finally:
                self.post(report)

        def start() -> None:
            try:
                self.nursery.start_soon(run)
            except RuntimeError:  # the nursery has ended, and the loop is about to
                self.post(_set_exception, outcome, StreamError(_CLOSED))

        self._in_trio(start)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            outcome.add_done_callback(lambda done: _dispose(done, discard))
            with contextlib.suppress(StreamError):
                self._in_trio(scope.cancel)
            raise

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """From asyncio: run ``function`` in trio some time, if the loop still runs; it must not raise."""

        def start() -> None:
            with contextlib.suppress(RuntimeError):  # as in `call`
                self.nursery.start_soon(function)

        with contextlib.suppress(StreamError):
            self._in_trio(start)

    async def ask(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """From trio: run ``function(*args)`` in asyncio and return its result or raise its exception."""
        done = trio.Event()
        results: list[T] = []
        errors: list[BaseException] = []
        running: list[asyncio.Task[None]] = []

        async def run() -> None:
            try:
                results.append(await function(*args))
            except asyncio.CancelledError:
                errors.append(StreamError(_CLOSED))
                raise
            except Exception as error:  # noqa: BLE001 - belongs to the caller, in the other thread
                errors.append(error)
            finally:
                with contextlib.suppress(StreamError):
                    self._in_trio(done.set)

        def start() -> None:
            try:
                running.append(self._tasks.start(run()))
            except RuntimeError:  # the block that the tasks belong to is ending
                errors.append(StreamError(_CLOSED))
                with contextlib.suppress(StreamError):
                    self._in_trio(done.set)

        self.post(start)
        try:
            await done.wait()
        except trio.Cancelled:
            self.post(lambda: [task.cancel() for task in running])
            raise
        if errors:
            raise errors[0]
        return results[0]

    def post(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """From trio: call ``function(*args)`` soon in the asyncio thread; lost if that loop is closed."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)

    def _in_trio(self, function: Callable[[], object]) -> None:
        if self._token is None:
            raise StreamError("the swarm thread is not running")
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError as error:
            raise StreamError(_CLOSED) from error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            trio.run(self._main)
        except BaseException as caught:  # noqa: BLE001 - reported by whoever closes the thread
            error = caught
        self.post(_set_result, self._finished, error)
        self.post(_set_exception, self._started, StreamError(f"the swarm thread died: {error}"))

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self.post(_set_result, self._started, None)
            if not self._stopping:  # set before `stop` looks for the token
                await trio.sleep_forever()

    def start(self) -> None:
        """Start the thread; whoever does so has to await `stop`."""
        self._thread.start()

    async def wait_started(self) -> None:
        """Return when the trio loop runs."""
        await asyncio.shield(self._started)

    async def watch(self) -> None:
        """Return when the trio loop has ended; raise what ended it."""
        error = await asyncio.shield(self._finished)
        if error is not None:
            raise error

    async def stop(self) -> None:
        """Cancel everything in trio and wait for the thread to end, cancelled or not."""
        self._stopping = True
        if self._token is not None:
            with contextlib.suppress(StreamError):
                self._in_trio(self.nursery.cancel_scope.cancel)
        self._tasks.cancel_all()
        cancelled: asyncio.CancelledError | None = None
        while not self._finished.done():
            try:
                await asyncio.shield(self._finished)
            except asyncio.CancelledError as error:
                cancelled = error
        self._thread.join()
        if cancelled is not None:
            raise cancelled
        await self.watch()


@contextlib.asynccontextmanager
async def open_trio_thread() -> AsyncIterator[TrioThread]:
    """A trio loop in its own thread; at the end everything in it is cancelled and the thread is joined.

    If the loop dies before, the block is cancelled and an `ExceptionGroup` with the reason comes out.
    """
    async with background_tasks() as tasks:
        thread = TrioThread(asyncio.get_running_loop(), tasks)
        thread.start()
        try:
            await thread.wait_started()
            tasks.start(thread.watch(), name="watch lattica-swarm")
            yield thread
        finally:
            await thread.stop()


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may be gone


def _dispose(outcome: asyncio.Future[T], discard: Callable[[T], None] | None) -> None:
    if not outcome.cancelled() and outcome.exception() is None and discard is not None:
        discard(outcome.result())
