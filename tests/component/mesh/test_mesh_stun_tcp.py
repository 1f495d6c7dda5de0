"""STUN over TCP on loopback: learning mappings, and what strange clients and servers get."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from black_hole import black_hole, refusing_address
from descriptors import count_descriptors, descriptors, wait_closed_since
from patience import PATIENCE_S

from lattica.background import background_tasks
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress
from lattica.mesh import stun_client, stun_server
from lattica.mesh.accepting import accept as accept_connection
from lattica.mesh.listener import open_listener
from lattica.mesh.pipes import receive_exactly
from lattica.mesh.stun import STUN_FIRST_BYTE, Endpoint, body_length, encode_request, encode_response, parse_stun
from lattica.mesh.stun_client import learn_from_many, learn_mapping
from lattica.mesh.stun_report import NatMapping
from lattica.mesh.stun_server import MAX_REQUESTS, answer_stun

TRANSACTION = bytes(range(12))


@contextlib.asynccontextmanager
async def stun_server_at(host: str = "127.0.0.1") -> AsyncIterator[PeerAddress]:
    """The responder behind a node's listener."""
    async with open_listener(host, 0, {STUN_FIRST_BYTE: answer_stun}) as listener:
        listener.start()
        yield PeerAddress.tcp(host, listener.port)


@contextlib.asynccontextmanager
async def foreign_server(answer: Callable[[bytes], bytes]) -> AsyncIterator[PeerAddress]:
    """Answers a request of 20 bytes with what ``answer`` makes of it, and waits for the end."""

    loop = asyncio.get_running_loop()

    async def serve(sock: socket.socket) -> None:
        with contextlib.closing(sock), contextlib.suppress(OSError, RemoteProtocolError):
            await loop.sock_sendall(sock, answer(await receive_exactly(sock, 20)))
            await loop.sock_recv(sock, 1)

    async def accept() -> None:
        while True:
            tasks.start(serve((await accept_connection(listener))[0]))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with background_tasks() as tasks:
            tasks.start(accept())
            yield PeerAddress.tcp(*listener.getsockname())


@pytest.fixture
async def server() -> AsyncIterator[PeerAddress]:
    async with stun_server_at() as address:
        yield address


@contextlib.asynccontextmanager
async def client_of(address: PeerAddress) -> AsyncIterator[socket.socket]:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        yield sock


async def ask(sock: socket.socket) -> Endpoint | None:
    await asyncio.get_running_loop().sock_sendall(sock, encode_request(TRANSACTION))
    header = await receive_exactly(sock, 20)
    return parse_stun(header + await receive_exactly(sock, body_length(header))).mapped


async def is_closed(sock: socket.socket) -> bool:
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    return True


async def test_a_server_says_where_a_client_comes_from_and_the_connection_stays(server: PeerAddress) -> None:
    mapping = await learn_mapping(server, 0)
    with contextlib.closing(mapping):
        assert mapping.mapped == mapping.local == Endpoint(*mapping.sock.getsockname())
        assert mapping.server == server
        assert mapping.rtt > 0
        assert await ask(mapping.sock) == mapping.mapped


async def test_a_chosen_local_port_is_used_and_shared(server: PeerAddress) -> None:
    with contextlib.closing(await learn_mapping(server, 0)) as first:
        async with stun_server_at() as other:
            with contextlib.closing(await learn_mapping(other, first.local.port)) as second:
                assert second.local == first.local


async def test_ipv6_is_learned_as_well() -> None:
    async with stun_server_at("::1") as server:
        with contextlib.closing(await learn_mapping(server, 0, local_host="::1")) as mapping:
            assert mapping.mapped == mapping.local
            assert mapping.mapped.host == "::1"


async def test_a_client_may_ask_several_times_but_not_for_ever(server: PeerAddress) -> None:
    async with client_of(server) as sock:
        for _ in range(MAX_REQUESTS):
            assert await ask(sock) == Endpoint(*sock.getsockname())
        await asyncio.get_running_loop().sock_sendall(sock, encode_request(TRANSACTION))
        assert await is_closed(sock)


async def test_an_idle_client_is_let_go(server: PeerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun_server, "IDLE_S", 0.5)
    async with client_of(server) as sock:
        await ask(sock)
        assert await is_closed(sock)


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\0" * 20, id="no-cookie"),
        pytest.param(encode_request(TRANSACTION)[:2] + b"\xff\xfc" + encode_request(TRANSACTION)[4:], id="too-long"),
        pytest.param(b"\0\3" + encode_request(TRANSACTION)[2:], id="another-method"),
    ],
)
async def test_who_speaks_something_else_is_disconnected(server: PeerAddress, junk: bytes) -> None:
    async with client_of(server) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, junk)
        assert await is_closed(sock)


