"""What the allocator does with freed memory; each in a process of its own, for the settings are the process's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from lattica.node.allocator import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
held = [bytes(1 << 20) for _ in range(4)]
del held
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    held = [bytes(b"x") * (1 << 20) for _ in range(4)]
    del held
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 100 * 4 * 256


def run(argument: str, **environment: str) -> tuple[str, int]:
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return printed[0], int(printed[1])


def test_messages_reuse_the_memory_of_those_before() -> None:
    assert run("leave")[1] > PAGES / 2
    kept, faults = run("keep")
    assert kept == "True"
    assert faults < PAGES / 20


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_the_environment_says_stays(name: str) -> None:
    assert run("keep", **{name: "131072"})[0] == "False"
