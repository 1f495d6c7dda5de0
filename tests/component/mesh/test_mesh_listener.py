"""The one port: connections go by their first byte, and whoever says nothing costs nobody anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from waiting import until

from lattica.errors import ConfigError, NetworkError, PortInUseError
from lattica.identity import PeerAddress
from lattica.mesh import listener as listener_module
from lattica.mesh.listener import Listener, open_listener

DEADLINE_S = 10.0


class Routes:
    """Takes over connections: `A` is answered and closed, `K` is kept, `N` and `F` fail in two ways."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, PeerAddress]] = []
        self.kept: list[socket.socket] = []
        self.unproven = asyncio.Event()

    def table(self) -> dict[int, Callable[[socket.socket, PeerAddress], Awaitable[None]]]:
        return {ord("A"): self._answer, ord("K"): self._keep, ord("N"): self._refuse, ord("F"): self._fail}

    async def _answer(self, sock: socket.socket, remote: PeerAddress) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            self.seen.append((await loop.sock_recv(sock, 100), remote))
            await loop.sock_sendall(sock, b"answer")

    async def _keep(self, sock: socket.socket, remote: PeerAddress) -> None:
        self.kept.append(sock)
        try:
            await self.unproven.wait()
        finally:
            sock.close()

    async def _refuse(self, sock: socket.socket, remote: PeerAddress) -> None:
        sock.close()
        raise NetworkError("not you")

    async def _fail(self, sock: socket.socket, remote: PeerAddress) -> None:
        raise ZeroDivisionError


@contextlib.asynccontextmanager
async def listening(routes: Routes, host: str = "127.0.0.1") -> AsyncIterator[Listener]:
    async with open_listener(host, 0, routes.table()) as listener:
        listener.start()
        yield listener


