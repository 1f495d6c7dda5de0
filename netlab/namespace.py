"""One network namespace: making it, running things inside, removing it."""

import fcntl
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO, ParamSpec, TypeAlias, TypeVar

from netlab import netns
from netlab.commands import ip
from netlab.errors import CallStillRunningError, CommandError, StrayProcessError
from netlab.names import LabId
from netlab.processes import kill_all_in, stop, wait_until_empty
from netlab.sysctl import set_sysctls

P = ParamSpec("P")
T = TypeVar("T")
Stream: TypeAlias = IO[bytes] | int | None

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
STOP_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class Namespace:
    """A network stack of its own, named so that `ip netns exec` finds it.

    Threads enter it one by one: a socket belongs to the namespace of the thread that made it, for good, and a
    child process to that of the thread that started it.

    Attributes:
        name: The machine's name in its lab.
        netns: The namespace's name on this computer.
    """

    def __init__(self, lab: LabId, name: str, *, ipv6: bool = True) -> None:
        self.name = name
        self.netns = lab.namespace(name)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._calls: dict[threading.Thread, str] = {}
        self._path = netns.add(self.netns)
        self.call(_prepare, ipv6)

    def ip(self, *lines: str) -> None:
        """Run `ip` commands inside."""
        ip(lines, self.netns)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread inside and return its result, or raise its error.

        Sockets made there stay inside, and may be used from any thread afterwards. A call that never returns
        blocks its caller, and is an error when the lab closes.
        """
        outcome: Future[T] = Future()

        def inside() -> None:
            try:
                netns.enter(self._path)
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                outcome.set_exception(error)

        thread = threading.Thread(target=inside, name=self.netns)
        self._calls[thread] = getattr(function, "__qualname__", repr(function))
        try:
            thread.start()
            result = outcome.result()
            thread.join()
        finally:
            if not thread.is_alive():
                self._calls.pop(thread, None)
        return result

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        """A new socket that lives inside, wherever it is used."""
        return self.call(socket.socket, family, kind)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside, in a session of its own; it is stopped, with its children, at the end."""
        process: subprocess.Popen[bytes] = self.call(
            subprocess.Popen,
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str = "",
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> str:
        """Run a program inside to its end and return what it printed.

        Raises:
            CommandError: It failed.
            subprocess.TimeoutExpired: It took longer than ``timeout`` seconds, and was stopped.
        """
        pipe = subprocess.PIPE
        process = self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=cwd)
        try:
            stdout, stderr = process.communicate(stdin.encode(), timeout)
        finally:
            stop([process], grace=0.0)
            _close_streams(process)
            self._processes.remove(process)
        if process.returncode != 0:
            raise CommandError([str(part) for part in argv], process.returncode, stderr.decode())
        return stdout.decode()

    def close(self) -> None:
        """Stop what runs inside and remove the namespace with its interfaces.

        Raises:
            StrayProcessError: A process was left that `popen` had not started; it is killed, and all is
                removed nevertheless.
            CallStillRunningError: A `call` has not returned; the namespace goes with its last socket.
        """
        deadline = time.monotonic() + STOP_GRACE
        stop(self._processes, STOP_GRACE)
        for process in self._processes:
            _close_streams(process)
        wait_until_empty(self._path, deadline)  # a group's leader may end before its children do
        strays = kill_all_in(self._path)
        netns.remove(self._path)
        if strays:
            raise StrayProcessError(self.name, strays)
        if self._calls:
            raise CallStillRunningError(self.name, list(self._calls.values()))


def _prepare(ipv6: bool) -> None:
    settings = {
        "ipv6/conf/default/disable_ipv6": 0 if ipv6 else 1,
        "ipv6/conf/default/accept_dad": 0,  # addresses are of use at once
        "ipv6/conf/default/accept_ra": 0,
        "ipv4/tcp_no_metrics_save": 1,  # one run's congestion must not slow the next
    }
    set_sysctls(settings)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def _close_streams(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):  # what was written last, and is not wanted any more
                stream.close()
