"""Names of namespaces that tell whose they are: ``netlab.<pid>.<start>.<lab>.<machine>``.

A process ID alone is used again some day; with the process's start time (clock ticks since boot) it is unique.
"""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import LabError

MACHINE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_NAMESPACE = re.compile(r"netlab\.(\d+)\.(\d+)\.(\d+)\.(.+)")
_labs_of_this_process = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LabId:
    """One lab of one process."""

    pid: int
    started: int
    number: int

    @classmethod
    def new(cls) -> "LabId":
        """The next one of this process."""
        pid = os.getpid()
        started = start_time(pid)
        if started is None:
            raise LabError("/proc does not show this process; mount it")
        return cls(pid, started, next(_labs_of_this_process))

    @classmethod
    def parse(cls, namespace: str) -> "LabId | None":
        """Whose namespace this is, or ``None`` if it is no lab's."""
        match = _NAMESPACE.fullmatch(namespace)
        return cls(*(int(part) for part in match.groups()[:3])) if match else None

    def namespace(self, machine: str) -> str:
        """The name of a machine's namespace on this computer."""
        return f"netlab.{self.pid}.{self.started}.{self.number}.{machine}"

    def alive(self) -> bool:
        """Whether the process that made the lab still runs."""
        return start_time(self.pid) == self.started


def check_machine_name(name: str) -> None:
    """Refuse a name that is not a DNS label in lower case."""
    if not MACHINE_NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name for a machine; use up to 40 of a-z, 0-9 and - between them")


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, or ``None`` if it has ended (or is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may hold spaces; fields count from after it (man 5 proc).
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else int(fields[18])
