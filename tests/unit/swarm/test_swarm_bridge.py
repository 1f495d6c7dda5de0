"""The crossing between asyncio and trio: results, errors and cancellation, both ways, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from lattica.errors import PeerUnreachableError, StreamError
from lattica.swarm.bridge import TrioThread, open_trio_thread


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Flag:
    """Set in either world, awaited in asyncio."""

    def __init__(self, thread: TrioThread) -> None:
        self._thread = thread
        self._event = asyncio.Event()

    def set_from_trio(self) -> None:
        self._thread.post(self._event.set)

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        async with asyncio.timeout(20):
            await self._event.wait()


async def test_a_call_runs_in_the_trio_thread_and_returns_its_result() -> None:
    async def where(greeting: str, number: int) -> tuple[str, int, str]:
        await trio.lowlevel.checkpoint()
        return greeting, number, threading.current_thread().name

    async with open_trio_thread() as thread:
        assert await thread.call(where, "hello", 7) == ("hello", 7, "lattica-swarm")


async def test_an_exception_crosses_to_asyncio_with_its_data() -> None:
    async def fail() -> None:
        raise PeerUnreachableError("somebody", {"here": "closed"})

    async with open_trio_thread() as thread:
        with pytest.raises(PeerUnreachableError) as caught:
            await thread.call(fail)
        assert caught.value.attempts == {"here": "closed"}
        await thread.call(trio.lowlevel.checkpoint)  # and the loop goes on


async def test_cancelling_a_caller_cancels_the_trio_side() -> None:
    async with open_trio_thread() as thread:
        running, cancelled = Flag(thread), Flag(thread)

        async def wait() -> None:
            running.set_from_trio()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.set_from_trio()
                raise

        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(thread.call(wait))
            await running.wait()
            call.cancel()
        assert call.cancelled()
        await cancelled.wait()


async def test_a_deadline_of_the_caller_is_a_timeout_and_nothing_else() -> None:
    async with open_trio_thread() as thread:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await thread.call(trio.sleep_forever)


async def test_a_result_that_nobody_waits_for_any_more_is_discarded_in_asyncio() -> None:
    async with open_trio_thread() as thread:
        running, discarded = Flag(thread), Flag(thread)
        results: list[tuple[str, int]] = []

        async def finish_anyway() -> str:
            running.set_from_trio()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
            return "socket"

        def discard(result: str) -> None:
            results.append((result, threading.get_ident()))
            discarded.set()

        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(thread.call(finish_anyway, discard=discard))
            await running.wait()
            call.cancel()
        await discarded.wait()
        assert results == [("socket", threading.get_ident())]


async def test_an_ask_runs_in_asyncio_and_returns_its_result() -> None:
    async with open_trio_thread() as thread:

        async def double(number: int) -> tuple[int, int]:
            await asyncio.sleep(0)
            return 2 * number, threading.get_ident()

        assert await thread.call(thread.ask, double, 4) == (8, threading.get_ident())


async def test_an_exception_crosses_to_trio() -> None:
    async with open_trio_thread() as thread:

        async def fail() -> None:
            raise KeyError("no such thing")

        async def ask() -> str:
            try:
                await thread.ask(fail)
            except KeyError as error:
                return f"caught {error} in {threading.current_thread().name}"
            return "nothing"

        assert await thread.call(ask) == "caught 'no such thing' in lattica-swarm"


async def test_cancelling_the_trio_side_cancels_the_asyncio_side() -> None:
    async with open_trio_thread() as thread:
        cancelled = Flag(thread)

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def ask() -> bool:
            with trio.move_on_after(0.02) as scope:
                await thread.ask(wait)
            return scope.cancelled_caught

        assert await thread.call(ask)
        await cancelled.wait()


async def test_cancelling_through_both_worlds() -> None:
    """asyncio calls trio, which asks asyncio: a cancellation at the top reaches the bottom."""
    async with open_trio_thread() as thread:
        running, cancelled = Flag(thread), Flag(thread)

        async def bottom() -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with asyncio.TaskGroup() as tasks:
            top = tasks.create_task(thread.call(thread.ask, bottom))
            await running.wait()
            top.cancel()
        await cancelled.wait()


async def test_an_asked_function_that_is_cancelled_by_itself_is_an_error_in_trio() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async with open_trio_thread() as thread:
        with pytest.raises(StreamError):
            await thread.call(thread.ask, give_up)


async def test_a_spawned_function_runs() -> None:
    async with open_trio_thread() as thread:
        ran = Flag(thread)

        async def run() -> None:
            ran.set_from_trio()

        thread.spawn(run)
        await ran.wait()


async def test_calls_in_flight_when_the_loop_stops_raise() -> None:
    async with asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as stack:
        thread = await stack.enter_async_context(open_trio_thread())
        running = Flag(thread)

        async def wait() -> None:
            running.set_from_trio()
            await trio.sleep_forever()

        call = tasks.create_task(expect_stream_error(thread.call(wait)))
        await running.wait()
        await stack.aclose()
        await call


async def expect_stream_error(call: object) -> None:
    with pytest.raises(StreamError):
        await call  # type: ignore[misc]


async def test_everything_after_the_stop_raises_or_does_nothing() -> None:
    async with open_trio_thread() as thread:
        pass
    await expect_stream_error(thread.call(trio.sleep, 0))
    thread.spawn(trio.sleep_forever)
    thread.post(print)


async def test_calls_that_race_with_the_stop_end(caplog: pytest.LogCaptureFixture) -> None:
    """Between the nursery's end and the loop's there is a moment in which trio takes no new task."""

    async def call_until_stopped(thread: TrioThread) -> None:
        with contextlib.suppress(StreamError):
            while True:
                await thread.call(trio.lowlevel.checkpoint)

    async def call_every_turn(thread: TrioThread) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(200):
                tasks.create_task(call_until_stopped(thread))
                await asyncio.sleep(0)

    for _ in range(10):
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks, open_trio_thread() as thread:
            tasks.create_task(call_every_turn(thread))
            for _ in range(50):
                await asyncio.sleep(0)
    assert not caplog.records


async def test_the_blocks_own_error_is_not_wrapped() -> None:
    async def block() -> None:
        async with open_trio_thread() as thread:
            await thread.call(trio.lowlevel.checkpoint)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_a_trio_loop_that_dies_ends_the_block_with_its_reason() -> None:
    """A node must not live on without its control plane."""

    async def crash() -> None:
        raise ZeroDivisionError("a bug")

    async def block() -> None:
        async with asyncio.timeout(20), open_trio_thread() as thread:
            thread.spawn(crash)
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert caught.group_contains(ZeroDivisionError, match="a bug")


@pytest.mark.parametrize("turns", range(6))
async def test_cancelling_the_start_leaves_no_thread(turns: int) -> None:
    """At whatever turn of the loop the cancellation comes."""

    async def start() -> None:
        async with open_trio_thread():
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()


async def test_cancelling_the_stop_leaves_no_thread() -> None:
    """Here trio needs a while to stop; the caller's patience ends before that."""

    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)

    async with asyncio.TaskGroup() as tasks:
        running = asyncio.Event()

        async def run() -> None:
            async with open_trio_thread() as thread:
                thread.spawn(stubborn)
                await thread.call(trio.sleep, 0.01)
                running.set()
                await asyncio.Event().wait()

        task = tasks.create_task(run())
        await running.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
    assert task.cancelled()


async def test_two_threads_do_not_mix() -> None:
    @contextlib.asynccontextmanager
    async def token() -> AsyncIterator[tuple[TrioThread, object]]:
        async def current() -> object:
            return trio.lowlevel.current_trio_token()

        async with open_trio_thread() as thread:
            yield thread, await thread.call(current)

    async with token() as (first, one), token() as (second, other):
        assert first is not second
        assert one is not other
