from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = [sys.executable, "-u", str(Path(__file__).parents[3] / "examples" / "shared_document.py")]


def test_two_nodes_end_with_the_same_document() -> None:
    printed = subprocess.run(EXAMPLE, check=True, capture_output=True, text=True, timeout=50).stdout
    ann, ben = (re.search(rf"{name}: 60 steps, results of (.*)", printed) for name in ("ann", "ben"))
    assert ann is not None
    assert ben is not None
    assert ann[1] == ben[1]
    assert sorted(ann[1].split()) == ["ann"] * 3 + ["ben"] * 3
    assert "the same notes: True" in printed
    assert "ben is told: we have no right to write here" in printed


@pytest.mark.slow
def test_two_shells_share_a_document() -> None:
    create = subprocess.Popen([*EXAMPLE, "create"], stdout=subprocess.PIPE, text=True)
    assert create.stdout is not None
    arguments = create.stdout.readline().split()[2:]
    join = subprocess.Popen([*EXAMPLE, *arguments], stdout=subprocess.PIPE, text=True)
    for line in create.stdout:
        if line.endswith("-> 60 steps\n"):
            break
    for process in (join, create):
        process.terminate()
        process.communicate(timeout=20)
    assert "60" in line
