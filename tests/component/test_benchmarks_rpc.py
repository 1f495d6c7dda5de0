"""The benchmark of calls measures a system in processes of its own, and a system that fails costs only its rows."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rpc_systems
from benchmarks.report import Row
from benchmarks.rpc import run
from benchmarks.rpc_cases import Case, Task
from benchmarks.rpc_systems import Child, Place, SystemFailedError

RATE = Case(
    name="echo",
    unit="calls/s",
    task=Task(kind="rate", size=128, in_flight=10, seconds=0.2),
    systems=("grpc", "original"),
)
STREAM = Case(name="stream", unit="MB/s", task=Task(kind="download", items=4), systems=("grpc",))


def test_plain_grpc_is_measured_in_as_many_runs_as_there_are_rounds() -> None:
    rows = run([RATE, STREAM], ["grpc"], rounds=2)
    assert [(row.case, row.system, row.unit, row.runs, row.failed, row.reason) for row in rows] == [
        ("echo", "grpc", "calls/s", 2, 0, None),
        ("stream", "grpc", "MB/s", 2, 0, None),
    ]
    assert all(row.min is not None and row.median is not None and 0 < row.min <= row.median for row in rows)


def test_a_system_that_is_not_there_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rpc_systems, "ORIGINAL_PYTHON", tmp_path / "python")
    (row,) = run([RATE], ["original"], rounds=2)
    assert (row.runs, row.median) == (0, None)
    assert row.reason is not None
    assert "not installed" in row.reason


def test_what_takes_too_long_is_a_row_with_the_reason_and_its_processes_start_again() -> None:
    hanging = Case(name="nap", unit="s", task=Task(kind="rate", in_flight=1, seconds=600.0), limit_s=0.3)
    rows = run([hanging, RATE], ["grpc"], rounds=1)
    assert [(row.case, row.runs) for row in rows] == [("nap", 0), ("echo", 1)]
    assert "more than" in str(rows[0].reason)


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    child = Child(Place(), "server", [sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log")
    try:
        with pytest.raises(SystemFailedError, match="ended with 1: no such thing"):
            child.hear(30.0)
    finally:
        child.stop(0.0)


def test_rows_of_other_benchmarks_stay_as_they_were() -> None:
    assert set(Row.of("case", "tcp", "MB/s", [1.0, 3.0]).as_json()) == {
        "case",
        "system",
        "unit",
        "median",
        "min",
        "max",
        "runs",
    }


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_ending_the_benchmark_ends_what_it_started(how: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PROGRAM]
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # killed, it leaves its folder
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        # Handles, since numbers of processes are used again.
        handles = [os.pidfd_open(pid) for pid in pids]
        getattr(process, how)()
        process.wait(20.0)
    for handle in handles:
        _wait_end(handle)


PROGRAM = """
import time
from benchmarks.rpc import end_at_signal
from benchmarks.rpc_systems import Place, System
end_at_signal()
with System("grpc", Place()) as system:
    system.start()
    print(*system.pids, flush=True)
    time.sleep(600)
"""


def _wait_end(handle: int) -> None:
    try:
        ready, _, _ = select.select([handle], [], [], 20.0)
        assert ready
    finally:
        os.close(handle)
