"""Running nodes on the hosts of a lab, to be called, watched, killed and started again while the lab changes.

A node is a process of its own. Its control socket is in the file system, which the lab's hosts share with the test, so
that the test asks and commands it directly, without a process for each command.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import fault_node
import grpc

import lattica
from lattica._proto import control_pb2, control_pb2_grpc
from lattica.background import Background, background_tasks, cancelled
from lattica.node import connect_control
from netlab import Host, Lab, Nat, Shape
from netlab.matrix.programs import PORT, Program, command_line, common_fields
from netlab.processes import stop

LINK = Shape(delay=0.01)
"""Of every site: 40 ms for a round trip between two homes."""
HOME = Nat.EIM_APDF
"""What most homes have, and what can be punched."""
START_S = 30.0
"""Seconds until a node has printed its line: an interpreter on a busy machine takes some."""
READY_S = 15.0
"""Seconds from then until a node behind a NAT has a relayed address, and until two nodes have a punched path."""
STOP_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""
PING_LIMIT_S = 15.0 + 1.0
"""Seconds that one ping may take, however it ends: its deadline, and the work of a busy machine."""
POLL_S = 0.05
BUSY = 3.0
"""How many times as long as it should take a busy machine may take."""
ENTRY = re.compile(r"\n(?=\d{4}-\d\d-\d\d )")
"""Between two entries of a log; tracebacks have many lines."""

ROOT = Path(lattica.__file__).parents[1]
"""The package's folder; a program would look for it in its own first."""
CLI = "{python} -m lattica -vv --json --home {home} up --port {port} [--bootstrap {first}] [--bootstrap {second}]"
"""The command that users start nodes with."""
SCRIPT = f"env PYTHONPATH={ROOT} {{python}} {fault_node.__file__} {{home}} {{port}} [{{first}}] [{{second}}]"
"""A program that opens a node, serves a long stream, and does what it is told on its standard input."""

Stub: TypeAlias = "control_pb2_grpc.ControlAsyncStub"


