"""The circuit under Noise: what cancellation, slow relays and its end do to it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError

from lattica.errors import StreamError
from lattica.identity import IdentityKey, PeerAddress
from lattica.swarm.raw import GOODBYE_S, MAX_HANDSHAKE, SEND_TIMEOUT_S, StreamConnection

RELAY = PeerAddress.tcp("192.0.2.1", 4001, IdentityKey.from_seed(bytes(32)).peer_id)


class FakeStream:
    """A stream whose other side is the test's: `come` and `ended` are what it sends, `sent` what it got."""

    def __init__(self) -> None:
        self.sent = b""
        self.taken_each_s = math.inf
        self.come: list[bytes | StreamError] = []
        self.closed = self.was_reset = False
        self._changed = trio.Event()

    def arrive(self, *what: bytes | StreamError) -> None:
        self.come += what
        self._changed.set()
        self._changed = trio.Event()

    async def read_some(self, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.come:
            await self._changed.wait()
        first = self.come[0]
        if isinstance(first, StreamError):
            raise first
        if first:
            self.come.pop(0)
        return first

    async def write(self, data: bytes) -> None:
        await trio.sleep(len(data) / self.taken_each_s)
        self.sent += data

    async def close(self) -> None:
        self.closed = True

    async def reset(self) -> None:
        self.was_reset = True


Script = Callable[[StreamConnection, FakeStream], Awaitable[None]]


def play(script: Script) -> None:
    async def main() -> None:
        stream = FakeStream()
        raw = StreamConnection(stream, initiator=True, remote=PeerAddress.circuit(RELAY))  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.hold)
            with trio.fail_after(3600):
                await script(raw, stream)
            nursery.cancel_scope.cancel()
        assert stream.was_reset, "the relay's slot is given back in any case"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_reads_gather_pieces_and_take_no_more_than_asked() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.arrive(*(bytes([number]) for number in range(200)), b"more")
        assert await raw.read(200) == bytes(range(200))
        assert await raw.read() == b"more"
        stream.arrive(b"end", b"")
        assert await raw.read(10) == b"end"
        assert await raw.read(10) == b""

    play(script)


def test_a_cancelled_read_loses_nothing() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.arrive(b"half")
        with trio.move_on_after(1) as scope:
            await raw.read(8)
        assert scope.cancelled_caught
        stream.arrive(b"full")
        assert await raw.read(8) == b"halffull"

    play(script)


def test_a_handshake_has_so_many_bytes_and_no_more() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        with pytest.raises(ConnectionClosedError, match="handshake"):
            await raw.read(MAX_HANDSHAKE + 1)

    play(script)


def test_a_cancelled_write_is_sent_to_the_end() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.taken_each_s = 100
        with trio.move_on_after(0.5) as scope:
            await raw.write(bytes(300))
        assert not stream.closed
        assert scope.cancel_called
        assert len(stream.sent) == 300

    play(script)


def test_a_write_that_nobody_takes_ends_the_circuit_in_time() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.taken_each_s = 1
        started = trio.current_time()
        with pytest.raises(ConnectionClosedError, match="too long"):
            await raw.write(bytes(1000))
        assert trio.current_time() - started == pytest.approx(SEND_TIMEOUT_S)
        with pytest.raises(ConnectionClosedError):
            await raw.read(1)
        with pytest.raises(ConnectionClosedError):
            await raw.write(b"x")

    play(script)


def test_at_the_end_a_write_has_to_hurry() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.taken_each_s = 1
        raw.hurry(0.5)
        started = trio.current_time()
        with pytest.raises(ConnectionClosedError):
            await raw.write(bytes(1000))
        assert trio.current_time() - started == pytest.approx(0.5)

    play(script)


def test_an_abort_ends_reads_and_writes_at_once() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.taken_each_s = 1
        started = trio.current_time()

        async def fail(operation: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(ConnectionClosedError):
                await operation()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, lambda: raw.read(10))
            nursery.start_soon(fail, lambda: raw.write(bytes(10)))
            await trio.sleep(1)
            raw.abort()
        assert trio.current_time() - started == pytest.approx(1)

    play(script)


@pytest.mark.parametrize("other_side", ["ends", "is silent", "is lost"])
def test_after_an_abort_the_other_side_has_a_moment_to_end(other_side: str) -> None:
    """What was sent last is on its way through the relay, which would drop it on a reset."""

    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        started = trio.current_time()
        await raw.close()
        await trio.sleep(0.1)
        assert (stream.closed, stream.was_reset) == (True, False)
        stream.arrive(b"late")
        if other_side != "is silent":
            stream.arrive(b"" if other_side == "ends" else StreamError("reset"))
        while not stream.was_reset:
            await trio.sleep(0.01)
        took = trio.current_time() - started
        assert took == pytest.approx(GOODBYE_S if other_side == "is silent" else 0.1, abs=0.05)

    play(script)


def test_a_lost_stream_is_a_lost_connection() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        stream.arrive(StreamError("the stream was reset"))
        with pytest.raises(ConnectionClosedError, match="circuit lost: the stream was reset"):
            await raw.read(1)

    play(script)


def test_it_says_what_it_is() -> None:
    async def script(raw: StreamConnection, stream: FakeStream) -> None:
        assert raw.get_connection_type() == ConnectionType.RELAYED
        assert raw.get_remote_address() is None
        assert [str(one) for one in raw.get_transport_addresses()] == [f"{RELAY}/p2p-circuit"]

    play(script)