class Client:
    """One connection to the listener."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    async def dial(cls, listener: Listener, host: str = "127.0.0.1") -> Client:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, listener.port))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> bytes:
        """What comes until the other side closes; a reset is an end too."""
        loop, data = asyncio.get_running_loop(), b""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionResetError):
                while more := await loop.sock_recv(self.sock, 4096):
                    data += more
        return data

    @property
    def is_open(self) -> bool:
        try:
            return self.sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


async def ask(listener: Listener, first: bytes = b"A") -> bytes:
    with await Client.dial(listener) as client:
        await client.send(first)
        return await client.receive()


async def test_a_connection_goes_by_its_first_byte_which_stays_unread() -> None:
    routes = Routes()
    async with listening(routes) as listener:
        assert await ask(listener, b"Ahoy") == b"answer"
        [(first, remote)] = routes.seen
    assert first == b"Ahoy"
    assert remote.host == "127.0.0.1"


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b"\xff"])
async def test_what_no_route_takes_is_closed(first: bytes) -> None:
    routes = Routes()
    async with listening(routes) as listener:
        assert await ask(listener, first) == b""
        assert await ask(listener) == b"answer"


async def test_who_hangs_up_without_a_word_costs_nothing() -> None:
    async with listening(Routes()) as listener:
        with await Client.dial(listener):
            pass
        assert await ask(listener) == b"answer"


@pytest.mark.parametrize("first", [b"N", b"F"])
async def test_a_failing_route_closes_its_connection_and_no_other(first: bytes) -> None:
    async with listening(Routes()) as listener:
        assert await ask(listener, first) == b""
        assert await ask(listener) == b"answer"


async def test_a_silent_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "FIRST_BYTE_TIMEOUT_S", 0.1)
    async with listening(Routes()) as listener:
        started = asyncio.get_running_loop().time()
        with await Client.dial(listener) as silent:
            assert await silent.receive() == b""
            assert asyncio.get_running_loop().time() - started >= 0.1


@pytest.mark.parametrize("first", [b"", b"K"], ids=["silent", "after-the-first-byte"])
async def test_one_host_cannot_take_all_places(first: bytes) -> None:
    """200 idle connections, whether or not they say something first; the oldest make room for a real client."""
    routes = Routes()
    async with listening(routes) as listener, contextlib.AsyncExitStack() as stack:
        idle = []
        for _ in range(200):
            idle.append(stack.enter_context(await Client.dial(listener)))
            await idle[-1].send(first)
        assert await ask(listener) == b"answer"
        limit = listener_module.MAX_UNPROVEN_PER_HOST
        await until(lambda: sum(client.is_open for client in idle) < limit)
        assert not any(client.is_open for client in idle[: 200 - limit])
        assert all(client.is_open for client in idle[-limit + 1 :])


async def test_all_hosts_together_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_UNPROVEN", 5)
    async with listening(Routes(), "0.0.0.0") as listener, contextlib.AsyncExitStack() as stack:
        idle = [stack.enter_context(await Client.dial(listener, f"127.0.0.{host}")) for host in range(1, 10)]
        await until(lambda: sum(client.is_open for client in idle) <= 5)
        assert await ask(listener) == b"answer"


async def test_who_has_proven_itself_is_not_displaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_UNPROVEN_PER_HOST", 3)
    kept: list[socket.socket] = []

    async def take(sock: socket.socket, remote: PeerAddress) -> None:
        kept.append(sock)

    async with open_listener("127.0.0.1", 0, {ord("T"): take}) as listener, contextlib.AsyncExitStack() as stack:
        listener.start()
        proven = [stack.enter_context(await Client.dial(listener)) for _ in range(3)]
        for client in proven:
            await client.send(b"T")
        await until(lambda: len(kept) == 3)
        idle = [stack.enter_context(await Client.dial(listener)) for _ in range(10)]
        await until(lambda: sum(client.is_open for client in idle) == 3)
        assert all(client.is_open for client in proven)
        for sock in kept:
            sock.close()


async def test_connections_made_before_the_start_wait() -> None:
    routes = Routes()
    async with open_listener("127.0.0.1", 0, routes.table()) as listener:
        with await Client.dial(listener) as early:
            await early.send(b"A")
            await asyncio.sleep(0.05)
            assert routes.seen == []
            listener.start()
            assert await early.receive() == b"answer"


async def test_the_end_closes_what_has_not_been_taken_over() -> None:
    routes = Routes()
    async with contextlib.AsyncExitStack() as stack:
        async with listening(routes) as listener:
            silent = stack.enter_context(await Client.dial(listener))
            waiting = stack.enter_context(await Client.dial(listener))
            await waiting.send(b"K")
            await until(lambda: bool(routes.kept))
        assert await silent.receive() == b""
        assert await waiting.receive() == b""
        with pytest.raises(ConnectionRefusedError):
            await Client.dial(listener)


async def test_both_families_are_served_by_the_wildcard_and_told_apart() -> None:
    routes = Routes()
    async with listening(routes, "::") as listener:
        for host in ("127.0.0.1", "::1"):
            with await Client.dial(listener, host) as client:
                await client.send(b"A")
                assert await client.receive() == b"answer"
    assert [remote.host for _, remote in routes.seen] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0"])
async def test_a_port_that_somebody_listens_on_is_in_use(other: str) -> None:
    with socket.create_server((other, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port}"):
            async with open_listener("127.0.0.1", port, {}):
                pass


async def test_a_port_can_be_taken_again_at_once() -> None:
    """Although connections of the one before linger in TIME_WAIT."""
    routes = Routes()
    async with listening(routes) as listener:
        assert await ask(listener) == b"answer"
        port = listener.port
    async with open_listener("127.0.0.1", port, {}) as again:
        assert again.port == port


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no such host", "256.1.1.1", "x" * 80, "fe80::1%nothing"])
async def test_an_address_that_is_not_ours_is_one_sentence(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on") as caught:
        async with open_listener(host, 0, {}):
            pass
    assert "\n" not in str(caught.value)


async def test_a_machine_without_ipv6_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", unsupported)
    with pytest.raises(ConfigError, match="not supported"):
        async with open_listener("::", 0, {}):
            pass


EXHAUST = """
import asyncio, logging, resource, socket, sys
from lattica.mesh.listener import open_listener

async def answer(sock, remote):
    with sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, (await loop.sock_recv(sock, 1)).replace(b"A", b"ok"))

async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"A")
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()

async def main():
    async with open_listener("127.0.0.1", 0, {ord("A"): answer}) as listener:
        listener.start()
        assert await ask(listener.port) == b"ok"
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        hoard = []
        try:
            while True:
                hoard.append(socket.socket())
        except OSError:
            hoard.pop().close()  # one for the client below, none for what is accepted
        waiting = asyncio.create_task(ask(listener.port))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        for sock in hoard:
            sock.close()
        assert await waiting == b"ok", "the queued connection was lost"
        assert await ask(listener.port) == b"ok"
    print("recovered")

logging.basicConfig()
asyncio.run(main())
"""


def test_a_node_out_of_descriptors_goes_on_when_there_are_some_again() -> None:
    done = subprocess.run([sys.executable, "-c", EXHAUST], capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.returncode) == ("recovered\n", 0), done.stderr
    assert "cannot accept reason=Too many open files" in done.stderr
    assert done.stderr.count("cannot accept") < 10, "it tried without a pause"