@dataclass(frozen=True, slots=True)
class Reply:
    """A ping that was answered; times in seconds of `time.monotonic`."""

    begun_at: float
    ended_at: float
    path: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A ping that was not."""

    begun_at: float
    ended_at: float
    reason: str


@dataclass
class Pings:
    """Pings to one peer while other things happen.

    Attributes:
        replies: Those that were answered.
        failures: Those that were not.
        longest_s: Seconds that the slowest took, answered or not.
        under_way: How many have not ended yet.
    """

    replies: list[Reply] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    longest_s: float = 0.0
    under_way: int = 0

    @property
    def paths(self) -> list[str]:
        """The paths that answers came by, in order, each once in a row."""
        return [path for path, _ in itertools.groupby(reply.path for reply in self.replies)]

    def answered_after(self, moment: float) -> bool:
        """Whether a ping that was begun after a moment was answered."""
        return any(reply.begun_at > moment for reply in self.replies)

    def report(self, moment: float) -> None:
        """Print what became of them, in seconds from a moment; what ended alike in a row as one line."""
        ended = [(one.begun_at, one.ended_at, one.path) for one in self.replies]
        ended += [(one.begun_at, one.ended_at, one.reason) for one in self.failures]
        for what, some in itertools.groupby(sorted(ended, key=lambda one: one[1]), lambda one: one[2]):
            group = list(some)
            begun, end = min(group)[0] - moment, group[-1][1] - moment
            print(f"{len(group):4} pings from {begun:.1f} to {end:.1f} s: {what}")

    def failed_after(self, moment: float) -> list[Failure]:
        """Those of the failed ones that were begun after a moment."""
        return [failure for failure in self.failures if failure.begun_at > moment]


class LabNode:
    """One node; it keeps its home, hence its identity, when it is started again.

    Attributes:
        name: For logs.
        host: Where it runs.
        home: Its folder.
        peer_id: Who it is.
        addresses: Where it said that it is when it started.
        control: Its control API.
    """

    def __init__(self, name: str, host: Host, folder: Path, template: str) -> None:
        self.name = name
        self.host = host
        self.home = folder / name
        self.peer_id = ""
        self.addresses: Sequence[str] = ()
        self.control: Stub
        self._template = template
        self._log = folder / f"{name}-log"
        self._starts = itertools.count(1)
        self._program: Program | None = None
        self._connected = contextlib.AsyncExitStack()
        self._requests = itertools.count(1)
        self._answers: dict[object, Mapping[str, object]] = {}

    # Life

    async def start(self, *bootstrap: str, port: int = PORT) -> None:
        """Start it, with the addresses of up to two nodes to join; again after `stop` or `kill`."""
        peers = dict(zip(("first", "second"), bootstrap, strict=False))
        argv = command_line(self._template, {**common_fields(self.home), "port": str(port), **peers})
        log = self._log.with_name(f"{self._log.name}-{next(self._starts)}")
        self._program = program = Program(self.host, argv, log, stdin=subprocess.PIPE)
        line = await asyncio.to_thread(program.first_message, time.monotonic() + START_S)
        assert line is not None, f"{self.name} did not start: {program.complaint()}"
        self.peer_id, addresses = str(line["peer_id"]), line["addresses"]
        assert isinstance(addresses, list)
        self.addresses = addresses
        control = await self._connected.enter_async_context(connect_control(self.home))
        assert control is not None, f"{self.name} serves no control API"
        self.control = control

    @property
    def pid(self) -> int:
        """Its process."""
        return self.program.process.pid

    @property
    def program(self) -> Program:
        """What runs."""
        assert self._program is not None, f"{self.name} does not run"
        return self._program

    def freeze(self) -> None:
        """Stop its process without ending it."""
        self.program.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.program.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9."""
        self.program.process.kill()
        await self._ended()

    async def stop(self) -> None:
        """SIGTERM; it has to end by itself, with code 0."""
        await asyncio.to_thread(stop, [self.program.process], STOP_S)
        code = self.program.process.returncode
        assert code == 0, f"{self.name} ended with {code}: {self.program.complaint()}"
        await self._ended()

    async def close(self) -> None:
        """End it in any case."""
        if self._program is not None:
            await asyncio.to_thread(stop, [self._program.process], STOP_S)
            await self._ended()

    async def _ended(self) -> None:
        await self._connected.aclose()
        await asyncio.to_thread(self.program.process.wait)
        if self.program.process.stdin is not None:
            self.program.process.stdin.close()
        self._program = None

    # What it says

    def at(self, ip: object) -> str:
        """Its address at an IP address."""
        return next(address for address in self.addresses if f"/{ip}/" in address and "p2p-circuit" not in address)

    async def status(self) -> control_pb2.StatusResponse:
        """As `lattica status`."""
        return await self.control.Status(control_pb2.StatusRequest(), timeout=START_S)

    async def relayed_by(self) -> list[str]:
        """The relays through which it says that it can be reached."""
        status = await self.status()
        return [address for address in status.addresses if "p2p-circuit" in address]

    async def pipes(self, peer: LabNode) -> list[control_pb2.Pipe]:
        """Its live pipes to and from a peer, as `lattica paths`."""
        answer = await self.control.Paths(control_pb2.PathsRequest(peer=peer.peer_id), timeout=START_S)
        return list(answer.pipes)

    def sockets(self) -> int:
        """Sockets that its process has open."""
        return self._descriptors("socket:")

    def descriptors(self) -> int:
        """Whatever its process has open."""
        return self._descriptors("")

    def _descriptors(self, kind: str) -> int:
        count = 0
        for link in list(Path(f"/proc/{self.pid}/fd").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                count += str(link.readlink()).startswith(kind)
        return count

    def threads(self) -> int:
        """Threads of its process."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def complaints(self) -> list[str]:
        """What it has logged of faults of its own in all its lives, with tracebacks."""
        entries: list[str] = []
        for log in sorted(self._log.parent.glob(f"{self._log.name}-*.err")):
            entries += ENTRY.split(log.read_text(errors="replace"))
        return [entry for entry in entries if " ERROR " in entry[:50] or entry.startswith("Traceback")]

    # What it does

    async def ping(self, peer: LabNode) -> control_pb2.PingReply:
        """Call a peer once; raises `grpc.aio.AioRpcError` with the reason, within `PING_LIMIT_S`."""
        call = self.control.Ping(control_pb2.PingRequest(peer=peer.peer_id, count=1), timeout=PING_LIMIT_S)
        return await anext(aiter(call))

    @contextlib.asynccontextmanager
    async def pinging(self, peer: LabNode, *, interval: float = 0.2) -> AsyncIterator[Pings]:
        """Begin a ping to a peer every ``interval`` seconds while the block runs, whatever became of those before.

        Those that are under way at the end of the block are waited for.
        """
        pings = Pings()
        async with background_tasks() as tasks:
            beginning = tasks.start(self._begin_pings(peer, interval, pings, tasks))
            yield pings
            await cancelled(beginning)
            await eventually(lambda: not pings.under_way, PING_LIMIT_S, "the end of the last ping")

    async def _begin_pings(self, peer: LabNode, interval: float, pings: Pings, tasks: Background) -> None:
        while True:
            tasks.start(self._count_ping(peer, pings))
            await asyncio.sleep(interval)

    async def _count_ping(self, peer: LabNode, pings: Pings) -> None:
        started = time.monotonic()
        pings.under_way += 1
        try:
            reply = await self.ping(peer)
        except grpc.aio.AioRpcError as error:
            pings.failures.append(Failure(started, time.monotonic(), error.details() or error.code().name))
        else:
            pings.replies.append(Reply(started, time.monotonic(), reply.path))
        finally:
            pings.under_way -= 1
        pings.longest_s = max(pings.longest_s, time.monotonic() - started)

    async def wait_answer(self, peer: LabNode, seconds: float) -> str:
        """Begin pings until one is answered, which should be within ``seconds``; the path that it took."""
        started = time.monotonic()
        async with background_tasks() as tasks:
            pings = Pings()
            tasks.start(self._begin_pings(peer, 0.5, pings, tasks))
            try:
                await eventually(lambda: bool(pings.replies), seconds, f"an answer of {peer.name} to {self.name}")
            except AssertionError:
                pings.report(started)
                raise
            return pings.replies[0].path

    async def wait_path(self, peer: LabNode, *paths: str, seconds: float = READY_S) -> None:
        """Ping until the answer comes by one of some paths, by default a punched one."""
        paths = paths or ("punched-tcp",)
        last = "not called yet"

        async def comes() -> bool:
            nonlocal last
            try:
                last = (await self.ping(peer)).path
            except grpc.aio.AioRpcError as error:  # it may take a second until the peer can be found
                last = error.details() or error.code().name
            return last in paths

        try:
            await eventually(comes, seconds, f"a {paths[0]} path from {self.name} to {peer.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None

    @contextlib.asynccontextmanager
    async def events(self, peer: LabNode) -> AsyncIterator[list[control_pb2.PathEvent]]:
        """What happens to the paths to a peer while the block runs, as `lattica paths --watch`."""
        seen: list[control_pb2.PathEvent] = []
        call = self.control.WatchPaths(control_pb2.WatchPathsRequest(peer=peer.peer_id))

        async def read() -> None:
            async for event in call:
                seen.append(event)  # noqa: PERF401 - it is read while it grows

        async with background_tasks() as tasks:
            tasks.start(read())
            await call.wait_for_connection()
            yield seen

    async def do(self, what: str, *, seconds: float = START_S, **arguments: object) -> Mapping[str, object]:
        """Have a `SCRIPT` node do something; its answer."""
        return await self.answer(self.tell(what, **arguments), seconds)

    async def answer(self, number: int, seconds: float = START_S) -> Mapping[str, object]:
        """The answer to what it was told."""
        await eventually(lambda: self.has_answered(number), seconds, f"answer {number} of {self.name}")
        return self._answers.pop(number)

    def tell(self, what: str, **arguments: object) -> int:
        """Have it begin; the number of its answer."""
        number, stdin = next(self._requests), self.program.process.stdin
        assert stdin is not None
        stdin.write(fault_node.encode({"id": number, "do": what, **arguments}))
        stdin.flush()
        return number

    def has_answered(self, number: int) -> bool:
        """Whether the answer has come."""
        self._answers |= {message["id"]: message for message in self.program.messages() if "id" in message}
        return number in self._answers


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str) -> float:
    """Wait for a condition; the seconds that it took.

    It should not take more than ``seconds``. If it does that is printed; it fails after `BUSY` times as many.
    """
    started = time.monotonic()
    while True:
        met = condition()
        took = time.monotonic() - started
        if met if isinstance(met, bool) else await met:
            if took > seconds:
                print(f"{what} took {took:.1f} s; {seconds:.0f} s are wanted")
            return took
        if took > BUSY * seconds:
            raise AssertionError(f"{what} did not happen within {took:.0f} s; {seconds:.0f} s are wanted")
        await asyncio.sleep(POLL_S)


class LabNodes:
    """The nodes of one lab; made by `lab_nodes`."""

    def __init__(self, folder: Path) -> None:
        self.all: list[LabNode] = []
        self._folder = folder

    async def start(self, name: str, host: Host, *bootstrap: str, template: str = CLI, port: int = PORT) -> LabNode:
        """A new node; one behind a NAT that has relays to join is waited for until it holds them."""
        node = LabNode(name, host, self._folder, template)
        self.all.append(node)
        await node.start(*bootstrap, port=port)
        if host.router is not None and bootstrap:
            await wait_relays(node, len(bootstrap))
        return node


async def wait_relays(node: LabNode, count: int, seconds: float = READY_S) -> float:
    """Wait until a node can be reached through so many relays; the seconds that it took."""

    async def held() -> bool:
        return len(await node.relayed_by()) == count

    return await eventually(held, seconds, f"{count} reservation(s) of {node.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    """Two nodes behind home NATs, and the relay that they join by."""

    relay: LabNode
    alice: LabNode
    bob: LabNode

    @property
    def relay_address(self) -> str:
        """Where the relay is."""
        return self.relay.at(self.relay.host.ipv4)


async def two_homes(lab: Lab, nodes: LabNodes, *, nat: Nat = HOME, template: str = CLI) -> Homes:
    """A public relay, and alice and bob who hold reservations there; there is no path between them yet."""
    relay = await nodes.start("relay", lab.host("relay", link=LINK), template=template)
    address = relay.at(relay.host.ipv4)
    hosts = [lab.host(name, nat=nat, link=LINK) for name in ("alice", "bob")]
    starting = (nodes.start(host.name, host, address, template=template) for host in hosts)
    alice, bob = await asyncio.gather(*starting)
    return Homes(relay=relay, alice=alice, bob=bob)


@contextlib.asynccontextmanager
async def lab_nodes(folder: Path) -> AsyncIterator[LabNodes]:
    """Nodes that are stopped at the end; one that has crashed or logged a fault of its own is an error then."""
    nodes = LabNodes(folder)
    try:
        yield nodes
        crashed = [node.name for node in nodes.all if node._program and node.program.process.poll() is not None]
        assert not crashed, f"{crashed} ended: {nodes.all}"
    finally:
        for node in nodes.all:
            await node.close()
    for node in nodes.all:
        assert not node.complaints(), f"{node.name} logged: {node.complaints()[0]}"
