from __future__ import annotations

import asyncio

import pytest

from lattica.dht.testing import in_virtual_time, run_in_virtual_time


def test_two_days_pass_at_once_and_in_order() -> None:
    async def scenario() -> list[float]:
        loop, woken = asyncio.get_running_loop(), []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(loop.time())

        async with asyncio.TaskGroup() as tasks:
            for seconds in (48 * 3600.0, 1.0, 3600.0):
                tasks.create_task(sleeper(seconds))
        return woken

    assert run_in_virtual_time(scenario()) == pytest.approx([1.0, 3600.0, 48 * 3600.0])


def test_timeouts_are_virtual_too() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1000):
                await loop.create_future()
        return loop.time()

    assert run_in_virtual_time(scenario()) == pytest.approx(1000)


def test_waiting_for_what_never_happens_is_an_error_instead_of_a_hang() -> None:
    async def scenario() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run_in_virtual_time(scenario())


@pytest.mark.parametrize("seconds", [1, 100_000])
@in_virtual_time
async def test_the_decorator_keeps_parameters_and_fixtures(seconds: float, request: pytest.FixtureRequest) -> None:
    await asyncio.sleep(seconds)
    assert asyncio.get_running_loop().time() == pytest.approx(seconds)
    assert request.node.name.startswith("test_the_decorator")
