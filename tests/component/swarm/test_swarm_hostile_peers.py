"""Peers that mean harm: what each gets, and that everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from libp2p.io.exceptions import IOException
from patience import PATIENCE_S
from swarm_pairs import connected
from waiting import until

from lattica._proto import identify_pb2
from lattica.errors import LatticaError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId, seal_peer_record
from lattica.identity.varint import encode_varint
from lattica.swarm import ConnectionInfo, Stream, Swarm, connection, open_swarm, raw, transport
from lattica.swarm.connection import MAX_INBOUND_STREAMS
from lattica.swarm.dialing import connect_tcp
from lattica.swarm.identify import IDENTIFY, MAX_IDENTIFY
from lattica.swarm.multistream import HEADER, MAX_LINE, MAX_PROPOSALS
from lattica.swarm.mux import MuxStream
from lattica.swarm.raw import SocketConnection
from lattica.swarm.transport import MAX_BUFFERED, Upgrader

ECHO, HOLD = "/test/echo/1", "/test/hold/1"
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


class Attacker:
    """A peer that proves its identity like any other, and then writes yamux frames as it likes."""

    def __init__(self, raw: SocketConnection, secured: object) -> None:
        self.raw = raw
        self._secured = secured

    async def write(self, data: bytes) -> None:
        await self._secured.write(data)  # type: ignore[attr-defined]

    async def frame(self, kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> None:
        await self.write(struct.pack("!BBHII", 0, kind, flags, stream, length) + body)

    async def open(self, stream: int, protocol: str) -> None:
        """A new stream for ``protocol``, the answer not awaited."""
        lines = b"".join(encode_varint(len(line)) + line for line in (HEADER, protocol.encode() + b"\n"))
        await self.frame(DATA, SYN, stream, len(lines), lines)

    async def until_ended(self, stream: int) -> None:
        """Read all that comes, until the other side has closed or reset ``stream``."""
        with trio.fail_after(25):
            while True:
                header = await self._secured.read(12)  # type: ignore[attr-defined]
                _, kind, flags, number, length = struct.unpack("!BBHII", header)
                if kind == DATA:
                    await self._secured.read(length)  # type: ignore[attr-defined]
                if number == stream and flags & (RST | FIN):
                    return

    async def until_hung_up(self) -> None:
        """Read all that comes, until the other side closes the connection."""
        with trio.fail_after(25), contextlib.suppress(IOException):
            while True:
                await self._secured.read(1)  # type: ignore[attr-defined]


Script = Callable[[Attacker], Awaitable[None]]


async def attack(address: PeerAddress, script: Script) -> None:
    """Run ``script`` in a trio loop of its own, with a fresh identity. A connection that is lost ends it."""

    async def main() -> None:
        raw = SocketConnection(await connect_tcp(address), initiator=True, remote=address)
        _, muxed = await Upgrader(IdentityKey.generate()).upgrade(raw, address.peer_id)
        try:
            with contextlib.suppress(IOException):
                await script(Attacker(raw, muxed.secured_conn))
        finally:
            raw.abort()

    async with asyncio.timeout(30):
        await asyncio.to_thread(trio.run, main)


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message


async def hold(stream: Stream) -> None:
    """Serves a stream by never reading from it."""
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def victim() -> AsyncIterator[tuple[Swarm, Swarm, PeerAddress]]:
    """Bob, who is attacked, and alice, whose requests he must go on answering; checked at the end."""
    async with connected() as (alice, bob, address):
        bob.serve_requests(ECHO, echo, 1000)
        bob.serve_streams(HOLD, hold)
        yield alice, bob, address
        async with asyncio.timeout(20):
            assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"
            assert len(alice.connections()) == 1, "and over the connection that she had all the time"
            await until(lambda: len(bob.connections()) == 1)


async def test_a_sender_that_ignores_the_window_loses_the_connection() -> None:
    """py-libp2p's yamux only logs it, and buffers on."""
    sent = 0

    async def flood(attacker: Attacker) -> None:
        nonlocal sent
        await attacker.open(1, HOLD)
        for _ in range(4 * MAX_BUFFERED // 65_000):
            await attacker.frame(DATA, 0, 1, 65_000, bytes(65_000))
            sent += 65_000

    async with victim() as (_, _, address):
        await attack(address, flood)
    assert MAX_BUFFERED <= sent < 2 * MAX_BUFFERED


async def test_many_streams_do_not_make_the_bound_larger() -> None:
    sent = 0

    async def flood(attacker: Attacker) -> None:
        nonlocal sent
        for number in range(100):
            await attacker.open(2 * number + 1, HOLD)
        for number in range(4 * MAX_BUFFERED // 65_000):
            await attacker.frame(DATA, 0, 2 * (number % 100) + 1, 65_000, bytes(65_000))
            sent += 65_000

    async with victim() as (_, _, address):
        await attack(address, flood)
    assert MAX_BUFFERED <= sent < 2 * MAX_BUFFERED


async def test_a_frame_of_absurd_length_ends_the_connection() -> None:
    async def lie(attacker: Attacker) -> None:
        await attacker.open(1, HOLD)
        await attacker.frame(DATA, 0, 1, 0xFFFFFFFF)
        await attacker.until_hung_up()

    async with victim() as (_, _, address):
        await attack(address, lie)


@pytest.mark.slow
async def test_a_peer_has_so_many_streams_and_no_more() -> None:
    running = most = 0

    async with victim() as (_, bob, address):

        async def count(stream: Stream) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.Event().wait()
            finally:
                running -= 1

        async def open_many(attacker: Attacker) -> None:
            for number in range(2 * MAX_INBOUND_STREAMS):
                await attacker.open(2 * number + 1, HOLD)
            with trio.fail_after(25):
                while most < MAX_INBOUND_STREAMS:
                    await trio.sleep(0.01)

        bob.serve_streams(HOLD, count)
        await attack(address, open_many)
        await until(lambda: running == 0)
    assert most == MAX_INBOUND_STREAMS


async def test_streams_that_the_peer_never_closes_are_forgotten() -> None:
    """A stream whose protocol is over is closed on our side; yamux would wait for the peer's side for ever."""
    count = 400

    async with victim() as (_, bob, address):

        async def records() -> list[int]:
            return [len(one._muxed.streams) for many in bob._host._connections.values() for one in many]

        async def leave_open(attacker: Attacker) -> None:
            for number in range(count):
                await attacker.open(2 * number + 1, IDENTIFY)
                await attacker.until_ended(2 * number + 1)
            kept.append(await trio.to_thread.run_sync(ask_bob))

        def ask_bob() -> int:
            return max(asyncio.run_coroutine_threadsafe(bob._thread.call(records), loop).result(10))

        loop = asyncio.get_running_loop()
        kept: list[int] = []
        await attack(address, leave_open)
    assert kept
    assert kept[0] < 20


def frames(seed: int) -> bytes:
    """Yamux headers with plausible and implausible fields, some with a body, and plain noise."""
    choose = random.Random(seed)
    out = b""
    for _ in range(200):
        kind = choose.choice([DATA, WINDOW_UPDATE, WINDOW_UPDATE, PING, 4, 255])
        length = choose.choice([0, 1, 5, 0xFFFFFFFF]) if kind != DATA else choose.choice([0, 1, 5])
        header = struct.pack("!BBHII", 0, kind, choose.randrange(16), choose.randrange(6), length)
        out += header + (choose.randbytes(length) if kind == DATA else b"")
    return out + choose.randbytes(choose.randrange(100))


@pytest.mark.parametrize("seed", range(8))
async def test_frames_without_sense_do_no_harm(seed: int) -> None:
    async def babble(attacker: Attacker) -> None:
        await attacker.write(frames(seed))
        await attacker.frame(GO_AWAY, 0, 0, 0)
        with trio.move_on_after(0.2):  # the noise may ask for a body that never comes
            await attacker.until_hung_up()

    async with victim() as (_, _, address):
        await attack(address, babble)


async def test_bytes_that_do_not_decrypt_end_the_connection() -> None:
    async def garble(attacker: Attacker) -> None:
        await attacker.raw.write(b"\x00\x20" + bytes(32))
        await attacker.until_hung_up()

    async with victim() as (_, _, address):
        await attack(address, garble)


def line(text: bytes) -> bytes:
    return encode_varint(len(text)) + text


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(line(b"/multistream/2.0.0\n"), id="other-version"),
        pytest.param(line(HEADER) + line(b"no newline"), id="no-newline"),
        pytest.param(line(HEADER) + encode_varint(MAX_LINE + 1) + b"x" * 2000, id="long-line"),
        pytest.param(line(HEADER) + line(b"/x\n") * (MAX_PROPOSALS + 1), id="many-proposals"),
        pytest.param(line(HEADER) + line(b"\xff\xfe\n") * 3, id="not-utf8"),
        pytest.param(b"\xff" * 100, id="no-varint"),
        pytest.param(b"", id="silence"),
        pytest.param(line(HEADER), id="half"),
    ],
)
async def test_a_negotiation_that_breaks_off_costs_the_stream(opening: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def negotiate(attacker: Attacker) -> None:
        await attacker.frame(DATA, SYN, 1, len(opening), opening)
        await attacker.until_ended(1)

    async with victim() as (_, _, address):
        with monkeypatch.context() as hurry:
            hurry.setattr(connection, "OPEN_TIMEOUT_S", 0.2)
            await attack(address, negotiate)


def evil_identify_messages() -> dict[str, bytes]:
    other = IdentityKey.generate()
    return {
        "not-utf8": line(b"\x32\x02\xff\xfe\x1a\x02\xff\xfe"),
        "garbage": line(b"\xff\xff\xff\xff"),
        "empty": line(b""),
        "oversized": line(bytes(MAX_IDENTIFY + 1)),
        "cut-off": encode_varint(1000) + b"\x32",
        "another-peers-record": line(
            identify_pb2.Identify(signed_peer_record=seal_peer_record(other, 1, ())).SerializeToString()
        ),
        "odd-addresses": line(
            identify_pb2.Identify(
                listen_addrs=[b"\xff", b"\x90\x03\x04/a/b"], observed_addr=b"\x01"
            ).SerializeToString()
        ),
        "nothing": b"",
    }


@pytest.mark.parametrize("name", evil_identify_messages())
async def test_a_peer_that_identifies_itself_badly_harms_only_itself(name: str) -> None:
    """An agent that was not UTF-8 once stopped the whole swarm."""
    message = evil_identify_messages()[name]
    async with victim() as (_, bob, address), open_swarm(IdentityKey.generate()) as mallory:
        served = asyncio.Event()

        async def identify(stream: MuxStream) -> None:
            try:
                await stream.write(message)
                await stream.close()
            finally:  # bob need not read all of it
                mallory._thread.post(served.set)

        mallory._host.handlers[IDENTIFY] = identify
        await mallory.connect(bob.key.peer_id, [address])
        async with asyncio.timeout(20):
            await served.wait()
            with contextlib.suppress(LatticaError):  # the connection may be closed for it
                await mallory.ping(bob.key.peer_id)


async def test_a_peer_that_takes_nothing_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks and asks and never reads the answers."""
    async with victim() as (alice, bob, address):

        async def talk(stream: Stream) -> None:
            await stream.write(bytes(200_000))

        async def ask_only(attacker: Attacker) -> None:
            for number in range(200):
                await attacker.open(2 * number + 1, "/test/talk/1")
            with trio.fail_after(25):
                while not loses_patience.is_set():
                    await trio.sleep(0.01)

        def note(info: ConnectionInfo) -> None:
            if info.peer_id != alice.key.peer_id:
                loses_patience.set()

        loses_patience = threading.Event()
        bob.subscribe(disconnected=note)
        bob.serve_streams("/test/talk/1", talk)
        with monkeypatch.context() as hurry:
            hurry.setattr(raw, "SEND_TIMEOUT_S", 0.5)
            await attack(address, ask_only)
        assert loses_patience.is_set()


FIRST_BYTES = {
    "noise": random.Random(1).randbytes(5000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half-a-tls-hello": bytes.fromhex("16030100f8010000f40303"),
    "header-then-garbage": line(HEADER) + random.Random(2).randbytes(5000),
    "header-then-absurd-length": line(HEADER) + encode_varint(1 << 40) + bytes(100_000),
    "long-line": line(HEADER) + encode_varint(60_000_000) + bytes(200_000),
    "endless-proposals": line(HEADER) + line(b"/tls/1.0.0\n") * 20_000,
    "plaintext": line(HEADER) + line(b"/plaintext/2.0.0\n"),
    "noise-garbage": line(HEADER) + line(b"/noise\n") + b"\xff\xff" + bytes(65535),
    "zero-length-noise": line(HEADER) + line(b"/noise\n") + b"\x00\x00" * 1000,
    "header-only": line(HEADER),
    "nothing": b"",
}


@pytest.mark.parametrize("name", FIRST_BYTES)
async def test_a_connection_that_begins_badly_is_closed(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Soon, or when the handshake's time is over; what it sends is not collected meanwhile."""
    loop = asyncio.get_running_loop()
    async with victim() as (_, _, address):
        monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_S", 0.3)
        with socket.create_connection((address.host, address.port)) as sock:
            sock.setblocking(False)
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(sock, FIRST_BYTES[name])
                    while await loop.sock_recv(sock, 65536):
                        pass
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING", "CRITICAL"}]


@pytest.mark.parametrize("name", ["header-then-absurd-length", "long-line", "endless-proposals"])
async def test_a_handshake_is_not_collected_without_end(name: str) -> None:
    """It is over when it is too long, long before its time is."""
    loop = asyncio.get_running_loop()
    async with victim() as (_, _, address):
        with socket.create_connection((address.host, address.port)) as sock:
            sock.setblocking(False)
            async with asyncio.timeout(PATIENCE_S - 5):
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(sock, FIRST_BYTES[name])
                    while await loop.sock_recv(sock, 65536):
                        pass


@pytest.mark.slow
async def test_silent_connections_take_their_slots_for_a_while_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hundred of them; afterwards the slots are free again."""
    loop = asyncio.get_running_loop()
    async with victim() as (alice, bob, address), contextlib.AsyncExitStack() as stack:
        hurry = stack.enter_context(monkeypatch.context())
        hurry.setattr(transport, "UPGRADE_TIMEOUT_S", 1.0)
        silent = [stack.enter_context(socket.socket()) for _ in range(200)]
        async with asyncio.timeout(50):
            for sock in silent:
                sock.setblocking(False)
                await loop.sock_connect(sock, (address.host, address.port))
            assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"

            async def greeting(sock: socket.socket) -> bytes:
                received = b""
                with contextlib.suppress(ConnectionError):
                    while data := await loop.sock_recv(sock, 1000):
                        received += data
                return received

            greetings = await asyncio.gather(*map(greeting, silent))
        assert all(greetings), "each waits for its turn"
        hurry.undo()
        async with open_swarm(IdentityKey.generate()) as carol:
            await carol.connect(bob.key.peer_id, [address])


@pytest.mark.slow
async def test_a_peer_that_reads_slowly_gets_an_error_not_the_swarms_memory() -> None:
    """We write to a stream that nobody reads: yamux gives up after 5 s, and only on that stream."""
    async with connected() as (alice, bob, _):
        bob.serve_streams(HOLD, hold)
        bob.serve_requests(ECHO, echo, 1000)
        async with asyncio.timeout(40), await alice.open_stream(bob.key.peer_id, HOLD) as stream:
            with pytest.raises(StreamError):
                await stream.write(bytes(10_000_000))
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"
