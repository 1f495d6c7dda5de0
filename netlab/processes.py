"""Processes inside network namespaces: finding them, and ending them for certain."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from netlab.errors import LabError

KILL_TIMEOUT = 10.0  # seconds from SIGKILL until a process is gone; a loaded machine needs some


def processes_in(namespace: Path) -> Iterator[int]:
    """Every process whose network namespace is the one mounted at this path."""
    wanted = namespace.stat()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _is_in(int(entry.name), wanted):
            yield int(entry.name)


def _is_in(pid: int, wanted: os.stat_result) -> bool:
    try:
        actual = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return False  # ended, or a zombie, which is in no namespace
    return (actual.st_dev, actual.st_ino) == (wanted.st_dev, wanted.st_ino)


def stop(processes: Iterable[subprocess.Popen[bytes]], grace: float) -> None:
    """Ask the processes' whole groups to end, then kill what is left after ``grace`` seconds.

    Each must lead a group of its own.
    """
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        _signal_group(process, signal.SIGTERM)
        _signal_group(process, signal.SIGCONT)  # a frozen one takes the other only when it thaws
    deadline = time.monotonic() + grace
    for process in alive:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
            continue
        _signal_group(process, signal.SIGKILL)
        process.wait(KILL_TIMEOUT)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # While its leader is not reaped a group cannot have become somebody else's.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def wait_until_empty(namespace: Path, deadline: float) -> None:
    """Wait for the processes in the namespace to end by themselves, until ``deadline`` (monotonic)."""
    while found := list(processes_in(namespace)):
        for pid in found:
            if not _wait_end(pid, deadline - time.monotonic()):
                return


def _wait_end(pid: int, timeout: float) -> bool:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            ended, _, _ = select.select([handle], [], [], max(0.0, timeout))
        finally:
            os.close(handle)
        return bool(ended)
    return True


def kill_all_in(namespace: Path) -> Sequence[tuple[int, str]]:
    """Kill every process in the namespace, and what these start meanwhile; returns (pid, command) of each."""
    killed: dict[int, str] = {}
    deadline = time.monotonic() + KILL_TIMEOUT
    while found := list(processes_in(namespace)):
        if time.monotonic() > deadline:
            raise LabError(f"processes {found} in {namespace.name} do not die; look at them with `ps`")
        for pid in found:
            killed.setdefault(pid, _command(pid))
            _kill(pid, namespace)
    return sorted(killed.items())


def _kill(pid: int, namespace: Path) -> None:
    """Kill a process of the namespace and wait for its end; never one that has come to bear its number."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _is_in(pid, namespace.stat()):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], KILL_TIMEOUT)
        finally:
            os.close(handle)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"
