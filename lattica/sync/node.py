"""A node for code without an event loop.

The rule about processes: a node belongs to the process that opened it. A child that is forked while a node is open can
neither use it nor open one of its own (gRPC's threads do not survive a fork): fork first and open then, or start
processes with ``spawn``. What a child must not do raises `ForkedError` at once, and never hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattica.errors import UsageError
from lattica.sync.loop import LoopThread

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import Cid, FetchResult, Published
    from lattica.identity import PeerAddress, PeerId
    from lattica.node import Node, PeerStatus, Pong

_END = object()


class SyncNode:
    """A running node; made by `open_node`. All methods block, and may be called from any thread.

    Attributes:
        rpc: Calls peers and serves them.
        content: Publishes and fetches.
        store: Documents that are replicated.
    """

    def __init__(self, loop: LoopThread[Node]) -> None:
        from lattica.sync.store import SyncStore

        self._loop = loop
        self.store = SyncStore(loop)
        self.rpc = SyncRpc(loop)
        self.content = SyncContent(loop)

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self._loop.value.peer_id

    @property
    def addresses(self) -> list[PeerAddress]:
        """Multiaddrs at which we listen, with our peer ID."""

        async def addresses() -> list[PeerAddress]:
            return self._loop.value.addresses

        return self._loop.run(addresses())

    def resolve(self, text: str) -> PeerId:
        """The peer of a peer ID or a multiaddr that ends in one; see `lattica.Node.resolve`."""

        async def resolve() -> PeerId:
            return self._loop.value.resolve(text)

        return self._loop.run(resolve())

    def ping(self, peer: PeerId) -> Pong:
        """One round trip to a peer; raises `PeerUnreachableError`."""
        return self._loop.run(self._loop.value.ping(peer))

    def peers(self) -> list[PeerStatus]:
        """The peers with a control connection."""

        async def peers() -> list[PeerStatus]:
            return self._loop.value.peers()

        return self._loop.run(peers())


class SyncRpc:
    """Plain Python services without an event loop."""

    def __init__(self, loop: LoopThread[Node]) -> None:
        self._loop = loop

    def serve(self, service: object, *, name: str | None = None, announce: bool = False, capacity: int = 1) -> None:
        """Let peers call an object; see `lattica.rpc.Rpc.serve`. Its async methods run in the node's event loop."""

        async def serve() -> None:
            self._loop.value.rpc.serve(service, name=name, announce=announce, capacity=capacity)

        self._loop.run(serve())

    def stub(self, service: type, peer: PeerId, **options: Any) -> Any:
        """An object with the service's methods: each call blocks and returns the result, or an iterator of results.

        Streams of requests may be any iterables. Options and errors are those of `lattica.rpc.Rpc.stub`.
        """

        async def make() -> Any:
            return self._loop.value.rpc.stub(service, peer, **options)

        return SyncStub(self._loop, self._loop.run(make()), service)

    def service(self, name: str, service: type, **options: Any) -> Any:
        """As `stub`, for whichever peer offers a name; see `lattica.rpc.Rpc.service`."""

        async def make() -> Any:
            return self._loop.value.rpc.service(name, service, **options)

        return SyncStub(self._loop, self._loop.run(make()), service)


class SyncStub:
    """What `SyncRpc.stub` and `SyncRpc.service` make."""

    def __init__(self, loop: LoopThread[Node], stub: Any, service: type) -> None:
        from lattica.rpc.service import spec_of

        self._lattica = (loop, stub, service)
        for attribute, spec in spec_of(service).methods.items():
            setattr(self, attribute, _blocking(loop, getattr(stub, attribute), streams=spec.streams_results))


def options(stub: Any, **changes: Any) -> Any:
    """The same stub with other call options; see `lattica.rpc.options`.

    Raises:
        UsageError: It is no stub of a node without an event loop, or an option is unknown or wrong.
    """
    from lattica.rpc import options as changed

    if not isinstance(stub, SyncStub):
        raise UsageError(f"{stub!r} is no stub; node.rpc.stub(Service, peer) makes one")
    loop, inner, service = stub._lattica

    async def make() -> Any:
        return changed(inner, **changes)

    return SyncStub(loop, loop.run(make()), service)


def _blocking(loop: LoopThread[Node], method: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_streamed(value) for value in args)
        kwargs = {name: _streamed(value) for name, value in kwargs.items()}
        if streams:
            return loop.iterate(method(*args, **kwargs))
        return loop.run(method(*args, **kwargs))

    return call


def _streamed(value: Any) -> Any:
    """An iterator of the caller's is advanced in a thread: it may block."""
    return _items(value) if isinstance(value, Iterator) else value


async def _items(items: Iterator[Any]) -> AsyncIterator[Any]:
    while (item := await asyncio.to_thread(next, items, _END)) is not _END:
        yield item


class SyncContent:
    """Content without an event loop."""

    def __init__(self, loop: LoopThread[Node]) -> None:
        self._loop = loop

    def publish(self, path: Path | str, **options: Any) -> Published:
        """Copy a file or folder into the store and provide it; see `lattica.node.NodeContent.publish`."""
        return self._loop.run(self._loop.value.content.publish(path, **options))

    def fetch(self, cid: Cid | str, destination: Path | str, **options: Any) -> FetchResult:
        """Get content into a file or folder; see `lattica.node.NodeContent.fetch`."""
        return self._loop.run(self._loop.value.content.fetch(cid, destination, **options))


@contextlib.contextmanager
def open_node(config: NodeConfig | None = None) -> Iterator[SyncNode]:
    """A running node in a thread of its own, until the block ends; see `lattica.open_node`.

    Raises:
        ForkedError: This process was forked from one in which a node was open.
        UsageError: And the other errors of `lattica.open_node`.
    """
    from lattica.node import open_node as open_async

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("an event loop runs in this thread: use `async with lattica.open_node()`")
    loop = LoopThread(open_async(config))
    try:
        yield SyncNode(loop)
    finally:
        loop.close()
