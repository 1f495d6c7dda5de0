"""The pipes of a node that are in use, and what moves their bytes."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lattica.identity import PeerId
from lattica.mesh.paths import PathInfo
from lattica.mesh.pump import Pair, Pump
from lattica.mesh.token_bucket import TokenBucket

logger = logging.getLogger(__name__)


class Carrier(Protocol):
    """What moves a pipe's bytes: the pump, or gRPC itself."""

    @property
    def far(self) -> socket.socket:
        """The socket to the peer, to ask the system about; it is the carrier's."""

    @property
    def sent(self) -> int:
        """Bytes to the peer."""

    @property
    def received(self) -> int:
        """Bytes from the peer."""

    def drop(self) -> None:
        """End the connection to the peer at once."""


@dataclass(eq=False)
class LivePipe:
    """A pipe in use.

    Attributes:
        peer_id: The peer at the other end.
        path: Where it leads; ``None`` for an inbound pipe, whose address the peer chose.
        since: When it was joined, in seconds of `time.monotonic`.
        carrier: What moves its bytes; ``None`` until it is joined.
        is_stalled: Whether what we send has not been acknowledged for a while.
    """

    peer_id: PeerId
    path: PathInfo | None
    since: float = field(default_factory=time.monotonic)
    carrier: Carrier | None = None
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

        pipe.carrier = _Pumped(self._pump, self._pump.join(local, remote, closed))
        self.add(pipe)

    def add(self, pipe: LivePipe) -> None:
        """Have a pipe in the table that the pump does not move; until `remove`."""
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
        self.remove(pipe)
        on_closed()

    def remove(self, pipe: LivePipe) -> None:
        """Forget a pipe that has ended."""
        pipes = self._pipes.get(pipe.peer_id, [])
        if pipe in pipes:
            pipes.remove(pipe)
        if not pipes:
            self._pipes.pop(pipe.peer_id, None)

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
        if pipe.carrier is not None:
            pipe.carrier.drop()

    def close(self) -> None:
        """Close all pipes and the pump's thread."""
        self._pump.close()


class _Pumped:
    """A pair that the pump moves."""

    def __init__(self, pump: Pump, pair: Pair) -> None:
        self._pump = pump
        self._pair = pair

    @property
    def far(self) -> socket.socket:
        return self._pair.far

    @property
    def sent(self) -> int:
        return self._pair.sent

    @property
    def received(self) -> int:
        return self._pair.received

    def drop(self) -> None:
        self._pump.drop(self._pair)
