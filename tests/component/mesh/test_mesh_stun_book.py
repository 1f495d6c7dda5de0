"""What a client learns of STUN servers' second ports, from servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from black_hole import refusing_address

from lattica.background import background_tasks
from lattica.identity import PeerAddress
from lattica.mesh import stun_book
from lattica.mesh.listener import open_listener
from lattica.mesh.stun import STUN_FIRST_BYTE
from lattica.mesh.stun_book import RECHECK_S, StunBook
from lattica.mesh.stun_client import learn_mapping
from lattica.mesh.stun_server import answer_stun

HOST = "127.0.0.1"


class Server:
    """A STUN server whose second port is told as it is set.

    Attributes:
        address: Where it is.
        second: What it says; the second port itself answers in any case.
        asked: How many connections have come to its first port.
    """

    def __init__(self) -> None:
        self.address: PeerAddress
        self.own_second: PeerAddress
        self.second: int | None = None
        self.asked = 0

    async def answer(self, sock: socket.socket, remote: PeerAddress) -> None:
        self.asked += 1
        await answer_stun(sock, remote, self.second)


@contextlib.asynccontextmanager
async def stun_node() -> AsyncIterator[Server]:
    server = Server()
    async with (
        open_listener(HOST, 0, {STUN_FIRST_BYTE: server.answer}) as first,
        open_listener(HOST, 0, {STUN_FIRST_BYTE: answer_stun}) as second,
    ):
        first.start()
        second.start()
        server.address = PeerAddress.tcp(HOST, first.port)
        server.own_second = PeerAddress.tcp(HOST, second.port)
        server.second = second.port
        yield server


@contextlib.asynccontextmanager
async def book_at(clock: Callable[[], float] = lambda: 0.0) -> AsyncIterator[StunBook]:
    """Its block ends with a wait until nothing is being asked."""
    async with background_tasks() as tasks:
        yield StunBook(tasks, clock)


async def learnt(book: StunBook, *servers: PeerAddress, host: str = HOST) -> list[PeerAddress]:
    """What the book makes of the servers when it has asked."""
    others = asyncio.all_tasks()
    book.learn(servers, host)
    asking = asyncio.all_tasks() - others
    if asking:
        await asyncio.wait(asking)
    return book.completed(servers)


async def test_a_server_is_followed_by_its_second_port() -> None:
    async with stun_node() as server, book_at() as book:
        assert book.completed([server.address]) == [server.address]
        assert await learnt(book, server.address) == [server.address, server.own_second]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_it_is_asked_from_where_it_can_be(host: str) -> None:
    async with stun_node() as server, book_at() as book:
        assert await learnt(book, server.address, host=host) == [server.address, server.own_second]


async def test_a_server_of_another_family_is_not_asked() -> None:
    async with stun_node() as server, book_at() as book:
        assert await learnt(book, server.address, host="::1") == [server.address]
        assert server.asked == 0


async def test_a_server_without_a_second_port_stands_alone() -> None:
    async with stun_node() as server, book_at() as book:
        server.second = None
        assert await learnt(book, server.address) == [server.address]


async def test_a_second_port_counts_only_if_it_answers() -> None:
    """A firewall may be before it."""
    with refusing_address() as nobody:
        async with stun_node() as server, book_at() as book:
            server.second = nobody.port
            assert await learnt(book, server.address) == [server.address]


async def test_a_server_cannot_send_us_to_a_systems_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def learn(real: Callable[..., object], server: PeerAddress, *args: object, **kwargs: object) -> object:
        asked.append(server.port)
        return await real(server, *args, **kwargs)  # type: ignore[misc]

    monkeypatch.setattr(stun_book, "learn_mapping", partial(learn, learn_mapping))
    async with stun_node() as server, book_at() as book:
        server.second = 25
        assert await learnt(book, server.address) == [server.address]
        assert asked == [server.address.port]


async def test_no_more_are_named_than_are_asked_and_servers_come_before_second_ports() -> None:
    async with stun_node() as one, stun_node() as two, book_at() as book:
        assert await learnt(book, one.address, two.address) == [one.address, two.address, one.own_second]


async def test_where_there_are_enough_servers_nobody_is_asked() -> None:
    async with stun_node() as server, book_at() as book:
        others = [PeerAddress.tcp(HOST, 1), PeerAddress.tcp(HOST, 2)]
        assert await learnt(book, server.address, *others) == [server.address, *others]
        assert server.asked == 0


async def test_it_asks_again_after_a_while_and_not_before() -> None:
    now = 0.0
    async with stun_node() as server, book_at(lambda: now) as book:
        server.second = None
        await learnt(book, server.address)
        server.second = server.own_second.port
        now = RECHECK_S - 1
        assert await learnt(book, server.address) == [server.address]
        now = RECHECK_S
        assert await learnt(book, server.address) == [server.address, server.own_second]
        assert server.asked == 2


async def test_a_server_that_was_lost_is_asked_anew() -> None:
    async with stun_node() as server, book_at() as book:
        await learnt(book, server.address)
        book.forget(server.address.text)
        server.second = None
        assert book.completed([server.address]) == [server.address]
        assert await learnt(book, server.address) == [server.address]
        assert server.asked == 2


async def test_what_is_not_used_any_more_is_not_remembered() -> None:
    async with stun_node() as server, stun_node() as other, book_at() as book:
        await learnt(book, server.address)
        await learnt(book, other.address)
        assert book.completed([server.address]) == [server.address]
