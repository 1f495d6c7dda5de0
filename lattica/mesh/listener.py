"""The one TCP port of a node: accepts connections, looks at their first byte and hands them over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from lattica.background import Background, background_tasks
from lattica.errors import ConfigError, NetworkError, PortInUseError
from lattica.identity import PeerAddress
from lattica.mesh.accepting import accept, wait_readable

logger = logging.getLogger(__name__)

FIRST_BYTE_TIMEOUT_S = 5.0
"""Seconds that a new connection has to say something."""
MAX_UNPROVEN = 256
"""Connections that have not proven yet whose they are; one more displaces the oldest."""
MAX_UNPROVEN_PER_HOST = 48
"""The same for one remote address; fewer than the swarm has handshakes at one time (64), so that none has them all."""
ACCEPT_PAUSE_S = 0.1
"""Seconds without accepting after the system has run out of file descriptors or memory."""
BACKLOG = 512

Route = Callable[[socket.socket, PeerAddress], Awaitable[None]]
"""Takes over a connected socket, first byte unread; returns when the other side has proven who it is.

It owns the socket, may be cancelled for another connection, and may raise `NetworkError` for the log.
"""

_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Unproven:
    """Connections that have not proven yet whose they are, of one port or of several: there may be only so many."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[asyncio.Task[None], str] = OrderedDict()

    def add(self, task: asyncio.Task[None], host: str) -> None:
        """Count ``task``, which serves a connection from ``host``; one too many, and the oldest is cancelled."""
        self._hosts[task] = host
        same_host = [one for one, other in self._hosts.items() if other == host]
        if len(same_host) > MAX_UNPROVEN_PER_HOST:
            self._displace(same_host[0])
        elif len(self._hosts) > MAX_UNPROVEN:
            self._displace(next(iter(self._hosts)))

    def _displace(self, task: asyncio.Task[None]) -> None:
        del self._hosts[task]
        task.cancel()

    def discard(self, task: asyncio.Task[None]) -> None:
        """It has ended: proven, or closed."""
        self._hosts.pop(task, None)


class Listener:
    """A listening port; made by `open_listener`.

    Attributes:
        host: The address it is bound to.
        port: The port it is bound to.
        unproven: What has come and has not proven yet whose it is.
    """

    def __init__(self, sock: socket.socket, routes: Mapping[int, Route], tasks: Background, unproven: Unproven) -> None:
        name = sock.getsockname()
        self.host, self.port = str(name[0]), int(name[1])
        self.unproven = unproven
        self._sock = sock
        self._routes = routes
        self._tasks = tasks

    def start(self) -> None:
        """Accept connections from now on; until then they wait in the system's queue."""
        self._tasks.start(self._serve(), name="lattica-listener")

    async def _serve(self) -> None:
        while True:
            try:
                sock, name = await accept(self._sock)
            except OSError as error:
                if error.errno in _OUT_OF:
                    logger.warning("cannot accept reason=%s", error.strerror)
                # If not, the connection went away before we took it.
                await asyncio.sleep(ACCEPT_PAUSE_S if error.errno in _OUT_OF else 0)
                continue
            self._admit(sock, PeerAddress.tcp(name[0], name[1]))
            await asyncio.sleep(0)  # accepting waits for nothing while connections queue; others want their turn

    def _admit(self, sock: socket.socket, remote: PeerAddress) -> None:
        task = self._tasks.start(self._hand_over(sock, remote))
        # Also for a task that is cancelled before its first step and so never runs.
        task.add_done_callback(lambda done: self._forget(done, sock))
        self.unproven.add(task, remote.host)

    def _forget(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self.unproven.discard(task)
        if task.cancelled():
            sock.close()

    async def _hand_over(self, sock: socket.socket, remote: PeerAddress) -> None:
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_S):
                await wait_readable(sock)
            first = sock.recv(1, socket.MSG_PEEK)
            route = self._routes.get(first[0]) if first else None
        except (TimeoutError, OSError):
            route = None
        if route is None:
            logger.debug("connection without a known first byte closed remote=%s", remote)
            sock.close()
            return
        try:
            await route(sock, remote)
        except (NetworkError, OSError, TimeoutError) as error:
            logger.info("inbound connection dropped remote=%s reason=%s", remote, error or type(error).__name__)
        except Exception:  # a fault of ours must not cost the node its port
            logger.exception("inbound connection failed remote=%s", remote)
            sock.close()


@contextlib.asynccontextmanager
async def open_listener(
    host: str, port: int, routes: Mapping[int, Route], *, unproven: Unproven | None = None
) -> AsyncIterator[Listener]:
    """Listen on ``host`` and ``port`` (0: any free one); once started, hand connections over by their first byte.

    With the ``unproven`` of another listener both together may have as many as that one alone.

    Raises:
        PortInUseError: Somebody listens there.
        ConfigError: The address is not one of this machine's, or the port not allowed.
    """
    sock = _bind(host, port)
    try:
        async with background_tasks() as tasks:
            yield Listener(sock, routes, tasks, unproven if unproven is not None else Unproven())
    finally:
        sock.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except (OSError, ValueError) as error:  # ValueError: what cannot even be a host's name
        if sock is not None:
            sock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from error
    return sock
