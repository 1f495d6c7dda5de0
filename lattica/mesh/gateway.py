"""The gateway: node-local unix sockets that gRPC dials, and behind each the pipes to a peer.

gRPC cannot be handed a connected socket, but it dials unix sockets. Each route has one; whatever connects to it is
joined with a pipe over the peer's best path.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lattica.background import Background
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId, TlsIdentity
from lattica.mesh.accepting import accept
from lattica.mesh.links import Link
from lattica.mesh.paths import PathInfo
from lattica.mesh.pipes import OpenPipe
from lattica.mesh.pump import Pair, Pump
from lattica.mesh.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

BACKLOG = 16
ACCEPT_PAUSE_S = 0.1
"""Seconds without accepting after the system has run out of file descriptors or memory."""
FIRST_PIPE_S = 5.0
"""Seconds that a route's first pipe is good for; after 10 s without a handshake the peer's gRPC server closes it."""


@dataclass(eq=False)
class LivePipe:
    """A pipe in use.

    Attributes:
        peer_id: The peer at the other end.
        path: Where it leads; ``None`` for an inbound pipe, whose address the peer chose.
        since: When it was joined, in seconds of `time.monotonic`.
        pair: Its two sockets.
        is_stalled: Whether what we send has not been acknowledged for a while.
    """

    peer_id: PeerId
    path: PathInfo | None
    since: float = field(default_factory=time.monotonic)
    pair: Pair | None = None
    is_stalled: bool = False


class PipeTable:
    """The node's live pipes, and the pump that moves their bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, splice: bool | None = None) -> None:
        self._loop = loop
        self._pump = Pump() if splice is None else Pump(splice=splice)
        self._pipes: dict[PeerId, list[LivePipe]] = {}
        self._pump.start()

    def join(self, local: socket.socket, remote: socket.socket, pipe: LivePipe, on_closed: Callable[[], None]) -> None:
        """Move bytes between our gRPC (``local``) and the peer (``remote``) until either ends; both are the table's."""

        def closed() -> None:
            try:
                self._loop.call_soon_threadsafe(self._forget, pipe, on_closed)
            except RuntimeError:  # the loop is closed, and the node with it
                logger.debug("pipe outlived its loop peer=%s", pipe.peer_id)

        pipe.pair = self._pump.join(local, remote, closed)
        self._pipes.setdefault(pipe.peer_id, []).append(pipe)

    def join_others(
        self, near: socket.socket, far: socket.socket, on_closed: Callable[[Pair], None], budgets: Sequence[TokenBucket]
    ) -> Pair:
        """Move bytes between two other peers until either ends; both sockets are the table's.

        That is no pipe of ours: it does not count, and is in no list.

        Args:
            near: One peer.
            far: The other.
            on_closed: Called in the event loop after both sockets are closed.
            budgets: Bytes per second, see `Pump.join`.
        """

        def closed() -> None:
            try:
                self._loop.call_soon_threadsafe(lambda: on_closed(pair))
            except RuntimeError:  # the loop is closed, and the node with it
                logger.debug("relayed pipe outlived its loop")

        pair = self._pump.join(near, far, closed, budgets)
        return pair

    def drop_others(self, pair: Pair) -> None:
        """Close a pair of `join_others` at once."""
        self._pump.drop(pair)

    def _forget(self, pipe: LivePipe, on_closed: Callable[[], None]) -> None:
        pipes = self._pipes.get(pipe.peer_id, [])
        if pipe in pipes:
            pipes.remove(pipe)
        if not pipes:
            self._pipes.pop(pipe.peer_id, None)
        on_closed()

    def of(self, peer: PeerId) -> list[LivePipe]:
        """The pipes to and from a peer, oldest first."""
        return list(self._pipes.get(peer, ()))

    def peers(self) -> list[PeerId]:
        """The peers with pipes."""
        return list(self._pipes)

    def all(self) -> list[LivePipe]:
        """Every live pipe."""
        return [pipe for pipes in self._pipes.values() for pipe in pipes]

    @property
    def count(self) -> int:
        """How many pipes there are."""
        return sum(map(len, self._pipes.values()))

    def drop(self, pipe: LivePipe) -> None:
        """Close a pipe at once."""
        if pipe.pair is not None:
            self._pump.drop(pipe.pair)

    def close(self) -> None:
        """Close all pipes and the pump's thread."""
        self._pump.close()