async def test_who_takes_too_long_for_a_message_is_disconnected(
    server: PeerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stun_server, "MESSAGE_TIMEOUT_S", 0.05)
    async with client_of(server) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, encode_request(TRANSACTION)[:10])
        assert await is_closed(sock)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(lambda _: b"HTTP/1.1 400 Bad Request\r\n", "not a STUN message", id="http"),
        pytest.param(lambda _: encode_response(bytes(12), Endpoint("192.0.2.1", 1)), "another request", id="other"),
        pytest.param(lambda request: request, "another request", id="echo"),
        pytest.param(lambda request: b"\1\x11" + request[2:], "refuses", id="error"),
        pytest.param(lambda request: b"\1\1\0\4" + request[4:] + b"\0\x20\0\x08", "longer than its message", id="cut"),
        pytest.param(lambda request: b"\1\1\xff\xfc" + request[4:], "too long", id="endless"),
    ],
)
async def test_a_strange_answer_is_an_error(answer: Callable[[bytes], bytes], error: str) -> None:
    async with foreign_server(answer) as server:
        before = count_descriptors()
        with pytest.raises(RemoteProtocolError, match=error):
            await learn_mapping(server, 0)
        assert count_descriptors() <= before + 1  # the server's end may still be open


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun_client, "STUN_TIMEOUT_S", 0.1)
    async with foreign_server(lambda _: b"") as server:
        with pytest.raises(NetworkError, match="no answer"):
            await learn_mapping(server, 0)


@pytest.mark.parametrize("text", ["/dns/stun.example/tcp/1", "/ip6/::1/tcp/1", "/ip4/127.0.0.1/udp/1"])
async def test_what_cannot_be_asked_is_refused(text: str) -> None:
    with pytest.raises(NetworkError, match="that can be asked"):
        await learn_mapping(PeerAddress.parse(text), 0, local_host="0.0.0.0")


async def test_three_servers_are_asked_from_one_port_that_is_held_meanwhile(
    server: PeerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stun_client, "STRAGGLER_S", PATIENCE_S)
    async with stun_server_at() as second, stun_server_at() as third, stun_server_at() as fourth:
        attempts: dict[str, str] = {}
        async with learn_from_many([server, second, third, fourth], attempts=attempts) as learned:
            assert learned.report.mapped == learned.local
            assert learned.report.mapping is None  # all are at one address
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(("127.0.0.1", learned.local.port))
        assert attempts == {}


async def test_servers_at_two_addresses_tell_the_mapping(server: PeerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun_client, "STRAGGLER_S", PATIENCE_S)
    async with stun_server_at("127.0.0.2") as second, learn_from_many([server, second]) as learned:
        assert (learned.report.mapping, learned.report.port_step) == (NatMapping.ENDPOINT_INDEPENDENT, 0)


async def test_one_server_that_does_not_answer_does_not_keep_the_others_waiting(server: PeerAddress) -> None:
    async with foreign_server(lambda _: b"") as silent, asyncio.timeout(stun_client.STUN_TIMEOUT_S - 5):
        attempts: dict[str, str] = {}
        async with learn_from_many([silent, server], attempts=attempts) as learned:
            assert learned.report.mapped == learned.local
        assert attempts == {f"stun {silent.text}": "no answer yet"}


async def test_without_an_answer_there_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: dict[str, str] = {}
    with black_hole() as silent, refusing_address() as refusing:
        async with foreign_server(lambda _: b"x" * 20) as strange:
            with pytest.raises(NetworkError, match="no STUN server answered"):
                async with learn_from_many([strange, refusing], attempts=attempts):
                    pass
        monkeypatch.setattr(stun_client, "STUN_TIMEOUT_S", 0.1)
        with pytest.raises(NetworkError, match="no STUN server answered"):
            async with learn_from_many([silent, refusing], attempts=attempts):
                pass
    assert attempts[f"stun {silent.text}"].startswith("no answer within")
    assert "not a STUN message" in attempts[f"stun {strange.text}"]
    assert attempts[f"stun {refusing.text}"] == "connection refused"


async def test_nothing_stays_open_whether_it_ends_fails_or_is_cancelled(server: PeerAddress) -> None:
    async with foreign_server(lambda _: b"") as silent:
        before = descriptors()
        async with learn_from_many([server]):
            pass
        asking = asyncio.ensure_future(learn_mapping(silent, 0))
        many = asyncio.ensure_future(contextlib.AsyncExitStack().enter_async_context(learn_from_many([silent] * 3)))
        await asyncio.sleep(0.05)
        for task in (asking, many):
            task.cancel()
        await asyncio.wait([asking, many])
        assert asking.cancelled()
        assert many.cancelled()
        await wait_closed_since(before)  # the servers notice in their own time
