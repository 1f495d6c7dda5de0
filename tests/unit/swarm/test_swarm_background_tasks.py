"""Background tasks live as long as their block, and the block's own error comes out as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from lattica.background import background_tasks


class ServiceError(Exception):
    """An error that a caller of a service would catch."""


async def forever(log: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        log.append("ended")


async def serve(*coroutines: Coroutine[object, object, None], error: Exception | None = None) -> None:
    """A block with these tasks behind it that raises ``error``, or waits for ever."""
    async with background_tasks() as tasks:
        for coroutine in coroutines:
            tasks.start(coroutine)
        await asyncio.sleep(0)
        if error is not None:
            raise error
        await asyncio.Event().wait()


async def test_tasks_are_cancelled_and_awaited_when_the_block_ends() -> None:
    log: list[str] = []
    async with background_tasks() as tasks:
        tasks.start(forever(log))
        await asyncio.sleep(0)
        log.append("block")
    assert log == ["block", "ended"]


async def test_the_blocks_own_error_is_not_wrapped() -> None:
    log: list[str] = []
    with pytest.raises(ServiceError, match="mine"):
        await serve(forever(log), error=ServiceError("mine"))
    assert log == ["ended"]


async def test_a_failing_task_cancels_the_block_and_comes_out_in_a_group() -> None:
    async def fail() -> None:
        raise ServiceError("task")

    with pytest.raises(ExceptionGroup) as caught:
        await serve(fail())
    assert caught.group_contains(ServiceError, match="task")


async def test_when_both_fail_neither_error_is_lost() -> None:
    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ServiceError("task")

    with pytest.raises(ExceptionGroup) as caught:
        await serve(fail_at_the_end(), error=ServiceError("block"))
    assert caught.group_contains(ServiceError, match="task")
    assert str(caught.value.__cause__) == "block"


async def test_cancellation_passes_through() -> None:
    log: list[str] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(serve(forever(log)), 0.01)
    assert log == ["ended"]


async def test_a_finished_task_does_not_end_the_block() -> None:
    async def quick() -> int:
        return 7

    async with background_tasks() as tasks:
        assert await tasks.start(quick(), name="quick") == 7
        await asyncio.sleep(0)


async def test_a_task_started_too_late_is_refused_without_a_warning() -> None:
    """Warnings are errors in this suite: a coroutine that nobody awaits would fail the test."""
    log: list[str] = []
    async with background_tasks() as tasks:
        pass
    with pytest.raises(RuntimeError):
        tasks.start(forever(log))
    assert log == []
