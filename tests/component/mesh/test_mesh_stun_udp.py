"""STUN over UDP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from patience import PATIENCE_S

from lattica.errors import NetworkError
from lattica.mesh import stun_client
from lattica.mesh.stun import MAX_STUN_MESSAGE, Endpoint, answer_request, encode_request, parse_stun
from lattica.mesh.stun_client import udp_mapping
from lattica.mesh.stun_udp import HOST_BURST, StunResponder, open_udp_responder

TRANSACTION = bytes(range(12))


@contextlib.contextmanager
def udp_socket(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((host, 0))
        yield sock


def address(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname()[:2])


@contextlib.asynccontextmanager
async def responding(host: str = "127.0.0.1") -> AsyncIterator[tuple[StunResponder, int]]:
    """A responder, and its port."""
    async with open_udp_responder(host, 0) as responder:
        assert responder is not None
        yield responder, responder._transport.get_extra_info("sockname")[1]


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost here that would have to be sent again; what a stall delays is not asked for twice."""
    monkeypatch.setattr(stun_client, "UDP_RETRIES_S", (PATIENCE_S,))


@pytest.mark.parametrize(
    ("bound", "asked"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")],
)
async def test_a_socket_learns_where_it_is_seen(bound: str, asked: str) -> None:
    async with responding(bound) as (responder, port):
        with udp_socket(asked) as sock:
            assert await udp_mapping(Endpoint(asked, port), sock) == address(sock)
        assert responder.answered == 1


async def test_junk_is_not_answered() -> None:
    async with responding() as (responder, port):
        with udp_socket() as sock:
            for junk in (
                b"",
                b"\0",
                b"x" * 100,
                b"\1\1" + encode_request(TRANSACTION)[2:],
                bytes(MAX_STUN_MESSAGE + 1),
            ):
                sock.sendto(junk, ("127.0.0.1", port))
            assert await udp_mapping(Endpoint("127.0.0.1", port), sock) == address(sock)
        assert responder.answered == 1


async def test_a_flood_from_one_address_is_answered_a_little() -> None:
    loop = asyncio.get_running_loop()
    async with responding() as (responder, port):
        responder._clock = lambda: 0.0
        with udp_socket() as flood, udp_socket("127.0.0.2") as honest:
            for _ in range(200):
                flood.sendto(encode_request(TRANSACTION), ("127.0.0.1", port))
            assert await udp_mapping(Endpoint("127.0.0.1", port), honest) == address(honest)
            assert responder.answered - 1 == HOST_BURST
            assert parse_stun(await loop.sock_recv(flood, 100)).mapped == address(flood)


async def test_a_port_in_use_is_one_warning_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with udp_socket() as taken, caplog.at_level(logging.INFO):
        port = address(taken).port
        async with open_udp_responder("127.0.0.1", port) as responder:
            assert responder is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"no stun over udp host=127.0.0.1 port={port} reason=Address already in use"


async def test_the_port_is_free_again_afterwards() -> None:
    with udp_socket() as free:
        port = address(free).port
    for _ in range(2):
        async with open_udp_responder("127.0.0.1", port) as responder:
            assert responder is not None
        await asyncio.sleep(0)


async def test_a_lost_datagram_is_sent_again_and_strangers_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun_client, "UDP_RETRIES_S", (0.1, PATIENCE_S))
    loop = asyncio.get_running_loop()
    with udp_socket() as server, udp_socket() as stranger, udp_socket() as client:
        asking = asyncio.ensure_future(udp_mapping(address(server), client))
        await loop.sock_recvfrom(server, 100)  # the first is lost
        request, source = await loop.sock_recvfrom(server, 100)
        forged = request[:1] + b"\1" + request[2:]
        stranger.sendto(forged, source)
        server.sendto(b"junk", source)
        server.sendto(answer_request(request, Endpoint("192.0.2.7", 7)), source)
        assert await asking == Endpoint("192.0.2.7", 7)


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun_client, "UDP_RETRIES_S", (0.01, 0.01))
    with udp_socket() as server, udp_socket() as client, pytest.raises(NetworkError, match="no answer over UDP"):
        await udp_mapping(address(server), client)
