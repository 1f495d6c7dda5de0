"""The local control API: commands talk to the running node over a unix socket that only its user can open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from lattica._proto import control_pb2, control_pb2_grpc, documents_pb2_grpc
from lattica._version import __version__
from lattica.content import FetchResult
from lattica.node.control_client import CONTROL_FILE
from lattica.node.control_documents import DocumentsServicer
from lattica.node.control_errors import Context, errors_told
from lattica.node.control_paths import encode_event, encode_paths
from lattica.rpc.local import open_local_server

if TYPE_CHECKING:
    from lattica.node.node import Node

logger = logging.getLogger(__name__)

MAX_PINGS = 1000
MAX_PING_INTERVAL_S = 3600.0
PROGRESS_INTERVAL_S = 0.1
"""Seconds between two progress messages at least."""


class ControlServicer(control_pb2_grpc.ControlServicer):
    """Serves `lattica.v1.Control` for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._started = time.monotonic()

    async def Status(self, request: control_pb2.StatusRequest, context: Context) -> control_pb2.StatusResponse:  # noqa: N802
        """Who and where the node is."""
        del request, context
        return control_pb2.StatusResponse(
            peer_id=str(self._node.peer_id),
            addresses=[str(address) for address in self._node.addresses],
            version=__version__,
            connections=len(self._node.peers()),
            dht_peers=self._node.dht.routing_table_size,
            uptime_s=time.monotonic() - self._started,
            reachability=self._node.mesh.reach.state.value,
            relays=[str(peer) for peer in self._node.mesh.reach.relay_ids],
            relayed=self._node.mesh.relayed,
        )

    async def Peers(self, request: control_pb2.PeersRequest, context: Context) -> control_pb2.PeersResponse:  # noqa: N802
        """The connected peers."""
        del request, context
        peers = [
            control_pb2.PeerInfo(
                peer_id=str(peer.peer_id),
                addresses=[address.text for address in peer.addresses],
                path=peer.path,
                agent=peer.agent,
                direction=peer.direction,
            )
            for peer in self._node.peers()
        ]
        return control_pb2.PeersResponse(peers=peers)

    async def Paths(self, request: control_pb2.PathsRequest, context: Context) -> control_pb2.PathsResponse:  # noqa: N802
        """How bytes travel to peers, and why not better."""
        async with errors_told(context):
            peers = [self._node.resolve(request.peer)] if request.peer else self._node.mesh.peers_with_paths()
            return encode_paths(self._node.mesh, peers)

    async def WatchPaths(  # noqa: N802
        self, request: control_pb2.WatchPathsRequest, context: Context
    ) -> AsyncIterator[control_pb2.PathEvent]:
        """What happens to paths from now on."""
        started = time.monotonic()
        async with errors_told(context):
            peer = self._node.resolve(request.peer) if request.peer else None
            with self._node.mesh.watch_paths() as events:
                await context.send_initial_metadata(())  # whoever waits for that misses nothing
                async for event in events:
                    if peer in {None, event.peer_id}:
                        yield encode_event(event, started)

    async def Ping(  # noqa: N802
        self, request: control_pb2.PingRequest, context: Context
    ) -> AsyncIterator[control_pb2.PingReply]:
        """One gRPC call after the other over the data path; the first finds the peer and opens a path, if it must."""
        started = time.monotonic()
        pause = _ping_interval(request.interval_s)
        async with errors_told(context):
            peer = self._node.resolve(request.peer)
            for number in range(min(max(request.count, 1), MAX_PINGS)):
                if number > 0:
                    await asyncio.sleep(pause)
                pong = await self._node.ping(peer)
                elapsed = time.monotonic() - started
                yield control_pb2.PingReply(peer_id=str(peer), rtt_s=pong.rtt, path=pong.path, elapsed_s=elapsed)

    async def Publish(  # noqa: N802
        self, request: control_pb2.PublishRequest, context: Context
    ) -> AsyncIterator[control_pb2.Progress]:
        """Publish a file or folder of this machine."""

        async def publish(progress: _Progress) -> control_pb2.TransferResult:
            started = time.monotonic()
            published = await self._node.content.publish(
                Path(request.path), name=request.name or None, progress=progress.update
            )
            return control_pb2.TransferResult(
                cid=str(published.cid),
                path=request.path,
                size=published.size,
                seconds=time.monotonic() - started,
                warnings=published.warnings,
            )

        async with errors_told(context):
            async for message in _with_progress(publish):
                yield message

    async def Fetch(  # noqa: N802
        self, request: control_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[control_pb2.Progress]:
        """Fetch content to a path of this machine."""

        async def fetch(progress: _Progress) -> control_pb2.TransferResult:
            result = await self._node.content.fetch(
                request.cid, Path(request.destination), overwrite=request.overwrite, progress=progress.update
            )
            return encode_result(result)

        async with errors_told(context):
            async for message in _with_progress(fetch):
                yield message


def _ping_interval(asked: float) -> float:
    # `min` and `max` would let a NaN through, which `sleep` never returns from.
    return min(asked, MAX_PING_INTERVAL_S) if asked > 0.0 else 0.0


def encode_result(result: FetchResult) -> control_pb2.TransferResult:
    """A fetch's result as a message."""
    return control_pb2.TransferResult(
        cid=str(result.cid),
        path=str(result.path),
        size=result.size,
        seconds=result.seconds,
        reused_bytes=result.reused_bytes,
        sources=[
            control_pb2.Source(
                peer_id=str(source.peer_id),
                path=source.path_kind,
                bytes=source.bytes,
                chunks=source.chunks,
                dropped=source.dropped,
            )
            for source in result.sources
        ],
    )


class _Progress:
    """The latest step of a transfer; older ones are not kept for a reader that is slow."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._latest: control_pb2.Progress | None = None
        self.changed = asyncio.Event()

    def update(self, phase: str, done: int, total: int) -> None:
        """Note a step; from any thread."""
        self._loop.call_soon_threadsafe(
            self._set, control_pb2.Progress(phase=phase, done_bytes=done, total_bytes=total)
        )

    def _set(self, message: control_pb2.Progress) -> None:
        self._latest = message
        self.changed.set()

    def take(self) -> control_pb2.Progress | None:
        """The latest step that was not taken yet."""
        latest, self._latest = self._latest, None
        self.changed.clear()
        return latest


async def _with_progress(
    work: Callable[[_Progress], Awaitable[control_pb2.TransferResult]],
) -> AsyncIterator[control_pb2.Progress]:
    progress = _Progress()
    task = asyncio.ensure_future(work(progress))
    task.add_done_callback(lambda _: progress.changed.set())
    try:
        while not task.done():
            await progress.changed.wait()
            latest = progress.take()
            if latest is not None:
                yield latest
            await asyncio.wait([task], timeout=PROGRESS_INTERVAL_S)
        yield control_pb2.Progress(result=task.result())
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def open_control(node: Node, home: Path, runtime: Path) -> AsyncIterator[None]:
    """Serve the control API while the block runs; commands find it through a file in the home folder."""
    path, file = runtime / "control", home / CONTROL_FILE

    def register(server: grpc.aio.Server) -> None:
        control_pb2_grpc.add_ControlServicer_to_server(ControlServicer(node), server)
        documents_pb2_grpc.add_DocumentsServicer_to_server(DocumentsServicer(node), server)

    async with open_local_server(path, register):
        _write_atomically(file, str(path))
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _write_atomically(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)
