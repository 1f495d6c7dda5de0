"""A multiplexed stream with framing, in trio: what both sides of a control protocol read and write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from lattica.errors import RemoteProtocolError, StreamError
from lattica.identity import PeerId
from lattica.identity.varint import MAX_VARINT_BYTES, decode_varint, encode_varint

WRITE_TIMEOUT_S = 10.0
"""Seconds that one write may wait for the peer to take it; yamux itself gives up after 5 s without window."""
CLOSE_TIMEOUT_S = 1.0
"""Seconds that saying goodbye on a stream may take, cancelled or not."""
_READ_SIZE = 64 * 1024
_LOST = (MuxedStreamError, MuxedStreamReset, RawConnError, IOException, trio.BrokenResourceError, OSError)


class MuxStream:
    """One stream on a control connection.

    Reads and writes raise `StreamError` when the stream or its connection is lost. One task may read while another
    writes.

    Attributes:
        peer: The peer at the other end.
    """

    def __init__(self, stream: YamuxStream, peer: PeerId, on_end: Callable[[], None] | None = None) -> None:
        self.peer = peer
        self._on_end = on_end
        self._stream = stream
        self._buffer = bytearray()
        self._ended = False

    async def read_some(self, limit: int) -> bytes:
        """Between 1 and ``limit`` bytes; ``b""`` at the end of the stream."""
        if not self._buffer:
            await self._fill()
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return data

    async def read_message(self, limit: int) -> bytes | None:
        """The next message with a varint length before it; ``None`` if the stream ended between messages.

        Raises:
            RemoteProtocolError: The message is longer than ``limit`` bytes, or its length is malformed.
        """
        length = await self._read_length()
        if length is None:
            return None
        if length > limit:
            raise RemoteProtocolError(f"message of {length} bytes, {limit} allowed", self.peer)
        while len(self._buffer) < length:
            if not await self._fill():
                raise StreamError("the stream ended in the middle of a message")
        message = bytes(self._buffer[:length])
        del self._buffer[:length]
        return message

    async def _read_length(self) -> int | None:
        while not _has_varint(self._buffer):
            if not await self._fill():
                if self._buffer:
                    raise StreamError("the stream ended in the middle of a message")
                return None
        try:
            length, end = decode_varint(self._buffer)
        except ValueError as error:
            raise RemoteProtocolError(f"malformed length: {error}", self.peer) from error
        del self._buffer[:end]
        return length

    async def _fill(self) -> bool:
        if self._ended:
            return False
        try:
            data = await self._stream.read(_READ_SIZE)
        except MuxedStreamEOF:
            data = b""
        except _LOST as error:
            self._ended = True
            raise StreamError(f"the stream was reset: {error or type(error).__name__}") from error
        self._ended = not data
        self._buffer += data
        return bool(data)

    async def write(self, data: bytes) -> None:
        """Send ``data``; returns when the multiplexer has taken it.

        A caller that is cancelled in here may have sent a part: it has to reset the stream.
        """
        try:
            with trio.fail_after(WRITE_TIMEOUT_S):
                await self._stream.write(data)
        except _LOST as error:
            raise StreamError(f"the stream was reset: {error or type(error).__name__}") from error
        except trio.TooSlowError as error:
            raise StreamError(f"the peer took no data for {WRITE_TIMEOUT_S:.0f} s") from error

    async def write_message(self, message: bytes) -> None:
        """Send ``message`` with its length before it."""
        await self.write(encode_varint(len(message)) + message)

    async def close(self) -> None:
        """Say that nothing more will be written; the other side reads to the end."""
        await self._finish(self._stream.close)

    async def reset(self) -> None:
        """Drop the stream in both directions."""
        await self._finish(self._stream.reset)

    async def _finish(self, how: Callable[[], Awaitable[None]]) -> None:
        if self._on_end is not None:
            self._on_end()
            self._on_end = None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S), suppress(*_LOST):
            await how()


def _has_varint(buffer: bytearray) -> bool:
    return len(buffer) >= MAX_VARINT_BYTES or any(byte < 0x80 for byte in buffer)
