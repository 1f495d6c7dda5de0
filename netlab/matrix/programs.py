"""The programs under test, of which the lab knows only their command lines and the JSON that they print.

Templates are split into words as a shell does; then ``{fields}`` are filled in. What is in ``[brackets]`` with a field
is left out where that has no value, as for the relay, which has no relay itself.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import LabError
from netlab.host import Host

PORT = 4737
SCRIPTS = Path(__file__).parent.parent / "scripts"
POLL = 0.02  # seconds between two looks at what a program has printed
MAX_OUTPUT = 16 << 20  # bytes of standard output that are read; a program under test may run wild
MAX_REASON = 300  # characters of a program's own words
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Command lines of what is tested; by default the `lattica` command. All have the fields of `common_fields`.

    Attributes:
        node: Runs until SIGTERM; its first line of JSON has ``peer_id`` and ``addresses``. Fields: ``port``, ``relay``
            (an address of the relay's).
        status: Prints JSON with ``connections`` (a number) and ``addresses``; empty: a node is ready when it has
            printed its line.
        probe: Prints JSON with ``path`` and ``elapsed_s`` for each answer of the peer. It is stopped when enough is
            known, or ends with 0 by itself, or fails with a sentence on standard error. Field: ``peer`` (the called
            node's ``peer_id``).
        relayed: What is in an address that leads through the relay; a node that cannot be reached from outside
            is ready when it has one. Empty: it need not.
    """

    node: str = "env PYTHON={python} sh {scripts}/node.sh {home} {port} [{relay}]"
    status: str = "{python} -m lattica --json --home {home} status"
    probe: str = "{python} -m lattica --json --home {home} ping {peer} --count 200 --interval 0.1"
    relayed: str = "/p2p-circuit"

    def check(self) -> None:
        """Refuse what cannot be filled in; raises `LabError`."""
        for template, own in ((self.node, ("port", "relay")), (self.status, ()), (self.probe, ("peer",))):
            command_line(template, {**common_fields(Path()), **dict.fromkeys(own, "")})


def command_line(template: str, fields: Mapping[str, str]) -> list[str]:
    """The words of a command.

    Raises:
        LabError: The template is malformed, or needs a field that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise LabError(f"{{{match[1]}}} has no value in {template!r}; there are {', '.join(fields)}")
        return fields[match[1]]

    def keep(match: re.Match[str]) -> str:
        needed = _FIELD.findall(match[1])
        if not needed:
            return match[0]  # a program's own brackets
        return match[1] if all(field in fields for field in needed) else ""

    try:
        words = shlex.split(_OPTIONAL.sub(keep, template))
    except ValueError as error:
        raise LabError(f"{template!r} is no command line: {error}") from error
    return [_FIELD.sub(fill, word) for word in words]


class Program:
    """A program that runs on a host, and what it prints.

    Args:
        host: Where.
        argv: Its command line.
        log: Its standard output and error go to this name with ``.out`` and ``.err``.
        stdin: What it reads; nothing by default.

    Attributes:
        process: The process.
    """

    def __init__(self, host: Host, argv: Sequence[str], log: Path, *, stdin: int = subprocess.DEVNULL) -> None:
        self._output = log.with_name(f"{log.name}.out")
        self._errors = log.with_name(f"{log.name}.err")
        self._read = 0
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            try:
                self.process: subprocess.Popen[bytes] = host.popen(argv, stdin=stdin, stdout=output, stderr=errors)
            except OSError as error:
                raise LabError(f"cannot run {argv[0]}: {error.strerror}") from error

    def messages(self) -> list[Mapping[str, object]]:
        """The objects that it has printed since the last look; other lines are ignored."""
        with self._output.open("rb") as output:
            output.seek(self._read)
            lines, end, _ = output.read(max(0, MAX_OUTPUT - self._read)).rpartition(b"\n")
        self._read += len(lines) + len(end)
        return [message for line in lines.splitlines() if (message := _object(line)) is not None]

    def first_message(self, deadline: float) -> Mapping[str, object] | None:
        """The next object that it prints; ``None`` if it ends, or ``deadline`` (monotonic) comes, before."""
        while True:
            ended = self.process.poll() is not None
            if messages := self.messages():
                return messages[0]
            if ended or time.monotonic() > deadline:
                return None
            time.sleep(POLL)

    def complaint(self) -> str:
        """The last line of its standard error, or how it ended if there is none."""
        with self._errors.open("rb") as errors:
            lines = errors.read(MAX_OUTPUT).decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        code = self.process.poll()
        ending = "it is still running" if code is None else f"it ended with {code}"
        return said[:MAX_REASON] or f"{ending} and said nothing"


def common_fields(home: Path) -> dict[str, str]:
    """The fields that every template may use: the lab's own interpreter, its scripts, and the node's folder."""
    return {"python": sys.executable, "scripts": str(SCRIPTS), "home": str(home)}


def _object(line: bytes) -> Mapping[str, object] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
