"""Two sites of a netlab that punch, and the public hosts they need: STUN servers and a relay for messages."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from lattica.background import background_tasks
from lattica.errors import LatticaError, StreamError
from lattica.identity import PeerAddress
from lattica.mesh.listener import open_listener
from lattica.mesh.pipes import receive_exactly
from lattica.mesh.punch import answer_punch, punch
from lattica.mesh.stun_server import answer_stun
from netlab import Host, Lab

T = TypeVar("T")

STUN_PORT = 3478
RELAY_PORT = 4000
DEADLINE_S = 40.0


class TcpSignal:
    """Messages over a TCP connection, each with four bytes of length before it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, message: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, len(message).to_bytes(4, "big") + message)
        except OSError as error:
            raise StreamError(str(error)) from error

    async def receive(self, limit: int) -> bytes | None:
        loop = asyncio.get_running_loop()
        try:
            first = await loop.sock_recv(self._sock, 1)
            if not first:
                return None
            size = int.from_bytes(first + await receive_exactly(self._sock, 3), "big")
            if size > limit:
                raise StreamError(f"a message of {size} bytes")
            return await receive_exactly(self._sock, size)
        except OSError as error:
            raise StreamError(str(error)) from error


@contextlib.asynccontextmanager
async def connected_signal(relay: PeerAddress) -> AsyncIterator[TcpSignal]:
    """A signal to whoever else connects to the relay."""
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (relay.host, relay.port))
        await receive_exactly(sock, 1)  # both are there
        yield TcpSignal(sock)


async def _relay(stop: asyncio.Event) -> None:
    """Join each two connections."""
    loop = asyncio.get_running_loop()

    async def one_way(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, 4096):
                await loop.sock_sendall(sink, data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def join(one: socket.socket, other: socket.socket) -> None:
        with one, other:
            await asyncio.gather(one_way(one, other), one_way(other, one))

    with ExitStack() as closing:
        server = closing.enter_context(socket.create_server(("0.0.0.0", RELAY_PORT)))
        server.setblocking(False)

        async def serve() -> None:
            while True:
                pair: list[socket.socket] = []
                while len(pair) < 2:
                    pair.append(closing.enter_context((await loop.sock_accept(server))[0]))
                    pair[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for each in pair:
                    await loop.sock_sendall(each, b".")
                tasks.start(join(*pair))

        async with background_tasks() as tasks:
            tasks.start(serve())
            await stop.wait()


async def _stun(stop: asyncio.Event) -> None:
    async with open_listener("::", STUN_PORT, {0x00: answer_stun}) as listener:
        listener.start()
        await stop.wait()


def run(main: Callable[[], Coroutine[Any, Any, T]], *, uv: bool = True) -> T:
    """Run on a loop of its own, uvloop as in production unless told otherwise."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        return runner.run(main())


@contextlib.contextmanager
def serving(host: Host, serve: Callable[[asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """Run a server on a host while the block runs."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), stop))
        await serve(stop)

    thread = threading.Thread(target=host.call, args=(asyncio.run, main()))
    thread.start()
    loop, stop = ready.result(30)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@dataclass
class Meeting:
    """What came of one punch.

    Attributes:
        seconds: From the initiator's start to a proven socket.
        sockets: The initiator's winner and the answerer's.
        error: Why there is none.
        attempts: What the initiator tried.
    """

    seconds: float = 0.0
    sockets: tuple[socket.socket, socket.socket] | None = None
    error: Exception | None = None
    attempts: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        for sock in self.sockets or ():
            sock.close()


class PunchLab:
    """Made by `punch_lab`.

    Attributes:
        servers: The STUN servers.
        servers6: The same, by IPv6.
        relay: Where `connected_signal` connects.
    """

    def __init__(
        self, stack: ExitStack, servers: list[PeerAddress], servers6: list[PeerAddress], relay: PeerAddress
    ) -> None:
        self.servers = servers
        self.servers6 = servers6
        self.relay = relay
        self._stack = stack

    def meet(
        self,
        alice: Host,
        bob: Host,
        *,
        uv: bool = True,
        servers: list[PeerAddress] | None = None,
        skew: float = 0.0,
        local_host: str = "0.0.0.0",
    ) -> Meeting:
        """``alice`` punches, ``bob`` answers; ``skew``: seconds by which bob hears everything later than he should."""
        asked = self.servers if servers is None else servers
        meeting, accepted, secret = Meeting(), dict[bytes, socket.socket](), secrets.token_bytes(4)

        async def prove(sock: socket.socket, remote: PeerAddress) -> tuple[bytes, socket.socket] | None:
            loop, name = asyncio.get_running_loop(), secrets.token_bytes(4)
            await loop.sock_sendall(sock, b"L" + secret + name)
            if await receive_exactly(sock, 8) != secret + name:
                return None
            return name, sock

        async def accept(sock: socket.socket, remote: PeerAddress) -> None:
            hello = await receive_exactly(sock, 9)
            assert hello[:5] == b"L" + secret
            accepted[hello[5:]] = sock
            await asyncio.get_running_loop().sock_sendall(sock, hello[1:])

        async def initiate() -> tuple[bytes, socket.socket]:
            async with connected_signal(self.relay) as signal:
                started = time.monotonic()
                try:
                    return await punch(signal, asked, prove, attempts=meeting.attempts, local_host=local_host)
                finally:
                    meeting.seconds = time.monotonic() - started

        async def answer() -> None:
            async with connected_signal(self.relay) as signal:
                late = LateSignal(signal, skew) if skew else signal
                await answer_punch(late, asked, accept, local_host=local_host)

        with ThreadPoolExecutor(2) as threads:
            answering = threads.submit(bob.call, run, answer, uv=uv)
            initiating = threads.submit(alice.call, run, initiate, uv=uv)
            try:
                name, sock = initiating.result(DEADLINE_S)
            except LatticaError as error:
                meeting.error = error
            answering.result(DEADLINE_S)
        if meeting.error is None:
            meeting.sockets = sock, accepted.pop(name)
            for each in meeting.sockets:
                self._stack.callback(each.close)
        for each in accepted.values():
            each.close()
        return meeting


class LateSignal:
    """Delivers messages ``seconds`` late."""

    def __init__(self, signal: TcpSignal, seconds: float) -> None:
        self._signal = signal
        self._seconds = seconds

    async def send(self, message: bytes) -> None:
        await self._signal.send(message)

    async def receive(self, limit: int) -> bytes | None:
        message = await self._signal.receive(limit)
        await asyncio.sleep(self._seconds)
        return message


@contextlib.contextmanager
def punch_lab(lab: Lab) -> Iterator[PunchLab]:
    """Three STUN servers and a relay in a lab; sockets of its meetings are closed at the end."""
    hosts = [lab.host(f"stun-{number}", ipv6=True) for number in range(3)]
    relay = lab.host("relay")
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(serving(host, _stun))
        stack.enter_context(serving(relay, _relay))
        servers = [PeerAddress.tcp(str(host.ipv4), STUN_PORT) for host in hosts]
        servers6 = [PeerAddress.tcp(str(host.ipv6), STUN_PORT) for host in hosts]
        yield PunchLab(stack, servers, servers6, PeerAddress.tcp(str(relay.ipv4), RELAY_PORT))


def talks(meeting: Meeting) -> bool:
    """Whether bytes pass both ways."""
    assert meeting.sockets is not None, meeting.error
    one, two = meeting.sockets
    for sock in meeting.sockets:
        sock.settimeout(20.0)
    one.sendall(b"to bob")
    two.sendall(b"to alice")
    return (two.recv(100), one.recv(100)) == (b"to bob", b"to alice")
