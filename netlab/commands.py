"""Commands of the system, with their failures as errors."""

import subprocess
from collections.abc import Iterable, Sequence

from netlab.errors import CommandError

COMMAND_TIMEOUT = 30.0  # seconds; they take milliseconds, but a loaded machine may swap


def command(argv: Sequence[str], stdin: str = "") -> str:
    """What the command printed.

    Raises:
        CommandError: It failed.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr, stdin)
    return done.stdout


def ip(lines: Iterable[str], namespace: str | None = None) -> None:
    """Run several `ip` commands in one process; the first that fails ends it."""
    inside = [] if namespace is None else ["-n", namespace]
    command(["ip", *inside, "-batch", "-"], "\n".join(lines) + "\n")
