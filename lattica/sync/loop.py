"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from lattica.errors import ForkedError, UsageError

T = TypeVar("T")
T2 = TypeVar("T2")

_END = object()
_forked_with_node = False
_open_loops = 0


def _after_fork() -> None:
    """In the child of a process that had a node: gRPC's threads are gone and cannot come back."""
    global _forked_with_node
    _forked_with_node = _forked_with_node or _open_loops > 0


os.register_at_fork(after_in_child=_after_fork)


class LoopThread(Generic[T]):
    """Keeps an asynchronous context open in a thread, and runs coroutines there for any other thread.

    Attributes:
        value: What the context yields.
    """

    value: T

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        global _open_loops
        if _forked_with_node:
            raise ForkedError("this process was forked from one in which a node was open")
        self._pid = os.getpid()
        self._context = context
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._ending: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._main, name="lattica-sync")
        _open_loops += 1
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self.close()
            raise

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that opens or closes
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        async with self._context as self.value:
            self._ready.set_result(None)
            await self._closing.wait()
            for task in self._ending:
                task.cancel()

    @property
    def is_current(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    def cancel_when_closing(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the loop before the context closes, not after; from the loop's thread."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def run(self, coroutine: Coroutine[Any, Any, T2]) -> T2:
        """The coroutine's result, from any thread but the loop's; an interrupt cancels it and is raised.

        Raises:
            ForkedError: This is another process than the one that opened it.
            UsageError: It is closed, or this is the loop's own thread.
        """
        return self.wait(self.start(coroutine))

    def start(self, coroutine: Coroutine[Any, Any, T2]) -> concurrent.futures.Future[T2]:
        """Begin a coroutine, whose result `wait` returns; otherwise as `run`."""
        try:
            loop = self._usable()
        except UsageError:
            coroutine.close()
            raise
        context = contextvars.copy_context()
        future: concurrent.futures.Future[T2] = concurrent.futures.Future()
        loop.call_soon_threadsafe(_start, coroutine, future, context)
        return future

    def wait(self, future: concurrent.futures.Future[T2]) -> T2:
        """The result of what was started; an interrupt cancels that and is raised."""
        try:
            return future.result()
        except BaseException:
            self.cancel(future)
            raise

    def cancel(self, future: concurrent.futures.Future[Any]) -> None:
        """Cancel what was started, unless it has ended."""
        if not future.done() and self._loop is not None:
            self._loop.call_soon_threadsafe(_cancel, future)

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Have the loop call a function; raises as `run`."""
        self._usable().call_soon_threadsafe(callback, *args)

    def iterate(self, items: AsyncIterator[T2]) -> Iterator[T2]:
        """The items, one by one; closing the iterator closes the stream."""
        return self._iterate(items, None)

    def watch(self, items: AsyncIterator[T2]) -> Iterator[T2]:
        """As `iterate`, but the stream has begun when this returns."""
        first = self.start(_take(items))
        self.run(asyncio.sleep(0))  # the first step of `first` came before
        return self._iterate(items, first)

    def _iterate(self, items: AsyncIterator[T2], first: concurrent.futures.Future[Any] | None) -> Iterator[T2]:
        async def close() -> None:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            item = self.run(_take(items)) if first is None else self.wait(first)
            while item is not _END:
                yield item
                item = self.run(_take(items))
        finally:
            with contextlib.suppress(UsageError):  # the node is closed, and with it the stream
                self.run(close())

    def _usable(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._pid:
            raise ForkedError("the node was opened by the process that this one was forked from")
        if self._loop is None or not self._thread.is_alive() or (self._closing is not None and self._closing.is_set()):
            raise UsageError("the node is closed")
        if threading.current_thread() is self._thread:
            raise UsageError("a synchronous call in the node's own event loop would wait for itself; use `async def`")
        return self._loop

    def close(self) -> None:
        """Close the context, and wait for the thread's end; nothing in a forked child."""
        global _open_loops
        if os.getpid() != self._pid:
            return
        if self._loop is not None and self._closing is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        _open_loops = max(0, _open_loops - 1)


async def _take(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


_tasks: dict[concurrent.futures.Future[Any], asyncio.Task[Any]] = {}


def _start(
    coroutine: Coroutine[Any, Any, Any], future: concurrent.futures.Future[Any], context: contextvars.Context
) -> None:
    task = asyncio.get_running_loop().create_task(coroutine, context=context)
    _tasks[future] = task

    def done(task: asyncio.Task[Any]) -> None:
        _tasks.pop(future, None)
        if future.cancelled() or not future.set_running_or_notify_cancel():
            return
        if task.cancelled():
            future.set_exception(UsageError("the node was closed while the call was under way"))
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    task.add_done_callback(done)


def _cancel(future: concurrent.futures.Future[Any]) -> None:
    task = _tasks.get(future)
    if task is not None:
        task.cancel()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
