"""gRPC to peer IDs: the node's server and its channels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import grpc

from lattica.background import Background, background_tasks
from lattica.identity import PeerId, TlsIdentity
from lattica.rpc.channel import PeerChannel
from lattica.rpc.options import DRAIN_S
from lattica.rpc.ports import RouteOpener
from lattica.rpc.server import RpcServer, open_server

S = TypeVar("S")


class Rpc:
    """Calls peers and serves them; made by `open_rpc`."""

    def __init__(self, server: RpcServer, opener: RouteOpener, tasks: Background) -> None:
        self._server = server
        self._opener = opener
        self._tasks = tasks
        self._channels: dict[PeerId, PeerChannel] = {}
        self._closed = False

    def channel(self, peer: PeerId) -> PeerChannel:
        """The channel to a peer, for generated stubs; the same one each time, made without waiting."""
        channel = self._channels.get(peer)
        if channel is None or (channel.closed and not self._closed):
            channel = self._channels[peer] = PeerChannel(peer, self._opener, self._tasks, closed=self._closed)
        return channel

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a generated service to peers: ``add_servicer(add_FooServicer_to_server, Foo())``.

        Its methods find out who calls with `caller_id`.
        """
        self._server.add_servicer(register, servicer)

    async def close(self) -> None:
        """Close all channels; running calls have `DRAIN_S` seconds."""
        self._closed = True
        await asyncio.gather(*(channel.close(DRAIN_S) for channel in self._channels.values()))


@contextlib.asynccontextmanager
async def open_rpc(server_tls: TlsIdentity, path: Path, opener: RouteOpener) -> AsyncIterator[Rpc]:
    """The rpc room of one node.

    Args:
        server_tls: The node authority's server identity.
        path: Unix socket for the gRPC server, in a private folder.
        opener: Finds ways to peers.
    """
    async with background_tasks() as tasks, open_server(server_tls, path) as server:
        rpc = Rpc(server, opener, tasks)
        try:
            yield rpc
        finally:
            await rpc.close()
