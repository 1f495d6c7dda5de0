"""The client process of `benchmarks.rpc`, for systems with an asyncio face: makes the load, and measures.

It reads tasks from standard input, a line of JSON each, and answers each with a line: ``{"values": [...]}``, or
``{"error": "..."}``. At the end of its input it ends.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeAlias

from benchmarks.rpc_cases import MIB, Task

CALL_LIMIT_S = 30.0
"""Seconds after which a call has failed, on every system."""
WARM_UP = 0.2
"""Share of a measurement's seconds that the same load is made before it."""


class Client(Protocol):
    """The calls that are measured, on one system."""

    async def echo(self, data: bytes, /) -> bytes:
        """The same bytes."""

    async def nap(self, seconds: float, /) -> None:
        """Return after so many seconds, which the handler sleeps."""

    async def upload(self, items: AsyncIterator[bytes], /) -> int:
        """Bytes that have arrived in all."""

    def download(self, items: int, /) -> AsyncIterator[bytes]:
        """So many items of 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """What was measured.

    Attributes:
        name: What is added to the case's name; empty for its first value.
        unit: Of the value.
        value: It.
        failed: Calls, or items, that failed meanwhile.
        reason: How the first of them did.
    """

    name: str = ""
    unit: str
    value: float
    failed: int = 0
    reason: str | None = None


Measure: TypeAlias = Callable[[Task], Awaitable[list[Value]]]


@dataclass(slots=True)
class Load:
    """What a number of callers, each of which calls again as soon as it is answered, have seen.

    Attributes:
        latencies: Seconds of each call that was answered.
        failed: How many were not.
        reason: Why the first of these was not.
        elapsed: Seconds to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    reason: str | None = None
    elapsed: float = 0.0

    async def call_until(self, deadline: float, call: Callable[[], Awaitable[bool]]) -> None:
        """One caller; ``call`` says whether the answer is right."""
        while (started := time.perf_counter()) < deadline:
            try:
                right = await call()
            except Exception as error:  # noqa: BLE001 - any failure counts, whatever it is
                self.fail(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0)  # one that fails at once must not keep the others from running
                continue
            if right:
                self.latencies.append(time.perf_counter() - started)
            else:
                self.fail("a wrong answer")

    def fail(self, reason: str) -> None:
        """Count a call that failed."""
        self.failed += 1
        self.reason = self.reason or reason

    def value(self, unit: str, value: float, name: str = "") -> Value:
        """A value of this load."""
        return Value(name=name, unit=unit, value=value, failed=self.failed, reason=self.reason)

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which this share of the calls was answered."""
        ordered = sorted(self.latencies)
        if not ordered:
            raise RuntimeError(f"no call was answered; {self.reason}")
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def make_load(client: Client, size: int, in_flight: int, seconds: float) -> Load:
    """Echo so many bytes with so many callers for so many seconds."""
    payload, load = b"x" * size, Load()

    async def call() -> bool:
        return await client.echo(payload) == payload

    started = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(load.call_until(started + seconds, call))
    load.elapsed = time.perf_counter() - started
    return load


def measures(client: Client) -> dict[str, Measure]:
    """The kinds of task that every system knows."""

    async def warm_load(task: Task) -> Load:
        await make_load(client, task.size, task.in_flight, task.seconds * WARM_UP)
        return await make_load(client, task.size, task.in_flight, task.seconds)

    async def rate(task: Task) -> list[Value]:
        load = await warm_load(task)
        return [load.value("calls/s", len(load.latencies) / load.elapsed)]

    async def latency(task: Task) -> list[Value]:
        load = await warm_load(task)
        return [load.value("us", 1e6 * statistics.median(load.latencies))]

    async def upload(task: Task) -> list[Value]:
        started = time.perf_counter()
        arrived = await client.upload(_items(task.items))
        return _stream(arrived, task.items, time.perf_counter() - started)

    async def download(task: Task) -> list[Value]:
        arrived, started = 0, time.perf_counter()
        async for item in client.download(task.items):
            arrived += len(item)
        return _stream(arrived, task.items, time.perf_counter() - started)

    async def crowd(task: Task) -> list[Value]:
        return await _crowd(client, task)

    return {"rate": rate, "latency": latency, "upload": upload, "download": download, "crowd": crowd}


async def _crowd(client: Client, task: Task) -> list[Value]:
    await make_load(client, task.size, task.in_flight, task.seconds * WARM_UP)
    alone = await make_load(client, task.size, task.in_flight, task.seconds)
    sleeping = Load()

    async def nap() -> bool:
        await client.nap(task.sleep_s)
        return True

    async def sleeper(number: int, deadline: float) -> None:
        # Evenly over one sleep: otherwise all of them would come back, and call again, at one moment.
        await asyncio.sleep(task.sleep_s * number / task.sleepers)
        await sleeping.call_until(deadline, nap)

    async with asyncio.TaskGroup() as sleepers:
        deadline = time.perf_counter() + task.sleep_s + task.seconds
        for number in range(task.sleepers):
            sleepers.create_task(sleeper(number, deadline))
        await asyncio.sleep(task.sleep_s)
        among = await make_load(client, task.size, task.in_flight, task.seconds)
    p99 = among.percentile_ms(0.99)
    return [
        among.value("ms", p99, ": p99"),
        alone.value("ms", alone.percentile_ms(0.99), ": p99 without them"),
        among.value("times", p99 / alone.percentile_ms(0.99), ": p99 grows by"),
        among.value("ms", among.percentile_ms(0.5), ": p50"),
        alone.value("ms", alone.percentile_ms(0.5), ": p50 without them"),
        sleeping.value("s", sleeping.percentile_ms(0.5) / 1000, ": p50 of the sleepers"),
    ]


async def _items(count: int) -> AsyncIterator[bytes]:
    block = bytes(MIB)
    for _ in range(count):
        yield block


def _stream(arrived: int, items: int, seconds: float) -> list[Value]:
    lost = items - arrived // MIB
    reason = f"{arrived:,} bytes of {items * MIB:,} arrived" if lost else None
    return [Value(unit="MB/s", value=arrived / 1e6 / seconds, failed=lost, reason=reason)]


async def work(known: Mapping[str, Measure]) -> None:
    """Say that we are ready, then do one task after the other."""
    say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = Task(**json.loads(line))
        try:
            values = await known[task.kind](task)
        except Exception as error:  # noqa: BLE001 - the other process has to know, whatever it is
            say({"error": f"{type(error).__name__}: {error}"})
        else:
            say({"values": [asdict(value) for value in values]})


def say(message: Mapping[str, object]) -> None:
    """Print one line of JSON."""
    print(json.dumps(message), flush=True)


async def wait_for_end_of_input() -> None:
    """Return when whoever started this process has closed its input, or is gone."""
    while await asyncio.to_thread(sys.stdin.readline):
        pass
