"""One stream of small calls to a peer: the caller's side of what travels."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import grpc
from grpc.aio import AioRpcError

from lattica.errors import PeerUnreachableError, RemoteProtocolError
from lattica.rpc.batch_calls import CallTable
from lattica.rpc.batch_wire import INSTANCE_KEY, KNOWN_KEY, encode_requests
from lattica.rpc.channel import PeerChannel
from lattica.rpc.gathering import CROWD, wait_for_more
from lattica.rpc.metrics import RpcMetrics


class StreamOwner(Protocol):
    """What a stream uses, and whom it tells: `lattica.rpc.batch_client.BatchClient`.

    Attributes:
        channel: Leads to the peer.
        table: The calls.
        metrics: Where bytes are counted.
    """

    channel: PeerChannel
    table: CallTable
    metrics: RpcMetrics

    def welcomed(self, instance: bytes, *, known: bool) -> None:
        """The server has said who it is, and whether it remembers us."""

    def answered(self, message: bytes, path: str) -> None:
        """A message has come, by a kind of path."""

    def acknowledge_soon(self) -> None:
        """Set the timer for acknowledgements, if there are any and it is not set."""

    def superseded(self, stream: CallerStream) -> None:
        """There is a better path than the one that a stream takes."""

    def ended(self, stream: CallerStream, error: Exception | None) -> None:
        """A stream has come to its end."""


class CallerStream:
    """One gRPC stream; made by `BatchClient`.

    Attributes:
        wake: Set when there is something to write.
        acknowledging: Whether a timer to do so is set.
        began: When it was opened, in seconds of the monotonic clock.
        instance: The server's; ``None`` until it has said.
        instance_before: What a server of an earlier stream had said last when this one was opened; ``None`` if none.
        is_known: Whether it remembered us then.
        path: Kind of the path that it took at its start.
    """

    def __init__(self, owner: StreamOwner, call: Any, path: str, instance_before: bytes | None = None) -> None:
        self.wake = asyncio.Event()
        self.acknowledging = False
        self.began = time.monotonic()
        self._owner = owner
        self._call = call
        self.instance: bytes | None = None
        self.instance_before = instance_before
        self.is_known = False
        self.path = path
        self._retired = False
        self._replaced: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read and write from now on."""
        self.wake.set()
        channel = self._owner.channel
        reading = channel.spawn(self._run)
        self._replaced = channel.spawn(channel.wait_replaced)
        self._replaced.add_done_callback(self._superseded)
        reading.add_done_callback(self._done)

    def acknowledge(self) -> None:
        """Write what there is."""
        self.acknowledging = False
        self.wake.set()

    def retire(self) -> None:
        """Take no more calls."""
        self._retired = True
        self.wake.set()

    def cancel(self) -> None:
        """End at once."""
        self._call.cancel()

    async def welcome(self) -> None:
        """Wait until the server has said who it is.

        Raises:
            AioRpcError: The call has ended before that.
            PeerUnreachableError: As above; the node closes.
            RemoteProtocolError: The server does not say.
        """
        if self.instance is None:
            metadata = await self._call.initial_metadata()
            instance = bytes(metadata.get(INSTANCE_KEY, b""))
            if not instance:  # gRPC makes up empty metadata for a call that has failed: reading tells why it did
                await self._call.read()
                raise RemoteProtocolError("a session of a server without a name", self._owner.channel.peer_id)
            self.instance = instance
            self.is_known = metadata.get(KNOWN_KEY) == "1"
            self._owner.welcomed(self.instance, known=self.is_known)

    async def _run(self) -> None:
        error: Exception | None = None
        writing = self._owner.channel.spawn(self._write)
        try:
            await self._read()
        except (AioRpcError, RemoteProtocolError, PeerUnreachableError, asyncio.InvalidStateError) as reason:
            error = reason
        finally:
            writing.cancel()
            self._call.cancel()
            self._owner.ended(self, error)

    def _done(self, _: object) -> None:
        if self._replaced is not None:
            self._replaced.cancel()

    def _superseded(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._owner.superseded(self)

    async def _read(self) -> None:
        await self.welcome()
        answered, read, eof = self._owner.answered, self._call.read, grpc.aio.EOF
        while True:
            message = await read()
            if message is eof:
                return
            answered(message, self.path)
            if self._retired:
                self.wake.set()

    async def _write(self) -> None:
        table, wake, call = self._owner.table, self.wake, self._call
        count_bytes = self._owner.metrics.bytes
        try:
            while not self._retired:
                await wake.wait()
                wake.clear()
                while table.has_news and not self._retired:
                    if table.sent >= CROWD:
                        await wait_for_more()
                    message = encode_requests(*table.take(self, time.monotonic()))
                    count_bytes("client", "sent", len(message))
                    await call.write(message)
                    if not table.has_urgent:  # acknowledgements that have come meanwhile wait for a message to go with
                        self._owner.acknowledge_soon()
                        break
            while not table.is_answered(self):
                await wake.wait()
                wake.clear()
            await call.done_writing()
        except (AioRpcError, asyncio.InvalidStateError, PeerUnreachableError, grpc.aio.InternalError):
            return  # reading tells why
