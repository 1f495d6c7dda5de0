"""One lab in which pair after pair is tried.

What the pairs of a batch share: the relay's node, and the machines of each kind. What is fresh for each pair: both
nodes with their homes, hence identities, and all that the routers between them remember.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from netlab.host import Host
from netlab.lab import Lab
from netlab.matrix.kinds import Kind, Pair
from netlab.matrix.nodes import START_LIMIT, STOP_GRACE, Node, TrialError, address_at, stop_nodes, wait_ready
from netlab.matrix.programs import POLL, Programs
from netlab.matrix.rows import Observation, Row
from netlab.processes import stop
from netlab.shape import Shape


class CancelledTrialError(Exception):
    """The whole matrix is being stopped."""


class Trials:
    """Tries pairs in a lab of its own.

    Args:
        lab: An empty one.
        programs: What is tested.
        delay: Seconds, one way, of the link by which each site hangs on the public network.
        folder: An empty folder, for homes and logs.
        keep: Where the logs of failed pairs go.
        cancelled: Set from elsewhere to stop.
    """

    def __init__(
        self, lab: Lab, programs: Programs, *, delay: float, folder: Path, keep: Path, cancelled: Event
    ) -> None:
        self._lab = lab
        self._programs = programs
        self._link = Shape(delay=delay)
        self._folder = folder
        self._keep = keep
        self._cancelled = cancelled
        self._relay_host = lab.host("relay", link=self._link)
        self._hosts: dict[tuple[str, Kind], Host] = {}

    def run(self, batch: Sequence[Pair], report: Callable[[Row], None]) -> None:
        """Try the pairs, with one relay for all of them, and report each.

        Raises:
            CancelledTrialError: As asked for; nodes are stopped.
            LabError: The lab itself failed.
        """
        relay = Node("relay", self._relay_host, self._fresh("relay") / "relay-home", self._programs)
        try:
            relay.wait_started(time.monotonic() + START_LIMIT)
            address = address_at(relay, str(self._relay_host.ipv4))
            for a, b in batch:
                report(self._try(a, b, address))
        except TrialError as error:  # of the relay
            for a, b in batch:
                report(Row(a=a.name, b=b.name, reason=str(error)))
        finally:
            stop_nodes([relay])

    def _try(self, a: Kind, b: Kind, relay: str) -> Row:
        alice, bob = self._host("alice", a), self._host("bob", b)
        for router in (*alice.routers, *bob.routers):
            router.reboot()
        folder = self._fresh("pair")
        nodes: list[Node] = []
        try:
            for name, host in (("bob", bob), ("alice", alice)):
                nodes.append(Node(name, host, folder / f"{name}-home", self._programs, relay=relay))
            bob_node, alice_node = nodes
            row = self._call(alice_node, bob_node, a, b)
        except TrialError as error:
            row = Row(a=a.name, b=b.name, reason=str(error))
        finally:
            stop_nodes(nodes)
        if not row.ok:
            self._keep_logs(folder, f"{a.name}--{b.name}")
        return row

    def _call(self, alice: Node, bob: Node, a: Kind, b: Kind) -> Row:
        deadline = time.monotonic() + START_LIMIT
        for node in (bob, alice):
            node.wait_started(deadline)
            self._check()
        wait_ready(self._programs, {bob: not b.open, alice: False}, self._check)
        return self._observe(alice, bob, (a.name, b.name))

    def _observe(self, alice: Node, bob: Node, pair: tuple[str, str]) -> Row:
        probe = alice.start_probe(bob)
        try:
            observation = Observation(time.monotonic())
            while True:
                ended = probe.process.poll()
                now = time.monotonic()
                for message in probe.messages():
                    observation.receive(message, now)
                if ended is not None:
                    return observation.verdict(pair, "" if ended == 0 else probe.complaint())
                if now > observation.deadline:
                    return observation.verdict(pair)
                self._check()
                time.sleep(POLL)
        finally:
            stop([probe.process], STOP_GRACE)

    def _host(self, role: str, kind: Kind) -> Host:
        if (role, kind) not in self._hosts:
            self._hosts[role, kind] = kind.host(self._lab, role, self._link)
        return self._hosts[role, kind]

    def _fresh(self, name: str) -> Path:
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _keep_logs(self, folder: Path, name: str) -> None:
        target = self._keep / name
        target.mkdir(parents=True, exist_ok=True)
        for log in (*folder.glob("*.out"), *folder.glob("*.err")):
            shutil.copyfile(log, target / log.name)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise CancelledTrialError
