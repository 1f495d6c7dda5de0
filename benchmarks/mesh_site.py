"""What `benchmarks.mesh` measures with: real nodes on the lab's machines, and a plain TCP connection beside them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from netlab import Lab, Nat, Shape
from netlab.matrix.nodes import START_LIMIT, Node, address_at, stop_nodes, wait_ready
from netlab.matrix.programs import Program, Programs
from netlab.processes import stop

PLAIN_PORT = 5001
COMMAND_LIMIT_S = 120.0
PATH_LIMIT_S = 15.0
"""Seconds for calls to reach the path that is to be measured."""


class MeasurementError(Exception):
    """What was to be measured did not happen."""


class Pair:
    """Two machines behind NATs of one kind, a relay's machine, and nodes on them that are new for each fetch.

    Args:
        lab: Where.
        name: Of the machines.
        nat: Of both homes.
        link: Each home's; the relay's is perfect.
        model: The file to move.
        folder: Made anew for each fetch; homes and logs are in it.
        programs: How nodes are run.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        nat: Nat,
        link: Shape,
        model: Path,
        folder: Path,
        programs: Programs = Programs(),  # noqa: B008 - frozen
    ) -> None:
        self._model = model
        self._programs = programs
        self._folder = folder
        self._relay = lab.host(f"relay-{name}")
        self._bob = lab.host(f"bob-{name}", nat=nat, link=link)
        self._alice = lab.host(f"alice-{name}", nat=nat, link=link)

    def fetch(self, path: str, *, warm: bool) -> float:
        """Bytes per second of a fetch by alice from bob.

        Raises:
            MeasurementError: It failed, or a warm one did not take the path.
            TrialError: A node did not start.
        """
        programs = self._programs
        for router in (*self._alice.routers, *self._bob.routers):
            router.reboot()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        nodes: list[Node] = []
        try:
            relay = Node("relay", self._relay, self._folder / "relay-home", programs)
            nodes.append(relay)
            relay.wait_started(time.monotonic() + START_LIMIT)
            address = address_at(relay, str(self._relay.ipv4))
            for name, host in (("bob", self._bob), ("alice", self._alice)):
                nodes.append(Node(name, host, self._folder / f"{name}-home", programs, relay=address))
            _, bob, alice = nodes
            for node in (bob, alice):
                node.wait_started(time.monotonic() + START_LIMIT)
            wait_ready(programs, {bob: True, alice: True}, lambda: None)
            return self._fetch(bob, alice, path if warm else "")
        finally:
            stop_nodes(nodes)

    def _fetch(self, bob: Node, alice: Node, path: str) -> float:
        published = lattica(bob, "publish", str(self._model))
        if path:
            wait_for_path(alice, bob, path)
        copy = self._folder / "copy"
        fetched = lattica(alice, "fetch", str(published["cid"]), str(copy))
        paths = {source["path"] for source in fetched["sources"] if source["bytes"]}
        if path and paths != {path}:
            raise MeasurementError(f"the fetch went over {', '.join(map(str, paths))} instead of {path}")
        if copy.stat().st_size != self._model.stat().st_size:
            raise MeasurementError("the copy differs")
        return float(fetched["size"]) / float(fetched["seconds"])


class PlainPair:
    """Two public machines with the same links, and plain TCP between them."""

    def __init__(self, lab: Lab, link: Shape, model: Path) -> None:
        self._client = lab.host("plain-client", link=link)
        server = lab.host("plain-server", link=link)
        self._address = str(server.ipv4)
        self._serving = server.popen(
            [sys.executable, "-m", "benchmarks.plain_tcp", "serve", self._address, str(PLAIN_PORT), model],
            stdout=-1,
        )
        assert self._serving.stdout is not None
        if not self._serving.stdout.readline():
            raise MeasurementError("the plain TCP server did not start")

    def fetch(self) -> float:
        """Bytes per second of one connection."""
        argv = [sys.executable, "-m", "benchmarks.plain_tcp", "fetch", self._address, str(PLAIN_PORT)]
        fetched = json.loads(self._client.run(argv, timeout=COMMAND_LIMIT_S))
        return float(fetched["bytes"]) / float(fetched["seconds"])


def lattica(node: Node, *arguments: str) -> dict[str, Any]:
    """The last line of JSON of a command against a node."""
    argv = [sys.executable, "-m", "lattica", "--json", "--home", str(node.home), *arguments]
    answer: dict[str, Any] = json.loads(node.host.run(argv, timeout=COMMAND_LIMIT_S).splitlines()[-1])
    return answer


def wait_for_path(caller: Node, called: Node, path: str) -> None:
    """Call until a call has taken this path; raises `MeasurementError` if none does."""
    probe: Program = caller.start_probe(called)
    deadline = time.monotonic() + PATH_LIMIT_S
    seen: list[str] = []
    try:
        while time.monotonic() < deadline:
            reply = probe.first_message(deadline)
            if reply is None:
                break
            seen.append(str(reply.get("path")))
            if seen[-1] == path:
                return
    finally:
        stop([probe.process], 5.0)
    raise MeasurementError(f"calls took {', '.join(dict.fromkeys(seen)) or 'no path'} instead of {path}")
