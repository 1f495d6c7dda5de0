"""One control connection: a yamux session with a peer, its streams in both directions."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from lattica.errors import LatticaError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.swarm.multistream import confirm, negotiate, propose
from lattica.swarm.mux import MuxStream
from lattica.swarm.raw import RawConnection
from lattica.swarm.transport import BoundedYamux

logger = logging.getLogger(__name__)

MAX_INBOUND_STREAMS = 256
"""Streams that a peer may have open to us on one connection; further ones are reset. go-libp2p's limit too."""
MAX_OUTBOUND_STREAMS = 128
"""Streams that we open to a peer at one time; further ones wait. Half of what any peer allows us."""
MAX_CIRCUITS = 512
"""Streams that carry circuits, on one connection and in each direction; they do not count as other streams do.

Twice what one relay has to carry to one target. Of a foreign peer its own limits hold.
"""
MAX_OPENING_CIRCUITS = 64
"""Circuits that we open to a peer at one time; further ones wait. Until they run, they count as streams there."""
OPEN_TIMEOUT_S = 10.0
"""Seconds to open a stream and agree on its protocol."""
CLOSE_TIMEOUT_S = 0.5
"""Seconds to say goodbye to the peer, and for a send that is under way when the connection ends."""

InboundHandler = Callable[[MuxStream], Awaitable[None]]
"""Serves one inbound stream to its end, in trio."""


class Direction(Enum):
    """Who dialled."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """A control connection as others see it.

    Attributes:
        peer_id: The peer, proven by Noise.
        remote: Where it is.
        direction: Who dialled.
        relay: The relay that carries it; ``None`` if it is direct. ``remote`` is a circuit address then.
    """

    peer_id: PeerId
    remote: PeerAddress
    direction: Direction
    relay: PeerId | None = None


class Connection:
    """A running connection, in trio. `run` serves it until it is lost or closed."""

    def __init__(
        self, info: ConnectionInfo, raw: RawConnection, muxed: BoundedYamux, handlers: Mapping[str, InboundHandler]
    ) -> None:
        self.info = info
        self._raw = raw
        self._muxed = muxed
        self._handlers = handlers
        self._inbound = 0
        self._inbound_circuits = 0
        self._outbound = trio.Semaphore(MAX_OUTBOUND_STREAMS)
        self._outbound_circuits = trio.Semaphore(MAX_CIRCUITS)
        self._opening_circuits = trio.Semaphore(MAX_OPENING_CIRCUITS)
        muxed.stream_backlog_limit = MAX_OUTBOUND_STREAMS + MAX_CIRCUITS  # yamux's own is 256
        muxed.stream_backlog_semaphore = trio.Semaphore(muxed.stream_backlog_limit)
        self._ready = False
        self._closing = False

    @property
    def is_open(self) -> bool:
        """Whether streams can still be opened."""
        return self._ready and not self._closing and not self._muxed.event_shutting_down.is_set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve inbound streams until the connection ends; ``on_ready`` is called when it can be used, if ever."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_muxer)
                try:
                    await self._muxed.event_started.wait()
                    if not self._closing:
                        self._ready = True
                        on_ready()
                        await self._accept_streams(nursery)
                finally:
                    self._closing = True
                    self._raw.hurry(CLOSE_TIMEOUT_S)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._muxed.end(CLOSE_TIMEOUT_S)
            self._raw.abort()
            for slots in (self._outbound, self._outbound_circuits, self._opening_circuits):
                while slots.statistics().tasks_waiting:  # for a stream, in vain
                    slots.release()

    async def _run_muxer(self) -> None:
        try:
            await self._muxed.start()
        except Exception as error:  # noqa: BLE001 - a peer's doing: costs it the connection
            logger.info("connection failed peer=%s reason=%r", self.info.peer_id, error)
        self._muxed.event_started.set()
        self._muxed.event_shutting_down.set()
        self.close()

    async def _accept_streams(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await self._muxed.accept_stream()
            except MuxedConnUnavailable:
                return
            inbound = MuxStream(
                stream,  # type: ignore[arg-type]
                self.info.peer_id,
                self.info.remote,
                on_circuit=self._count_circuit,
                on_bulk=self._muxed.count_bulk,
            )
            nursery.start_soon(self._serve, inbound)

    def _count_circuit(self) -> None:
        if self._inbound_circuits >= MAX_CIRCUITS:
            raise StreamError(f"more than {MAX_CIRCUITS} circuits")
        self._inbound -= 1
        self._inbound_circuits += 1

    async def _serve(self, stream: MuxStream) -> None:
        self._inbound += 1
        try:
            if self._inbound > MAX_INBOUND_STREAMS:
                raise StreamError(f"more than {MAX_INBOUND_STREAMS} streams")
            with trio.fail_after(OPEN_TIMEOUT_S):
                protocol = await negotiate(stream, self._handlers)
            if protocol is not None:
                handler = self._handlers.get(protocol)
                if handler is None:  # it was served until this moment: we are closing, or no relay any more
                    raise StreamError(f"{protocol} is not served any more")
                await handler(stream)
            await stream.finish()
        except LatticaError as error:
            logger.info("stream dropped peer=%s reason=%s", self.info.peer_id, error)
            await stream.reset()
        except trio.TooSlowError:
            await stream.reset()
        except Exception:
            logger.exception("stream handler failed peer=%s", self.info.peer_id)
            await stream.reset()
        except BaseException:
            await stream.reset()
            raise
        finally:
            if stream.carries_circuit:
                self._inbound_circuits -= 1
            else:
                self._inbound -= 1

    async def open_stream(self, protocol: str, first: bytes = b"", *, circuit: bool = False) -> MuxStream:
        """A new stream for ``protocol`` with ``first`` already sent; waits while too many others are open.

        Args:
            protocol: The protocol ID.
            first: Bytes that begin the stream.
            circuit: It will carry a circuit, and is not counted among the other streams.

        Raises:
            StreamError: The connection is lost, or the peer does not serve the protocol.
        """
        if not circuit:
            return await self._open(protocol, first, self._outbound)
        async with self._opening_circuits:
            return await self._open(protocol, first, self._outbound_circuits)

    async def _open(self, protocol: str, first: bytes, slots: trio.Semaphore) -> MuxStream:
        await slots.acquire()
        try:
            with trio.fail_after(OPEN_TIMEOUT_S):
                stream = await self._new_stream(slots)
                try:
                    await propose(stream, protocol, first)
                    await confirm(stream, protocol)
                except BaseException:
                    await stream.reset()
                    raise
                return stream
        except trio.TooSlowError as error:
            raise StreamError(f"the peer did not answer within {OPEN_TIMEOUT_S:.0f} s") from error
        except MuxedStreamError as error:
            raise StreamError(f"the connection is closed: {error}") from error

    async def _new_stream(self, slots: trio.Semaphore) -> MuxStream:
        try:
            # When it is cancelled, Yamux.open_stream keeps its slot for ever.
            with trio.CancelScope(shield=True):
                muxed = await self._muxed.open_stream()
        except BaseException:
            slots.release()
            raise
        stream = MuxStream(
            muxed, self.info.peer_id, self.info.remote, on_end=slots.release, on_bulk=self._muxed.count_bulk
        )
        if slots is self._outbound_circuits:
            stream.carry_circuit()
        return stream

    def close(self) -> None:
        """End the connection soon; no stream can be opened from here on."""
        self._closing = True
        self._muxed.new_stream_send_channel.close()
