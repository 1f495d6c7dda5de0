"""The `lattica` command in tests: in this process (fast), or as a process of its own (to be killed)."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from lattica.cli import main

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0


class Command:
    """Runs `lattica` with a home of its own, in this process."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, ["--home", str(self.home), *arguments], env=env)

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run it, expect success; the last line of JSON."""
        result = self("--json", *arguments)
        assert result.exit_code == 0, result.output
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer


class NodeProcess:
    """A `lattica` process that serves until it is stopped; its first line of JSON is `up`."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        command = [sys.executable, "-m", "lattica", "--json", "--home", str(home), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{command} did not start: {self.process.communicate()[1]}")
        self.up: dict[str, Any] = json.loads(line)
        self.address: str = self.up["addresses"][0]
        self.peer_id: str = self.up["peer_id"]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=STOP_TIMEOUT_S)
        if self.process.poll() is None:
            self.kill()
            raise AssertionError(f"the node did not stop within {STOP_TIMEOUT_S} s")
        return self.process.returncode


def wait_until(condition: Callable[[], bool], what: str, timeout: float = START_TIMEOUT_S) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout} s")
        time.sleep(0.005)
