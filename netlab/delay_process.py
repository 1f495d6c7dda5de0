"""The process that runs a `delay_line`, seen from the lab."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from netlab.errors import LabError
from netlab.namespace import Namespace
from netlab.shape import Shape

TAP_QUEUE = 10_000  # frames; the kernel drops what a busy delay line has not read
CLOSE_TIMEOUT = 10.0  # seconds from the end of its input to its own


class DelayProcess:
    """Carries frames between two TAP devices, which it makes in the namespace and takes with it."""

    def __init__(self, namespace: Namespace, taps: tuple[str, str]) -> None:
        self._taps = taps
        self._process = namespace.popen(
            [sys.executable, "-m", "netlab.delay_line", *taps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise LabError(f"the delay line {taps} did not start (is there /dev/net/tun?); see its errors on stderr")
        namespace.ip(*(f"link set {tap} up txqueuelen {TAP_QUEUE}" for tap in taps))

    def reshape(self, shape: Shape) -> None:
        """Delay and lose frames like this from now on; its rate is not this process's affair."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(shape)).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it; frames on their way are lost.

        Raises:
            LabError: It has failed, now or before.
        """
        self._process.communicate(timeout=CLOSE_TIMEOUT)
        if (code := self._process.returncode) != 0:
            raise LabError(f"the delay line {self._taps} ended with {code}; see its errors on stderr")
