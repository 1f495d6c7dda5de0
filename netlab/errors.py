"""What can go wrong in a lab, with the data and what to do about it."""

from collections.abc import Sequence


class LabError(Exception):
    """Any failure of the lab itself, as opposed to the program under test."""


class LabUnavailableError(LabError):
    """This machine cannot run a lab."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no lab on this machine: {self.reason}"


class CommandError(LabError):
    """A command of the system (`ip`, `nft`, `tc`) or a program run on a host failed."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str, stdin: str = "") -> None:
        super().__init__(argv, returncode, stderr, stdin)
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        self.stdin = stdin

    def __str__(self) -> str:
        fed = f"\nits input was:\n{self.stdin}" if self.stdin else ""
        return f"`{' '.join(self.argv)}` ended with {self.returncode}: {self.stderr.strip()}{fed}"


class StrayProcessError(LabError):
    """Processes were still alive in a namespace after those the lab had started were told to stop."""

    def __init__(self, machine: str, processes: Sequence[tuple[int, str]]) -> None:
        super().__init__(machine, processes)
        self.machine = machine
        self.processes = tuple(processes)

    def __str__(self) -> str:
        listed = "; ".join(f"{pid}: {command}" for pid, command in self.processes)
        return f"{self.machine} left processes behind, now killed: {listed}; stop what you start"


class CallStillRunningError(LabError):
    """A function given to `call` was still running in the namespace when the lab closed."""

    def __init__(self, machine: str, calls: Sequence[str]) -> None:
        super().__init__(machine, calls)
        self.machine = machine
        self.calls = tuple(calls)

    def __str__(self) -> str:
        return f"{self.machine} is still running {', '.join(self.calls)}; end your calls before the lab"
