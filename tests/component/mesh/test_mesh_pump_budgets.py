"""Limited pairs of the pump: the rate holds, everybody gets a share, and waiting for budget costs no processor time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from descriptors import count_descriptors

from lattica.mesh import pump as pump_module
from lattica.mesh.movers import HAS_SPLICE, byte_budget
from lattica.mesh.pump import Pair, Pump
from lattica.mesh.token_bucket import TokenBucket

both_movers = pytest.mark.parametrize(
    "splice",
    [
        pytest.param(True, id="splice", marks=pytest.mark.skipif(not HAS_SPLICE, reason="no os.splice on this system")),
        pytest.param(False, id="copy"),
    ],
)
PATIENCE_S = 20.0
MB = 1_000_000


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialled = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return dialled, accepted


class Ends:
    """The outer ends of one pair of the pump, and what arrives at them."""

    def __init__(self, pump: Pump, budgets: Sequence[TokenBucket], stack: contextlib.ExitStack) -> None:
        self.near, near_inner = tcp_pair()
        far_inner, self.far = tcp_pair()
        for sock in (self.near, self.far):
            sock.settimeout(PATIENCE_S)
            stack.callback(sock.close)
        self.closed = threading.Event()
        self.pair: Pair = pump.join(near_inner, far_inner, self.closed.set, budgets)

    def send_until_reset(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(65536))

    def drain(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 20):
                pass

    def flood(self, pool: ThreadPoolExecutor, *, both_ways: bool = False) -> None:
        """Send as much as goes, one way or both, until the pair ends."""
        pool.submit(self.send_until_reset, self.near)
        pool.submit(self.drain, self.far)
        if both_ways:
            pool.submit(self.send_until_reset, self.far)
            pool.submit(self.drain, self.near)


class Bench:
    """A pump whose pairs are limited."""

    def __init__(self, pump: Pump, stack: contextlib.ExitStack, pool: ThreadPoolExecutor) -> None:
        self.pump, self._stack, self.pool = pump, stack, pool

    def join(self, *budgets: TokenBucket) -> Ends:
        return Ends(self.pump, budgets, self._stack)


@pytest.fixture
def splice() -> bool:
    """How bytes are moved, which is nothing to budgets; a few tests try both."""
    return HAS_SPLICE


@pytest.fixture
def bench(splice: bool) -> Iterator[Bench]:
    before = count_descriptors()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(48) as pool:
        pump = Pump(splice=splice)
        pump.start()
        try:
            yield Bench(pump, stack, pool)
        finally:
            pump.close()
    assert count_descriptors() == before


def moved(ends: Sequence[Ends]) -> int:
    return sum(one.pair.sent + one.pair.received for one in ends)


def rate_of(ends: Sequence[Ends], seconds: float) -> float:
    """Bytes per second that these pairs move, once under way."""
    time.sleep(0.3)  # the burst is over
    before, started = moved(ends), time.monotonic()
    time.sleep(seconds)
    return (moved(ends) - before) / (time.monotonic() - started)


def keeps_to(rate: float, allowed: float) -> bool:
    """No more than is allowed, and most of it: a busy machine does not let us have all."""
    return allowed / 2 < rate < 1.15 * allowed


@pytest.mark.slow
@both_movers
@pytest.mark.parametrize("rate", [1 * MB, 20 * MB])
@pytest.mark.parametrize("both_ways", [False, True], ids=["one-way", "both-ways"])
def test_a_pair_keeps_to_its_rate(bench: Bench, rate: int, both_ways: bool) -> None:
    ends = bench.join(byte_budget(rate))
    ends.flood(bench.pool, both_ways=both_ways)
    assert keeps_to(rate_of([ends], 1.5), rate)


@pytest.mark.slow
def test_pairs_that_share_a_budget_get_equal_parts_of_it(bench: Bench) -> None:
    budget = byte_budget(10 * MB)
    ends = [bench.join(budget) for _ in range(10)]
    for one in ends:
        one.flood(bench.pool)
    rate_of(ends, 0.5)
    before = [one.pair.sent for one in ends]  # the first to come had all that was saved up
    assert keeps_to(rate_of(ends, 2.0), 10 * MB)
    deadline = time.monotonic() + PATIENCE_S
    while True:  # on a machine that is busy elsewhere it takes longer until they are
        parts = [one.pair.sent - sent for one, sent in zip(ends, before, strict=True)]
        if min(parts) > max(parts) / 3:
            break
        assert time.monotonic() < deadline, parts
        time.sleep(0.5)


def test_both_directions_of_a_pair_get_their_part(bench: Bench) -> None:
    ends = bench.join(byte_budget(5 * MB))
    ends.flood(bench.pool, both_ways=True)
    rate_of([ends], 1.0)
    assert min(ends.pair.sent, ends.pair.received) > max(ends.pair.sent, ends.pair.received) / 3


@pytest.mark.slow
def test_the_total_holds_whatever_each_target_may_have(bench: Bench) -> None:
    total, first, second = byte_budget(6 * MB), byte_budget(1 * MB), byte_budget(100 * MB)
    slow, fast = bench.join(total, first), bench.join(total, second)
    for one in (slow, fast):
        one.flood(bench.pool)
    assert keeps_to(rate_of([slow, fast], 2.0), 6 * MB)
    assert slow.pair.sent / fast.pair.sent < 1 / 3
    assert slow.pair.sent > MB / 2, "not starved"


def test_a_pair_without_a_budget_is_not_held_up_by_those_that_have_none_left(bench: Bench) -> None:
    limited, free = bench.join(byte_budget(0.1 * MB)), bench.join()
    limited.flood(bench.pool)
    free.flood(bench.pool)
    assert rate_of([free], 1.0) > 5 * MB, "fifty times the rate of the other"


def test_waiting_for_budget_costs_no_processor_time(bench: Bench) -> None:
    """A hundred pairs with much to send and no budget: the pump looks in on them now and then."""
    budget = byte_budget(0.05 * MB)
    ends = [bench.join(budget) for _ in range(100)]
    for one in ends:
        one.near.sendall(bytes(100_000))
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.15


def test_idle_limited_pairs_cost_no_processor_time(bench: Bench) -> None:
    budget = byte_budget(1 * MB)
    ends = [bench.join(budget) for _ in range(100)]
    for one in ends:
        one.near.sendall(b"x")
        assert one.far.recv(1) == b"x"
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05
    assert not bench.pump._paused


@both_movers
def test_every_byte_arrives_and_the_end_after_them(bench: Bench) -> None:
    ends = bench.join(byte_budget(4 * MB))
    data = bytes(range(256)) * 8192
    sending = bench.pool.submit(ends.near.sendall, data)
    sending.add_done_callback(lambda _: ends.near.shutdown(socket.SHUT_WR))
    parts = []
    while part := ends.far.recv(1 << 20):
        parts.append(part)
    assert b"".join(parts) == data
    ends.far.sendall(b"thanks")
    ends.far.close()
    assert ends.near.recv(100) == b"thanks"
    assert ends.near.recv(100) == b""
    assert ends.closed.wait(PATIENCE_S)


@pytest.mark.slow
def test_a_half_closed_pair_that_waits_for_budget_is_not_stalled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "HALF_CLOSED_S", 0.1)
    ends = bench.join(byte_budget(0.02 * MB))  # most of a second between two moves
    ends.near.shutdown(socket.SHUT_WR)
    assert ends.far.recv(1) == b""
    ends.far.sendall(bytes(50_000))
    received = 0
    while received < 50_000:
        part = ends.near.recv(65536)
        assert part, "the pair was dropped while it waited"
        received += len(part)


def test_a_dropped_pair_that_waits_for_budget_is_gone(bench: Bench) -> None:
    budget = byte_budget(0.02 * MB)
    ends, other = bench.join(budget), bench.join(budget)
    for one in (ends, other):
        one.near.sendall(bytes(200_000))
    time.sleep(0.1)
    bench.pump.drop(ends.pair)
    assert ends.closed.wait(PATIENCE_S)
    before = other.pair.sent
    deadline = time.monotonic() + PATIENCE_S
    while other.pair.sent == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_budget_of_a_few_bytes_still_moves_something(bench: Bench) -> None:
    ends = bench.join(byte_budget(30_000))
    ends.near.sendall(bytes(60_000))
    received, started = 0, time.monotonic()
    while received < 60_000:
        received += len(ends.far.recv(65536))
    assert 1.0 < time.monotonic() - started < 6.0
