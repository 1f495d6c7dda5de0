"""Runs the methods of served services, within their limits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from lattica.errors import UsageError
from lattica.rpc.admission import Admission
from lattica.rpc.call_context import running_call
from lattica.rpc.exits import PASSING, contained
from lattica.rpc.service import MAX_ASYNC_CALLS, MAX_THREADED_CALLS, MethodSpec, ServiceSpec
from lattica.rpc.shares import Gate, PeerLoad

logger = logging.getLogger(__name__)

MAX_CALLS = 65_536
"""Calls of all peers that a node has under way; further ones are refused as busy."""

TURNS_PER_THREAD = 2
"""Calls that are with a thread, or next: peers take turns at that, and no thread waits for the event loop."""

_END = object()
T = TypeVar("T")


class ThreadStreams:
    """Streams of requests that functions in threads read, each item by the event loop."""

    def __init__(self) -> None:
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def iterator(self, stream: AsyncIterator[Any]) -> Iterator[Any]:
        """A stream for a function that runs in a thread."""
        loop = asyncio.get_running_loop()

        def iterate() -> Iterator[Any]:
            while (item := self._next(stream, loop)) is not _END:
                yield item

        return iterate()

    def _next(self, stream: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Any:
        async def take() -> Any:
            return await anext(stream, _END)

        future = asyncio.run_coroutine_threadsafe(take(), loop)
        self._waiting.add(future)
        if self._closed:
            future.cancel()
        try:
            return future.result()
        except CancelledError as error:
            raise RuntimeError("the stream has no end: the node is closing") from error
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Wait for no more items; who does gets a `RuntimeError`."""
        self._closed = True
        for future in list(self._waiting):
            future.cancel()


