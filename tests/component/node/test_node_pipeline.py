from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_session_goes_on_at_another_replica() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "pipeline.py")],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout
    steps = re.findall(r"step \d: (\S+) \((\d) steps cached\) -> (\S+) \((\d) steps cached\)", printed)
    assert len(steps) == 6
    firsts, seconds = [step[0] for step in steps], [step[2] for step in steps]
    assert firsts[:3] == [firsts[0]] * 3
    assert firsts[3:] == [firsts[3]] * 3 != firsts[:3]
    assert seconds == [seconds[0]] * 6
    assert [int(step[1]) for step in steps] == [0, 1, 2, 0, 1, 2]
    assert [int(step[3]) for step in steps] == [0, 1, 2, 3, 4, 5]
