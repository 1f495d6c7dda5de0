"""The plugin in a test suite that is not ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
from netlab import Nat

def test_with_a_lab(lab):
    assert lab.host("alice", nat=Nat.EIM_APDF).run(["echo", "hello"]) == "hello\\n"

@pytest.mark.netns
def test_marked():
    pass

def test_unrelated():
    pass
"""


def run_suite(folder: Path, *arguments: str, path: str | None = None) -> str:
    (folder / "conftest.py").write_text('pytest_plugins = ["netlab.pytest_plugin"]\n')
    (folder / "test_suite.py").write_text(SUITE)
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", "-rs", *arguments]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.netns
def test_the_fixture_gives_a_lab_and_marks_the_tests_that_use_it(tmp_path: Path) -> None:
    assert "2 passed, 1 deselected" in run_suite(tmp_path, "-m", "netns")


def test_without_the_programs_tests_are_skipped_and_say_why(tmp_path: Path) -> None:
    output = run_suite(tmp_path, path="/nonexistent")
    assert "1 passed, 2 skipped" in output
    assert "no netlab: " in output
    assert "install iproute2" in output or "not root" in output
