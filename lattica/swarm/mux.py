"""A multiplexed stream with framing, in trio: what both sides of a control protocol read and write."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_FIN,
    FLAG_RST,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    YamuxStream,
)

from lattica.errors import RemoteProtocolError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.identity.varint import MAX_VARINT_BYTES, decode_varint, encode_varint

WRITE_TIMEOUT_S = 10.0
"""Seconds that one write may wait for the peer to take it, unless the stream is for bulk."""
CLOSE_TIMEOUT_S = 1.0
"""Seconds that saying goodbye on a stream may take, cancelled or not; it is tried twice."""
WINDOW = 256 * 1024
"""Bytes that the peer may send ahead on a new stream; yamux's own figure."""
MAX_WINDOW = 1024 * 1024
"""Bytes that the peer may send ahead on a stream that has moved some; on one for bulk it stays at `WINDOW`."""
MAX_CIRCUIT_FRAME = 65_535 - 16 - HEADER_SIZE
"""Bytes of data in one frame of a stream that carries a circuit: with header and tag they make one Noise message."""
MAX_FRAME = MAX_CIRCUIT_FRAME - 2 - 16 - HEADER_SIZE
"""Bytes of data in one frame of any other stream: inside a circuit they make one frame of that."""
RECHECK_S = 1.0
"""Seconds after which a writer that waits for window looks whether its stream was reset, which yamux tells nobody."""
_READ_SIZE = 64 * 1024
_LOST = (MuxedStreamError, MuxedStreamReset, RawConnError, IOException, trio.BrokenResourceError, OSError)


