"""The race over a peer's addresses, in trio with a clock of its own: stagger, winner, losers, reasons."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
import trio.testing

from lattica.errors import NetworkError
from lattica.identity import PeerAddress
from lattica.swarm.dialing import CONNECT_TIMEOUT_S, DIAL_STAGGER_S, MAX_RACE, connect_tcp, race

T = TypeVar("T")


def addresses(count: int) -> list[PeerAddress]:
    return [PeerAddress.tcp("192.0.2.1", port) for port in range(1, count + 1)]


class Dialler:
    """Plays a network: each port is refused, connects, or hangs, after a time; notes who dialled when."""

    def __init__(self, **ports: tuple[str, float]) -> None:
        self.ports = {int(name[1:]): what for name, what in ports.items()}
        self.started: dict[int, float] = {}
        self.cancelled: list[int] = []

    async def dial(self, address: PeerAddress) -> int:
        self.started[address.port] = trio.current_time() - self.epoch
        what, delay = self.ports[address.port]
        try:
            await trio.sleep(delay)
        except trio.Cancelled:
            self.cancelled.append(address.port)
            raise
        if what == "refuse":
            raise NetworkError("connection refused")
        return address.port

    async def run(self, count: int) -> tuple[int | None, dict[str, str], float]:
        self.epoch = trio.current_time()
        winner, failures = await race(self.dial, addresses(count))
        return winner, failures, trio.current_time() - self.epoch


def run(function: Callable[[], Awaitable[T]]) -> T:
    return trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_first_address_wins_if_it_answers_in_time() -> None:
    dialler = Dialler(p1=("connect", 0.1), p2=("connect", 0))
    winner, failures, took = run(lambda: dialler.run(2))
    assert (winner, failures) == (1, {})
    assert took == pytest.approx(0.1)
    assert dialler.started == {1: 0.0}


def test_a_silent_address_delays_the_next_by_one_stagger_only() -> None:
    dialler = Dialler(p1=("hang", math.inf), p2=("connect", 0.01))
    winner, _, took = run(lambda: dialler.run(2))
    assert winner == 2
    assert took == pytest.approx(DIAL_STAGGER_S + 0.01)
    assert dialler.cancelled == [1]


def test_a_refused_address_delays_the_next_not_at_all() -> None:
    dialler = Dialler(p1=("refuse", 0.001), p2=("refuse", 0.001), p3=("connect", 0.001))
    winner, failures, took = run(lambda: dialler.run(3))
    assert winner == 3
    assert took == pytest.approx(0.003)
    assert list(failures.values()) == ["connection refused"] * 2


def test_a_slow_address_still_wins_when_the_others_fail() -> None:
    dialler = Dialler(p1=("connect", 3.0), p2=("refuse", 0.1), p3=("hang", math.inf))
    winner, failures, took = run(lambda: dialler.run(3))
    assert winner == 1
    assert took == pytest.approx(3.0)
    assert list(failures) == ["/ip4/192.0.2.1/tcp/2"]
    assert dialler.cancelled == [3]


def test_when_all_fail_each_reason_is_known() -> None:
    dialler = Dialler(p1=("refuse", 0.5), p2=("refuse", 0.01), p3=("refuse", 2.0))
    winner, failures, took = run(lambda: dialler.run(3))
    assert winner is None
    assert set(failures) == {address.text for address in addresses(3)}
    assert took == pytest.approx(DIAL_STAGGER_S + 0.01 + 2.0)


def test_a_peer_cannot_have_us_dial_without_end() -> None:
    dialler = Dialler(**{f"p{port}": ("refuse", 0.0) for port in range(1, 100)})
    winner, failures, _ = run(lambda: dialler.run(99))
    assert winner is None
    assert len(failures) == len(dialler.started) == MAX_RACE


def test_no_addresses_lose_at_once() -> None:
    assert run(lambda: Dialler().run(0)) == (None, {}, 0.0)


async def connect_reason(address: PeerAddress) -> str:
    try:
        sock = await connect_tcp(address)
    except NetworkError as error:
        return str(error)
    sock.close()
    return "connected"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (PeerAddress.tcp("127.0.0.1", 1), "connection refused"),
        (PeerAddress("/dns4/..", "..", 1), "idna|name|label|empty"),
        (PeerAddress("/dns4/x", "x" * 300, 1), "idna|name|label|long"),
        (PeerAddress("/dns4/nul", "a\0b", 1), "null|codepoint|not allowed|known"),
    ],
)
def test_what_cannot_be_dialled_says_why(address: PeerAddress, reason: str) -> None:
    """Also names that the resolver's codec refuses, which raises no OSError: they come from peers."""
    said = trio.run(connect_reason, address)
    assert any(word in said.lower() for word in reason.split("|")), said


def test_an_address_that_never_answers_times_out() -> None:
    """A listener whose queue is full drops further SYN packets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = PeerAddress.tcp(*listener.getsockname()[:2])
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((address.host, address.port))

            async def connect() -> tuple[str, float]:
                started = trio.current_time()
                return await connect_reason(address), trio.current_time() - started

            said, took = run(connect)
        finally:
            for filler in fillers:
                filler.close()
    assert said == f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    assert took == pytest.approx(CONNECT_TIMEOUT_S)
