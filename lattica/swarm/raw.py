"""What Noise runs on, as py-libp2p wants it: a TCP socket, or a stream that a relay carries to the other side."""

from __future__ import annotations

import math
import socket
from abc import abstractmethod

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from multiaddr import Multiaddr

from lattica.errors import StreamError
from lattica.identity import PeerAddress
from lattica.swarm.mux import MuxStream

SEND_TIMEOUT_S = 20.0
"""Seconds that one frame, at most 64 KiB, may take to leave before the connection counts as lost."""
MAX_HANDSHAKE = 64 * 1024
"""Bytes that the handshakes may take of a peer that has not proven who it is; real ones take less than 1 KiB."""
GOODBYE_S = 1.0
"""Seconds that the last bytes of a circuit have to reach the other side before the relay is told to drop it."""
_READ_SIZE = 64 * 1024


class RawConnection(IRawConnection):
    """Bytes in both directions, below Noise.

    Writes are shielded from cancellation: Noise numbers its messages, so a message that was encrypted but not sent
    would break the connection for all its streams.
    """

    def __init__(self, *, initiator: bool, remote: PeerAddress) -> None:
        self.is_initiator = initiator
        self._remote = remote
        self._buffer = bytearray()
        self._handshake_left: int | None = MAX_HANDSHAKE
        self._send_timeout = SEND_TIMEOUT_S
        self._sending = trio.CancelScope()

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes (``None``: at least one), or fewer at the end.

        Reads ahead, which saves two system calls for each Noise message, and gathers ``n`` bytes here, because
        py-libp2p's `read_exactly` gives up on a message that comes in more than 101 pieces.
        """
        wanted = 1 if n is None else n
        self._count_handshake(wanted)
        while len(self._buffer) < wanted:
            more = await self._receive()
            if not more:
                break
            self._buffer += more
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _count_handshake(self, size: int) -> None:
        if self._handshake_left is not None:
            self._handshake_left -= size
            if self._handshake_left < 0:
                raise ConnectionClosedError(f"a handshake of more than {MAX_HANDSHAKE} bytes")

    def handshake_done(self) -> None:
        """The other side has proven who it is: it may send what it likes."""
        self._handshake_left = None

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, cancelled or not."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._send_timeout) as scope:
            self._sending = scope
            await self._send(data)
        if scope.cancelled_caught:
            self.abort()
            raise ConnectionClosedError(f"the peer took too long to receive {len(data)} bytes")

    def hurry(self, timeout: float) -> None:
        """Give the send under way, and each later one, no more than ``timeout`` seconds."""
        self._send_timeout = timeout
        self._sending.deadline = min(self._sending.deadline, trio.current_time() + timeout)

    async def close(self) -> None:
        """As `abort`."""
        self.abort()

    @abstractmethod
    async def _receive(self) -> bytes:
        """Some bytes; ``b""`` at the end; `ConnectionClosedError` if the connection is lost."""

    @abstractmethod
    async def _send(self, data: bytes) -> None:
        """Send all of ``data``; `ConnectionClosedError` if the connection is lost."""

    @abstractmethod
    def abort(self) -> None:
        """Close it at once; readers and writers get an error."""

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other side, if it is known where it is."""
        return (self._remote.host, self._remote.port) if self._remote.host else None

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The other side's multiaddr."""
        return [Multiaddr(self._remote.text)]

    def get_connection_type(self) -> ConnectionType:
        """Whether a relay is between."""
        return ConnectionType.RELAYED if self._remote.is_circuit else ConnectionType.DIRECT


class SocketConnection(RawConnection):
    """A connected TCP socket."""

    def __init__(self, sock: socket.socket, *, initiator: bool, remote: PeerAddress) -> None:
        super().__init__(initiator=initiator, remote=remote)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}") from error

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}") from error

    def abort(self) -> None:
        """Close the socket at once; readers and writers get an error."""
        self._stream.socket.close()


class StreamConnection(RawConnection):
    """A circuit: the stream to a relay that carries the bytes from and to the other side.

    Whoever makes one runs `hold` until it returns: that gives the stream back, whatever happens.
    """

    def __init__(self, stream: MuxStream, *, initiator: bool, remote: PeerAddress) -> None:
        super().__init__(initiator=initiator, remote=remote)
        self._stream = stream
        self._reading = trio.CancelScope()
        self._aborted = trio.Event()

    async def _receive(self) -> bytes:
        self._reading = trio.CancelScope(deadline=-math.inf if self._aborted.is_set() else math.inf)
        try:
            with self._reading:
                return await self._stream.read_some(_READ_SIZE)
        except StreamError as error:
            raise ConnectionClosedError(f"circuit lost: {error}") from error
        raise ConnectionClosedError("circuit lost: it is closed")

    async def _send(self, data: bytes) -> None:
        if self._aborted.is_set():
            raise ConnectionClosedError("circuit lost: it is closed")
        try:
            await self._stream.write(data)
        except StreamError as error:
            self.abort()  # a part of a message may be gone
            raise ConnectionClosedError(f"circuit lost: {error}") from error

    def abort(self) -> None:
        """End the circuit; readers and writers get an error at once, the relay is told by `hold`."""
        self._aborted.set()
        self._reading.cancel()
        self._sending.cancel()

    async def hold(self) -> None:
        """Return when the circuit is ended, by `abort` or cancellation, and its stream is given back."""
        try:
            await self._aborted.wait()
            await self._stream.close()
            with trio.move_on_after(GOODBYE_S):
                await self._drain()
        finally:
            self.abort()
            await self._stream.reset()

    async def _drain(self) -> None:
        try:
            while await self._stream.read_some(_READ_SIZE):
                pass
        except StreamError:
            return
