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
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from lattica.background import Background
from lattica.errors import PeerUnreachableError
from lattica.mesh.accepting import accept
from lattica.mesh.links import Link
from lattica.mesh.live_pipes import LivePipe, PipeTable
from lattica.mesh.native import NativeRoute
from lattica.mesh.paths import PathInfo
from lattica.mesh.pipes import OpenPipe, has_ended
from lattica.mesh.route import Route

logger = logging.getLogger(__name__)

BACKLOG = 16
ACCEPT_PAUSE_S = 0.1
"""Seconds without accepting after the system has run out of file descriptors or memory."""
FIRST_PIPE_S = 5.0
"""Seconds that a route's first pipe is good for; after 10 s without a handshake the peer's gRPC server closes it."""


class GatewayRoute(Route):
    """A unix socket on this machine, and behind it pipes to one peer: opened when gRPC dials it.

    Args:
        path: Of the unix socket.
        first: The pipe for the first that dials.
        link: To the peer.
        table: Gets the pipes.
        tasks: Serve the socket.
        open_pipe: Opens further pipes; gets where to tell what is being tried.
        native: Makes a route without the gateway, see `wait_native`.
        on_joined: Called when a pipe is up.
        on_lost: Called when it has ended.
        on_closed: Called when the route is closed.
    """

    def __init__(
        self,
        path: Path,
        first: OpenPipe,
        link: Link,
        table: PipeTable,
        tasks: Background,
        open_pipe: Callable[[dict[str, str]], Awaitable[OpenPipe]],
        native: Callable[[Route], Awaitable[NativeRoute | None]],
        *,
        on_joined: Callable[[LivePipe], None] = lambda _: None,
        on_lost: Callable[[LivePipe], None] = lambda _: None,
        on_closed: Callable[[Route], None] = lambda _: None,
    ) -> None:
        super().__init__(f"unix:{path}", link, on_joined=on_joined, on_lost=on_lost, on_closed=on_closed)
        self._path = path
        self._first: OpenPipe | None = first
        self._table = table
        self._tasks = tasks
        self._open_pipe = open_pipe
        self._native = native
        self._connecting: set[asyncio.Task[None]] = set()
        sock = _listen(path)
        self._server = tasks.start(self._serve(sock), name=f"lattica-route-{self.peer_id.short}")
        # Closed when the event loop has let go of it: no sooner, or it would confuse it with the next of that number.
        self._server.add_done_callback(lambda _: sock.close())

    @property
    def has_pipe(self) -> bool:
        """Whether a pipe is up."""
        return super().has_pipe or self._first is not None

    @property
    def path(self) -> PathInfo | None:
        """The path of its best pipe that works; ``None`` without one."""
        paths = [path for path in (super().path, self._first.path if self._first else None) if path is not None]
        return min(paths, key=lambda path: path.kind.rank, default=None)

    @property
    def is_stalled(self) -> bool:
        """Whether its pipes are up, but nothing gets through at present."""
        return self._first is None and super().is_stalled

    async def wait_native(self) -> NativeRoute | None:
        """A route to the same peer's native port, as soon as that is worth trying; ``None`` if there is none."""
        return await self._native(self)

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
        super().close()

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
        self._joined(pipe)

    def _take_first(self) -> OpenPipe | None:
        first, self._first = self._first, None
        if first is not None and (time.monotonic() - first.path.since > FIRST_PIPE_S or has_ended(first)):
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
