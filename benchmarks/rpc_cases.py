"""What `benchmarks.rpc` measures: its cases, at full length and quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20
ALL = ("lattica", "grpc", "original")
ROUND_TRIPS_MS = (50, 150)
"""Milliseconds: within a region, and from continent to continent."""
SETUP_LIMIT_S = 60.0
"""Seconds that a measurement may take beyond what it is meant to; then its processes are killed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a client process is asked to do; one line of JSON.

    Attributes:
        kind: ``rate``, ``named`` (a rate of calls by name), ``latency``, ``upload``, ``download``, ``tensor`` or
            ``crowd``.
        size: Bytes of a call's argument.
        in_flight: Calls under way at once.
        seconds: For how long.
        items: Of a stream, 1 MiB each.
        sleepers: Callers of a handler that sleeps.
        sleep_s: How long it does, in seconds.
    """

    kind: str
    size: int = 0
    in_flight: int = 1
    seconds: float = 0.0
    items: int = 0
    sleepers: int = 0
    sleep_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        name: For the table.
        unit: Of its first value.
        task: What the clients do.
        systems: Those that can do it.
        round_trip_ms: Of the network between the two processes; 0 is loopback.
        limit_s: Seconds after which it has failed.
        fresh: Whether it needs processes that have done nothing yet.
    """

    name: str
    unit: str
    task: Task
    systems: Sequence[str] = ALL
    round_trip_ms: int = 0
    limit_s: float = SETUP_LIMIT_S
    fresh: bool = False


def all_cases(*, quick: bool) -> list[Case]:
    """Those on loopback, then those with longer round trips."""
    return [*_loopback_cases(quick), *(case for ms in ROUND_TRIPS_MS for case in _echo_cases(quick, ms))]


def _echo_cases(quick: bool, round_trip_ms: int) -> list[Case]:
    seconds = 0.5 if quick else 3.0
    if round_trip_ms:
        seconds *= 2  # TCP has to find its pace
    place = f"{round_trip_ms} ms away: " if round_trip_ms else ""

    def echo(name: str, unit: str, task: Task) -> Case:
        limit_s = SETUP_LIMIT_S + 2 * task.seconds
        return Case(name=f"{place}{name}", unit=unit, task=task, round_trip_ms=round_trip_ms, limit_s=limit_s)

    return [
        *(
            echo(
                f"unary {label}, {in_flight:,} in flight",
                "calls/s",
                Task(kind="rate", size=size, in_flight=in_flight, seconds=seconds),
            )
            for label, size, in_flight in (("128 B", 128, 100), ("128 B", 128, 1000), ("256 KiB", 256 << 10, 100))
        ),
        echo("unary 128 B, one at a time", "us", Task(kind="latency", size=128, seconds=seconds)),
    ]


def _loopback_cases(quick: bool) -> list[Case]:
    items = 64 if quick else 512
    tensor_mib = 64 if quick else 1024
    sleepers = 500 if quick else 10_000
    sleep_s = 1.0 if quick else 5.0
    crowd = Task(kind="crowd", size=128, in_flight=100, seconds=2 * sleep_s, sleepers=sleepers, sleep_s=sleep_s)
    return [
        *_echo_cases(quick, 0),
        Case(
            name="unary 128 B by name, 100 in flight",
            unit="calls/s",
            task=Task(kind="named", size=128, in_flight=100, seconds=0.5 if quick else 3.0),
            systems=("lattica",),
        ),
        Case(name=f"request stream {items} MiB", unit="MB/s", task=Task(kind="upload", items=items)),
        Case(name=f"response stream {items} MiB", unit="MB/s", task=Task(kind="download", items=items)),
        Case(
            name=f"torch tensor of {tensor_mib} MiB as an argument",
            unit="MB/s",
            task=Task(kind="tensor", size=tensor_mib * MIB),
            systems=("lattica",),
            fresh=True,
        ),
        Case(
            name=f"100 beside {sleepers:,} asleep",
            unit="ms",
            task=crowd,
            systems=("lattica", "grpc"),
            limit_s=SETUP_LIMIT_S + 8 * sleep_s,
        ),
    ]
