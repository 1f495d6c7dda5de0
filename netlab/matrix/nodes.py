"""Nodes under test: starting them, and waiting until they can be called."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from netlab.host import Host
from netlab.matrix.programs import PORT, Program, Programs, command_line, common_fields
from netlab.processes import stop

START_LIMIT = 30.0  # seconds until a node has printed its line; an interpreter on a busy machine takes some
READY_LIMIT = 15.0  # seconds from then until it is connected, and has a relayed address if it needs one
STATUS_LIMIT = 10.0  # seconds for one status command
ASK_AGAIN = 0.2  # seconds between two rounds of status commands, which take a processor each
STOP_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class TrialError(Exception):
    """A pair could not connect, or not be tried; the message is the reason."""


class Node:
    """A node program on its way to being ready.

    Args:
        name: For reasons and logs.
        host: Where it runs.
        home: A new folder of its own, which is made; logs go beside it.
        programs: How it is run.
        relay: Address of the relay's node, or ``None`` if it is that itself.

    Attributes:
        program: Its process.
        peer_id: What it says it is; empty before it has been `wait_started` for.
        addresses: Where it says it is.
    """

    def __init__(self, name: str, host: Host, home: Path, programs: Programs, *, relay: str | None = None) -> None:
        self.name = name
        self.host = host
        self.home = home
        self.peer_id = ""
        self.addresses: tuple[str, ...] = ()
        self._programs = programs
        home.mkdir()
        self.program = self._run("", programs.node, port=str(PORT), **({} if relay is None else {"relay": relay}))

    def wait_started(self, deadline: float) -> None:
        """Wait until it has said who it is; raises `TrialError` if it ends, or ``deadline`` comes, before."""
        line = self.program.first_message(deadline)
        if line is None:
            raise TrialError(f"{self.name} did not start: {self.program.complaint()}")
        self.peer_id, self.addresses = str(line.get("peer_id", "")), _addresses(line)

    def start_status(self) -> Program:
        """Run its status command."""
        return self._run("-status", self._programs.status)

    def start_probe(self, called: "Node") -> Program:
        """Run the probe that calls another node from this one."""
        return self._run("-probe", self._programs.probe, peer=called.peer_id)

    def missing(self, status: Mapping[str, object] | None, *, needs_relay: bool) -> str:
        """What it lacks to be ready, by its status; empty if nothing."""
        if self.program.process.poll() is not None:
            raise TrialError(f"{self.name} ended: {self.program.complaint()}")
        if status is None:
            return "no status"
        connections = status.get("connections")
        if not isinstance(connections, int) or connections < 1:
            return "no connection"
        relayed = self._programs.relayed
        if needs_relay and relayed and not any(relayed in address for address in _addresses(status)):
            return f"no {relayed} address"
        return ""

    def _run(self, suffix: str, template: str, **fields: str) -> Program:
        argv = command_line(template, {**common_fields(self.home), **fields})
        return Program(self.host, argv, self.home.with_name(self.name + suffix))


def stop_nodes(nodes: Sequence[Node]) -> None:
    """Stop all of them at once."""
    stop([node.program.process for node in nodes], STOP_GRACE)


def address_at(node: Node, ip: str) -> str:
    """The node's address that has this IP address in it; raises `TrialError` if there is none."""
    pattern = re.compile(rf"(?<![\d.]){re.escape(ip)}(?![\d.])")
    for address in node.addresses:
        if pattern.search(address):
            return address
    raise TrialError(f"{node.name} names no address at {ip}, only {', '.join(node.addresses) or 'none'}")


def wait_ready(programs: Programs, needs: Mapping[Node, bool], check: Callable[[], None]) -> None:
    """Wait until the nodes are connected and those that need one have a relayed address.

    Args:
        programs: How to ask them.
        needs: The nodes, and whether each needs a relayed address.
        check: Called now and then; may raise to stop waiting.

    Raises:
        TrialError: One of them is not ready in time.
    """
    deadline = time.monotonic() + READY_LIMIT
    waiting = dict(needs) if programs.status else {}
    while waiting:
        asked = {node: node.start_status() for node in waiting}
        try:
            limit = time.monotonic() + STATUS_LIMIT
            answers = {node: program.first_message(limit) for node, program in asked.items()}
        finally:
            stop([program.process for program in asked.values()], STOP_GRACE)
        lacking = {node: node.missing(answers[node], needs_relay=need) for node, need in waiting.items()}
        waiting = {node: need for node, need in waiting.items() if lacking[node]}
        check()
        if waiting and time.monotonic() > deadline:
            wanting = ", ".join(f"{node.name} has {lacking[node]}" for node in waiting)
            raise TrialError(f"{wanting} {READY_LIMIT:.0f} s after its start")
        if waiting:
            time.sleep(ASK_AGAIN)


def _addresses(message: Mapping[str, object]) -> tuple[str, ...]:
    listed = message.get("addresses")
    return tuple(str(address) for address in listed) if isinstance(listed, list) else ()