class MuxStream:
    """One stream on a control connection.

    Reads and writes raise `StreamError` when the stream or its connection is lost. One task may read while another
    writes. A cancelled read loses nothing.

    Attributes:
        peer: The peer at the other end.
        remote: Where it is, on this stream's connection.
        position: How many bytes have been read and dropped.
        carries_circuit: Whether it counts among circuits, see `carry_circuit`.
        write_timeout: Seconds that one write may wait; infinite for bulk, whose reader may stall as long as it likes.
    """

    def __init__(
        self,
        stream: YamuxStream,
        peer: PeerId,
        remote: PeerAddress,
        on_end: Callable[[], None] | None = None,
        on_circuit: Callable[[], None] | None = None,
        on_bulk: Callable[[int], None] | None = None,
    ) -> None:
        self.peer = peer
        self.remote = remote
        self.position = 0
        self.carries_circuit = False
        self.write_timeout = WRITE_TIMEOUT_S
        self._on_end = on_end
        self._on_circuit = on_circuit
        self._on_bulk = on_bulk
        self._is_bulk = False
        self._max_window = MAX_WINDOW
        self._max_frame = MAX_FRAME
        self._window_lock = _WindowLock()
        stream.window_lock = self._window_lock  # type: ignore[assignment]
        self._stream = stream
        self._buffer = bytearray()
        self._ended = False
        self._window = WINDOW
        self._unacknowledged = 0

    def carry_bulk(self) -> None:
        """From here on either reader may stall as long as it likes: writes wait, and a window is allowed for."""
        self.write_timeout = float("inf")
        self._max_window = WINDOW
        if not self._is_bulk and self._on_bulk is not None:
            self._on_bulk(1)
        self._is_bulk = True

    def carry_circuit(self) -> None:
        """As `carry_bulk`; and the stream counts among circuits, not among the other streams.

        Raises:
            StreamError: The connection has too many circuits.
        """
        if not self.carries_circuit and self._on_circuit is not None:
            self._on_circuit()
        self.carries_circuit = True
        self._max_frame = MAX_CIRCUIT_FRAME
        self.carry_bulk()

    async def read_some(self, limit: int) -> bytes:
        """Between 1 and ``limit`` bytes; ``b""`` at the end of the stream."""
        data = await self.some_at(self.position, limit)
        self._drop_to(self.position + len(data))
        return data

    async def read_message(self, limit: int) -> bytes | None:
        """The next message with a varint length before it; ``None`` if the stream ended between messages.

        Raises:
            RemoteProtocolError: The message is longer than ``limit`` bytes, or its length is malformed.
        """
        message, end = await self.message_at(self.position, limit)
        self._drop_to(end)
        return message

    async def some_at(self, position: int, limit: int) -> bytes:
        """As `read_some`, at a position (bytes from the stream's start) not before that of the last call.

        For a reader in another thread, who may be cancelled when the bytes are on their way to it: it asks again.
        """
        self._drop_to(position)
        if not self._buffer:
            await self._fill()
        return bytes(self._buffer[:limit])

    async def message_at(self, position: int, limit: int) -> tuple[bytes | None, int]:
        """As `read_message`, at a position as in `some_at`; the message and the position behind it."""
        self._drop_to(position)
        while not _has_varint(self._buffer):
            if not await self._fill():
                if self._buffer:
                    raise StreamError("the stream ended in the middle of a message")
                return None, position
        try:
            length, start = decode_varint(self._buffer)
        except ValueError as error:
            raise RemoteProtocolError(f"malformed length: {error}", self.peer) from error
        if length > limit:
            raise RemoteProtocolError(f"message of {length} bytes, {limit} allowed", self.peer)
        end = start + length
        while len(self._buffer) < end:
            if not await self._fill():
                raise StreamError("the stream ended in the middle of a message")
        return bytes(self._buffer[start:end]), position + end

    def _drop_to(self, position: int) -> None:
        del self._buffer[: position - self.position]
        self.position = position

    async def _fill(self) -> bool:
        if self._ended:
            return False
        connection = self._stream.conn
        try:
            # Not YamuxStream.read: it drops what it has read when it is cancelled while it sends a window update.
            data = await connection.read_stream(self._stream.stream_id, _READ_SIZE)
        except MuxedStreamEOF as error:
            if self._stream.reset_received or connection.event_shutting_down.is_set():
                raise StreamError("the stream was reset, or its connection lost") from error
            data = b""
        except _LOST as error:
            raise StreamError(f"the stream was reset: {error or type(error).__name__}") from error
        self._ended = not data
        self._buffer += data
        await self._acknowledge(len(data))
        return bool(data)

    async def _acknowledge(self, size: int) -> None:
        """Let the peer send as much again, once half a window has been read; a busy stream's window grows."""
        self._unacknowledged += size
        if self._unacknowledged < self._window // 2:
            return
        window = min(2 * self._window, self._max_window)
        credit = self._unacknowledged + window - self._window
        self._window, self._unacknowledged = window, 0
        self._stream.recv_window += credit
        with trio.CancelScope(shield=True), suppress(*_LOST):  # the next read tells if it is lost
            await self._stream.send_window_update(credit)

    async def write(self, data: bytes) -> None:
        """Send ``data``; returns when the multiplexer has taken it.

        A caller that is cancelled in here may have sent a part: it has to reset the stream.
        """
        try:
            with trio.fail_after(self.write_timeout):
                await self._send(data)
        except _LOST as error:
            raise StreamError(f"the stream was reset: {error or type(error).__name__}") from error
        except trio.TooSlowError as error:
            raise StreamError(f"the peer took no data for {self.write_timeout:.0f} s") from error

    async def _send(self, data: bytes) -> None:
        """As `YamuxStream.write`, which polls for window and resets a stream whose reader stalls for 5 s."""
        stream, sent = self._stream, 0
        while sent < len(data):
            if stream.send_closed or stream.closed:
                raise MuxedStreamError("it is closed")
            size = min(stream.send_window, self._max_frame, len(data) - sent)
            if size <= 0:
                with trio.move_on_after(RECHECK_S):
                    await self._window_lock.changed.wait()
                continue
            stream.send_window -= size
            header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream.stream_id, size)
            await stream.conn._write_frame(header + data[sent : sent + size])
            sent += size

    async def write_message(self, message: bytes) -> None:
        """Send ``message`` with its length before it."""
        await self.write(encode_varint(len(message)) + message)

    async def close(self) -> None:
        """Say that nothing more will be written; the other side reads to the end."""
        if not self.carries_circuit:  # a circuit counts until both its directions are over
            self._release()
        await self._end(self._stream.close, FLAG_FIN)

    async def finish(self) -> None:
        """Close the stream and forget it: what the peer may still send on it is dropped."""
        self._release()
        await self._end(self._stream.close, FLAG_FIN)
        await self._forget()

    async def reset(self) -> None:
        """Drop the stream in both directions."""
        self._release()
        await self._end(self._stream.reset, FLAG_RST)
        await self._forget()

    def _release(self) -> None:
        if self._on_end is not None:
            self._on_end()
            self._on_end = None

    async def _end(self, how: Callable[[], Awaitable[None]], flag: int) -> None:
        with _briefly() as scope, suppress(*_LOST):
            await how()
        if scope.cancelled_caught:
            # It was this machine that stalled, perhaps: who is never told would keep the stream for ever.
            with _briefly(), suppress(*_LOST):
                stream = self._stream
                header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, flag, stream.stream_id, 0)
                await stream.conn._write_frame(header)

    async def _forget(self) -> None:
        """Have yamux drop its record of the stream, which otherwise stays until the peer closes its side too."""
        connection, stream = self._stream.conn, self._stream
        if self._on_bulk is not None and self._is_bulk:
            self._on_bulk(-1)
            self._on_bulk = None
        with trio.CancelScope(shield=True):
            async with connection.streams_lock:
                stream.closed = stream.send_closed = stream.recv_closed = True
                connection.stream_buffers.pop(stream.stream_id, None)
                if stream.stream_id in connection.stream_events:
                    connection.stream_events[stream.stream_id].set()
                connection._finalize_stream_locked(stream, fully_closed=True)


class _WindowLock:
    """A yamux stream's ``window_lock`` that tells when it was held, which yamux does to change the window.

    Attributes:
        changed: Set, and replaced by a fresh one, whenever the window may have changed.
    """

    def __init__(self) -> None:
        self.changed = trio.Event()
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
        self.changed.set()
        self.changed = trio.Event()


def _briefly() -> trio.CancelScope:
    return trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S)


def _has_varint(buffer: bytearray) -> bool:
    return len(buffer) >= MAX_VARINT_BYTES or any(byte < 0x80 for byte in buffer)
