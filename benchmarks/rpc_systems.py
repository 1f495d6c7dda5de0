"""The processes of `benchmarks.rpc`: a server and a client of each system, on loopback or on hosts of the lab."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.rpc_cases import Case
from benchmarks.rpc_load import Value
from netlab import Host
from netlab.processes import stop

ROOT = Path(__file__).parent.parent
ORIGINAL_PYTHON = ROOT / ".bench-original" / "bin" / "python"
ORIGINAL = Path(__file__).parent / "original"
START_LIMIT_S = 40.0
"""Seconds for a server to serve, and for a client to have had an answer from it."""
STOP_GRACE_S = 5.0
"""Seconds to end by itself, as each does when its input ends."""
MAX_REASON = 300
"""Characters of a program's own words."""


class SystemFailedError(Exception):
    """A system did not do what was asked."""


class Place:
    """Where the two processes run: loopback, or two hosts of a lab."""

    def __init__(self, server: Host | None = None, client: Host | None = None) -> None:
        self._hosts = {"server": server, "client": client}

    def address(self, role: str) -> str:
        """The IP address of a process to be."""
        host = self._hosts[role]
        return "127.0.0.1" if host is None else str(host.ipv4)

    def start(self, role: str, argv: Sequence[str], errors: int) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own."""
        host, pipe = self._hosts[role], subprocess.PIPE
        env = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "false"}
        if host is not None:
            return host.popen(argv, stdin=pipe, stdout=pipe, stderr=errors, env=env, cwd=ROOT)
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=errors, env=env, cwd=ROOT, start_new_session=True)


class Child:
    """A process that speaks JSON, line by line, on its standard input and output.

    Attributes:
        pid: Its number.
    """

    def __init__(self, place: Place, role: str, argv: Sequence[str], log: Path) -> None:
        self._name = role
        self._log = log
        self._buffer = b""
        with log.open("wb") as errors:
            self._process = place.start(role, argv, errors.fileno())
        self.pid = self._process.pid

    def tell(self, message: Mapping[str, object]) -> None:
        """Write one line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise SystemFailedError(self._complaint()) from error

    def hear(self, limit_s: float) -> dict[str, Any]:
        """Read one line."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SystemFailedError(f"the {self._name} took more than {limit_s:.0f} s; it is killed")
            got = os.read(self._process.stdout.fileno(), 1 << 16)
            if not got:
                raise SystemFailedError(self._complaint())
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise SystemFailedError(f"the {self._name} said {line[:MAX_REASON]!r}") from error
        return message

    def stop(self, grace_s: float) -> None:
        """End it and whatever it has started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for stream in (self._process.stdin, self._process.stdout):
            try:
                stream.close()
            except OSError:  # what was written last, to a process that is gone
                continue
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            stop([self._process], grace=0.0)

    def _complaint(self) -> str:
        try:
            ending = f"ended with {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            ending = "has closed its output"
        lines = self._log.read_text(errors="replace").splitlines()
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"the {self._name} {ending}: {said[:MAX_REASON]}"


class System:
    """One system at one place; its processes start when they are needed, and again after they have failed."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self._place = place
        self._folder = tempfile.TemporaryDirectory(prefix="lattica-bench-", ignore_cleanup_errors=True)
        self._starts = 0
        self._broken: str | None = None
        self._server: Child | None = None
        self._client: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop(STOP_GRACE_S)
        self._folder.cleanup()

    def measure(self, case: Case) -> list[Value]:
        """Do the case's task.

        Raises:
            SystemFailedError: It failed, took too long, or the system does not even start.
        """
        if case.fresh:
            self._stop(STOP_GRACE_S)
        try:
            client = self._client or self.start()
            client.tell(asdict(case.task))
            answer = client.hear(case.limit_s)
        except BaseException:
            self._stop(0.0)
            raise
        if "error" in answer:
            raise SystemFailedError(str(answer["error"]))
        return [Value(**value) for value in answer["values"]]

    @property
    def pids(self) -> list[int]:
        """Of its processes that have been started."""
        return [child.pid for child in (self._server, self._client) if child is not None]

    def start(self) -> Child:
        """Start both processes, and return the client, which has had an answer from the server.

        Raises:
            SystemFailedError: They do not start; nor will they be tried again.
        """
        if self._broken is not None:
            raise SystemFailedError(self._broken)
        try:
            self._server = self._child("server")
            up = self._server.hear(START_LIMIT_S)
            client = self._child("client", json.dumps(up))
            self._client = client
            client.hear(START_LIMIT_S)
        except (SystemFailedError, OSError) as error:
            # It is not tried again: each case would cost as much time as this one did.
            self._broken = f"it does not start: {error}"
            raise SystemFailedError(self._broken) from error
        return client

    def _child(self, role: str, *up: str) -> Child:
        self._starts += 1
        folder = Path(self._folder.name) / f"{self._starts}-{role}"
        folder.mkdir()
        argv = _command(self.name, role, self._place.address(role), folder)
        return Child(self._place, role, [*argv, *up], folder / "log")

    def _stop(self, grace_s: float) -> None:
        for child in (self._client, self._server):
            if child is not None:
                child.stop(grace_s)
        self._client = self._server = None


def _command(system: str, role: str, host: str, folder: Path) -> list[str]:
    if system == "original":
        if not ORIGINAL_PYTHON.exists():
            raise SystemFailedError("it is not installed; `make bench-rpc` does that")
        # -I: what PYTHONPATH leads to is called `lattica` as well.
        return [str(ORIGINAL_PYTHON), "-I", str(ORIGINAL / f"{role}.py"), host, str(folder)]
    verb = {"server": "serve", "client": "call"}[role]
    return [sys.executable, "-m", f"benchmarks.rpc_{system}", verb, host]