class Route:
    """A local gRPC target that leads to one peer. `close` it when its gRPC channel is closed.

    Attributes:
        peer_id: The peer.
        target: For a gRPC channel.
        tls: What the channel shows and trusts.
        expires_at: When its certificate should be replaced, in seconds of `time.monotonic`.
        failure: Why the latest attempt to open a pipe failed; ``None`` if it did not.
        attempts: What is being tried to open a pipe anew, and how that goes; ``None`` if nothing is.
    """

    def __init__(
        self,
        path: Path,
        first: OpenPipe,
        link: Link,
        table: PipeTable,
        tasks: Background,
        open_pipe: Callable[[dict[str, str]], Awaitable[OpenPipe]],
        *,
        on_joined: Callable[[LivePipe], None] = lambda _: None,
        on_lost: Callable[[LivePipe], None] = lambda _: None,
        on_closed: Callable[[Route], None] = lambda _: None,
    ) -> None:
        self.peer_id = link.peer_id
        self.target = f"unix:{path}"
        self.tls: TlsIdentity = link.tls
        self.expires_at = link.expires_at
        self.failure: PeerUnreachableError | None = None
        self.attempts: Mapping[str, str] | None = None
        self._path = path
        self._first: OpenPipe | None = first
        self._table = table
        self._tasks = tasks
        self._open_pipe = open_pipe
        self._on_joined, self._on_lost, self._on_closed = on_joined, on_lost, on_closed
        self._pipes: set[LivePipe] = set()
        self._superseded = asyncio.Event()
        self._moving = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()
        sock = _listen(path)
        self._server = tasks.start(self._serve(sock), name=f"lattica-route-{self.peer_id.short}")
        # Closed when the event loop has let go of it: no sooner, or it would confuse it with the next of that number.
        self._server.add_done_callback(lambda _: sock.close())

    @property
    def has_pipe(self) -> bool:
        """Whether a pipe is up."""
        return bool(self._pipes) or self._first is not None

    @property
    def path(self) -> PathInfo | None:
        """The path of its best pipe that works; ``None`` without one."""
        paths = [pipe.path for pipe in self._pipes if pipe.path is not None and not pipe.is_stalled]
        if self._first is not None:
            paths.append(self._first.path)
        return min(paths, key=lambda path: path.kind.rank, default=None)

    @property
    def path_kind(self) -> str:
        """The kind of that path; empty without one."""
        path = self.path
        return path.kind.value if path is not None else ""

    @property
    def is_stalled(self) -> bool:
        """Whether its pipes are up, but nothing gets through at present."""
        return self._first is None and bool(self._pipes) and all(pipe.is_stalled for pipe in self._pipes)

    def recovered(self) -> None:
        """Say that something gets through again."""
        self._moving.set()

    async def wait_moving(self) -> None:
        """Return when it is not stalled, or not any more: something gets through again, or the pipe is lost."""
        while self.is_stalled:
            self._moving.clear()
            await self._moving.wait()

    def supersede(self) -> None:
        """Say that a better path than the route's is ready: whoever opens a route now gets it."""
        self._superseded.set()

    async def wait_superseded(self) -> None:
        """Return when a better path than this route's is ready, each time: new calls should go by a new route."""
        await self._superseded.wait()
        self._superseded.clear()

    def close(self) -> None:
        """Stop taking connections and close the pipes."""
        for task in (self._server, *self._connecting):
            task.cancel()
        self._path.unlink(missing_ok=True)
        if self._first is not None:
            self._first.sock.close()
            self._first = None
        for pipe in self._pipes:
            self._table.drop(pipe)
        self._on_closed(self)

    async def _serve(self, sock: socket.socket) -> None:
        while True:
            try:
                local, _ = await accept(sock)
            except OSError as error:
                logger.warning("gateway cannot accept peer=%s reason=%s", self.peer_id, error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            task = self._tasks.start(self._connect(local))
            self._connecting.add(task)
            task.add_done_callback(partial(self._connected, local))

    def _connected(self, local: socket.socket, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            local.close()

    async def _connect(self, local: socket.socket) -> None:
        try:
            opened = self._take_first() or await self._reopen()
        except PeerUnreachableError as error:
            self.failure = error
            local.close()
            return
        except Exception as error:
            logger.exception("gateway failed peer=%s", self.peer_id)
            self.failure = PeerUnreachableError(self.peer_id, {"gateway": repr(error)})
            local.close()
            return
        self.failure = None
        pipe = LivePipe(self.peer_id, opened.path)
        self._table.join(local, opened.sock, pipe, partial(self._lost, pipe))
        self._pipes.add(pipe)
        self._moving.set()
        self._on_joined(pipe)

    def _lost(self, pipe: LivePipe) -> None:
        self._pipes.discard(pipe)
        self._moving.set()
        self._on_lost(pipe)

    def _take_first(self) -> OpenPipe | None:
        first, self._first = self._first, None
        if first is not None and time.monotonic() - first.path.since > FIRST_PIPE_S:
            first.sock.close()
            return None
        return first

    async def _reopen(self) -> OpenPipe:
        attempts: dict[str, str] = {}
        self.attempts = attempts
        try:
            return await self._open_pipe(attempts)
        finally:
            self.attempts = None


class SocketNames:
    """Short names for unix sockets in a private folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def next(self) -> Path:
        """A path that nobody uses."""
        return self._folder / f"r{next(self._numbers)}"


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