class Served:
    """One method of a served object.

    Attributes:
        spec: What it declares.
        is_unary: Whether nothing streams.
        gate: Limits how many calls are under way.
    """

    __slots__ = ("_function", "_streams", "_threads", "_turns", "gate", "is_unary", "spec")

    def __init__(
        self,
        spec: MethodSpec,
        function: Callable[..., Any],
        threads: Callable[[], ThreadPoolExecutor],
        streams: ThreadStreams,
        outer: Gate,
    ) -> None:
        self.spec = spec
        self._function = function
        self._threads = threads
        self._streams = streams
        self._turns = Admission(TURNS_PER_THREAD * spec.options.threads, max_bytes=1)
        self.is_unary = spec.is_unary
        limit = spec.options.concurrency or (MAX_ASYNC_CALLS if spec.is_async else MAX_THREADED_CALLS)
        self.gate = Gate(limit, outer)

    def bound(self, values: tuple[Any, ...], stream: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for the function from what `ArgsCodec` decoded and the stream of requests."""
        spec = self.spec
        if spec.streams_requests is None and not spec.keyword_only:
            return values, {}
        named = dict(zip(spec.names, values, strict=True))
        if spec.streams_requests is not None:
            named[spec.streams_requests] = stream if spec.is_async else self._streams.iterator(stream)
        args, kwargs = [], {}
        for parameter in spec.signature.parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = named[parameter.name]
            else:
                args.append(named[parameter.name])
        return tuple(args), kwargs

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The method's result; an ordinary one runs in a thread, and goes on there if this is cancelled.

        Of what it raises that would end a program, see `contained`.
        """
        if self.spec.is_async:
            try:
                return await self._function(*args, **kwargs)
            except PASSING:
                raise
            except BaseException as error:
                raise contained(error) from error
        context = contextvars.copy_context()
        return await self._in_thread(lambda: context.run(self._plain, args, kwargs))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Run it in a thread, when it is the caller's peer's turn."""
        loop, turns, call = asyncio.get_running_loop(), self._turns, running_call.get()
        if not turns.enter_nowait(0):
            await turns.wait_entered(None if call is None else call.peer, 0)

        def left(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(turns.leave, 0)

        future = self._threads().submit(function)
        future.add_done_callback(left)
        return await asyncio.wrap_future(future)

    def _plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an ordinary function. A future would never end with `StopIteration`: raise what coroutines do."""
        try:
            result = self._function(*args, **kwargs)
            return iter(result) if self.spec.streams_results else result
        except StopIteration as error:
            raise RuntimeError(f"{self.spec.path} raised StopIteration") from error
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise contained(error) from error

    def iterate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        """The method's results; closed when this is. Of what it raises, see `run`."""
        return self._iterate_async(args, kwargs) if self.spec.is_async else self._iterate_plain(args, kwargs)

    async def _iterate_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        try:
            results: AsyncIterator[Any] = self._function(*args, **kwargs)
            try:
                async for result in results:
                    yield result
            finally:
                if isinstance(results, AsyncGenerator):
                    await results.aclose()
        except PASSING:
            raise
        except BaseException as error:
            raise contained(error) from error

    async def _iterate_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        context = contextvars.copy_context()
        iterator: Iterator[Any] = await self._in_thread(lambda: context.run(self._plain, args, kwargs))
        try:
            while True:
                result = await self._in_thread(lambda: context.run(_following, iterator))
                if result is _END:
                    return
                yield result
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                with contextlib.suppress(ValueError, RuntimeError):  # it runs on in its thread: nothing can stop that
                    close()


def _following(iterator: Iterator[Any]) -> Any:
    """The next result, or `_END`; in a thread."""
    try:
        return next(iterator, _END)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise contained(error) from error


class Dispatcher:
    """All services that a node serves.

    Attributes:
        gate: Limits how many calls are under way.
        find: The method of a name, ``service/method``; ``None`` if there is none.
    """

    def __init__(self) -> None:
        self.gate = Gate(MAX_CALLS)
        self._methods: dict[str, Served] = {}
        self.find: Callable[[str], Served | None] = self._methods.get
        self._services: dict[str, list[Served]] = {}
        self._pools: list[ThreadPoolExecutor] = []
        self._streams = ThreadStreams()

    def add(self, spec: ServiceSpec, served: object) -> None:
        """Serve an object's methods.

        Raises:
            UsageError: A service of that name is served already.
        """
        if any(method.path in self._methods for method in spec.methods.values()):
            raise UsageError(f"a service {spec.name} is served already; give this one another name")
        methods = [
            Served(method, getattr(served, attribute), self._pool(method), self._streams, self.gate)
            for attribute, method in spec.methods.items()
        ]
        self._methods.update((method.spec.path, method) for method in methods)
        self._services[spec.name] = methods

    @property
    def running(self) -> int:
        """Calls of all peers that are under way."""
        return self.gate.running

    def busy(self, served: Served, load: PeerLoad, now: float) -> str | None:
        """Why a call of a peer has to be refused."""
        for gate, whose in ((served.gate, "calls of it"), (self.gate, "calls")):
            if (gate.running >= gate.limit or gate.wanted) and gate.refuses(load, now):
                if gate.running >= gate.limit:
                    return f"the peer has {gate.limit} {whose} under way"
                return f"{load.held.get(gate, 0)} of the {gate.limit} {whose} under way are yours, and others want some"
        return None

    def load(self, service: str) -> int:
        """Calls of a service that are under way."""
        return sum(method.gate.running for method in self._services.get(service, ()))

    def _pool(self, method: MethodSpec) -> Callable[[], ThreadPoolExecutor]:
        pool: ThreadPoolExecutor | None = None

        def made() -> ThreadPoolExecutor:
            nonlocal pool
            if pool is None:
                pool = ThreadPoolExecutor(method.options.threads, thread_name_prefix=f"lattica-{method.attribute}")
                self._pools.append(pool)
            return pool

        return made

    async def close(self) -> None:
        """Wait for the threads: what they run cannot be stopped, what waits for one is not begun."""
        self._streams.close()
        for pool in self._pools:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
