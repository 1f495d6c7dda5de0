"""Blocking work and cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lattica.background import first_leaf
from lattica.content.transfer_threads import run_to_end


async def test_the_result_comes_back_from_another_thread() -> None:
    assert await run_to_end(threading.get_ident) != threading.get_ident()


async def test_errors_come_back_as_they_are() -> None:
    def fail(reason: str) -> None:
        raise OSError(reason)

    with pytest.raises(OSError, match="disk on fire"):
        await run_to_end(fail, reason="disk on fire")


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_cancellation_waits_for_the_thread_however_often_it_comes(cancellations: int) -> None:
    started, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        gate.wait(10)
        ended.set()
        raise OSError("nobody hears this")

    task = asyncio.ensure_future(run_to_end(work))
    await asyncio.to_thread(started.wait)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_the_first_leaf_of_nested_groups_is_found() -> None:
    error = ValueError("here")
    assert first_leaf(ExceptionGroup("", [ExceptionGroup("", [error, KeyError()]), KeyError()])) is error
