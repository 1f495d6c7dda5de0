"""A route: what the rpc room gets to reach one peer by, whatever carries its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from lattica.errors import PeerUnreachableError
from lattica.identity import TlsIdentity
from lattica.mesh.links import Link
from lattica.mesh.live_pipes import LivePipe
from lattica.mesh.paths import PathInfo


class Route:
    """A gRPC target that leads to one peer. `close` it when its gRPC channel is closed.

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
        target: str,
        link: Link,
        *,
        on_joined: Callable[[LivePipe], None] = lambda _: None,
        on_lost: Callable[[LivePipe], None] = lambda _: None,
        on_closed: Callable[[Route], None] = lambda _: None,
    ) -> None:
        self.peer_id = link.peer_id
        self.target = target
        self.tls: TlsIdentity = link.tls
        self.expires_at = link.expires_at
        self.failure: PeerUnreachableError | None = None
        self.attempts: Mapping[str, str] | None = None
        self._on_joined, self._on_lost, self._on_closed = on_joined, on_lost, on_closed
        self._pipes: set[LivePipe] = set()
        self._superseded = asyncio.Event()
        self._moving = asyncio.Event()

    @property
    def has_pipe(self) -> bool:
        """Whether a pipe is up."""
        return bool(self._pipes)

    @property
    def path(self) -> PathInfo | None:
        """The path of its best pipe that works; ``None`` without one."""
        paths = [pipe.path for pipe in self._pipes if pipe.path is not None and not pipe.is_stalled]
        return min(paths, key=lambda path: path.kind.rank, default=None)

    @property
    def path_kind(self) -> str:
        """The kind of that path; empty without one."""
        path = self.path
        return path.kind.value if path is not None else ""

    @property
    def is_stalled(self) -> bool:
        """Whether its pipes are up, but nothing gets through at present."""
        return bool(self._pipes) and all(pipe.is_stalled for pipe in self._pipes)

    def recovered(self) -> None:
        """Say that something gets through again."""
        self._moving.set()

    async def wait_moving(self) -> None:
        """Return when it is not stalled, or not any more: something gets through again, or the pipe is lost."""
        while self.is_stalled:
            self._moving.clear()
            await self._moving.wait()

    async def wait_path(self) -> PathInfo:
        """Its path, when it has one."""
        while (path := self.path) is None:
            self._moving.clear()
            await self._moving.wait()
        return path

    def supersede(self) -> None:
        """Say that a better path than the route's is ready: whoever opens a route now gets it."""
        self._superseded.set()

    async def wait_superseded(self) -> None:
        """Return when a better path than this route's is ready, each time: new calls should go by a new route."""
        await self._superseded.wait()
        self._superseded.clear()

    def close(self) -> None:
        """Free what it holds; its gRPC channel is closed."""
        self._on_closed(self)

    def _joined(self, pipe: LivePipe) -> None:
        self._pipes.add(pipe)
        self._moving.set()
        self._on_joined(pipe)

    def _lost(self, pipe: LivePipe) -> None:
        self._pipes.discard(pipe)
        self._moving.set()
        self._on_lost(pipe)
