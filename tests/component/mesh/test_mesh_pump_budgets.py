"""Limited pairs of the pump: the rate holds, everybody gets a share, and waiting for budget costs no processor time."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from descriptors import descriptors, opened_since
from pump_clock import PumpClock

from lattica.mesh import pump as pump_module
from lattica.mesh.movers import BURST_S, HAS_SPLICE, LIMITED_MOVE, LIMITED_RETRY_S, byte_budget
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
    before = descriptors()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(48) as pool:
        pump = Pump(splice=splice)
        pump.start()
        try:
            yield Bench(pump, stack, pool)
        finally:
            pump.close()
    assert opened_since(before) == []


def moved(ends: Sequence[Ends]) -> int:
    return sum(one.pair.sent + one.pair.received for one in ends)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PumpClock:
    return PumpClock(monkeypatch)


def wait_moved(ends: Sequence[Ends], count: float) -> None:
    """Until so many bytes have been moved; of budgets that allow that many, some remain that are too few to move."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := moved(ends)) <= count - LIMITED_MOVE:
        assert time.monotonic() < deadline, f"{now} of {count:.0f}"
        time.sleep(0.001)
    assert now <= count + 1, "but for what is lost in rounding"


def keep_to(rate: float, clock: PumpClock, *ends: Ends, seconds: float = 1.0) -> None:
    """What these move in so many seconds of the clock is what a budget of that rate allows: no more, and no less."""
    start = clock.passed
    wait_moved(ends, rate * (BURST_S + start))
    while clock.passed < start + seconds:
        clock.now += BURST_S / 2
        wait_moved(ends, rate * (BURST_S + clock.passed))


def wait_fair(rate: float, clock: PumpClock, ends: Sequence[Ends], parts: Callable[[], Sequence[int]]) -> None:
    """Until parts are about equal: who had nothing to send or take for a while gets its part from then on."""
    before = parts()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        keep_to(rate, clock, *ends)
        since = [now - then for now, then in zip(parts(), before, strict=True)]
        if min(since) > max(since) / 3:
            return
        assert time.monotonic() < deadline, since


@both_movers
@pytest.mark.parametrize("rate", [1 * MB, 20 * MB])
@pytest.mark.parametrize("both_ways", [False, True], ids=["one-way", "both-ways"])
def test_a_pair_keeps_to_its_rate(clock: PumpClock, bench: Bench, rate: int, both_ways: bool) -> None:
    ends = bench.join(byte_budget(rate))
    ends.flood(bench.pool, both_ways=both_ways)
    keep_to(rate, clock, ends, seconds=1.5)


def test_pairs_that_share_a_budget_get_equal_parts_of_it(clock: PumpClock, bench: Bench) -> None:
    budget = byte_budget(10 * MB)
    ends = [bench.join(budget) for _ in range(10)]
    for one in ends:
        one.flood(bench.pool)
    keep_to(10 * MB, clock, *ends, seconds=0.5)  # the first to come had all that was saved up
    wait_fair(10 * MB, clock, ends, lambda: [one.pair.sent for one in ends])


def test_both_directions_of_a_pair_get_their_part(clock: PumpClock, bench: Bench) -> None:
    ends = bench.join(byte_budget(5 * MB))
    ends.flood(bench.pool, both_ways=True)
    wait_fair(5 * MB, clock, [ends], lambda: (ends.pair.sent, ends.pair.received))


def test_the_total_holds_whatever_each_target_may_have(clock: PumpClock, bench: Bench) -> None:
    total, first, second = byte_budget(6 * MB), byte_budget(1 * MB), byte_budget(100 * MB)
    slow, fast = bench.join(total, first), bench.join(total, second)
    for one in (slow, fast):
        one.flood(bench.pool)
    keep_to(6 * MB, clock, slow, fast, seconds=2.0)
    assert slow.pair.sent <= 1 * MB * (BURST_S + clock.passed)
    deadline = time.monotonic() + PATIENCE_S
    while (before := slow.pair.sent) < MB / 2:  # not starved
        assert time.monotonic() < deadline, before
        keep_to(6 * MB, clock, slow, fast)


def test_a_pair_without_a_budget_is_not_held_up_by_those_that_have_none_left(clock: PumpClock, bench: Bench) -> None:
    limited, free = bench.join(byte_budget(0.1 * MB)), bench.join()
    limited.flood(bench.pool)
    wait_moved([limited], 16 * 1024)
    free.flood(bench.pool)
    deadline = time.monotonic() + PATIENCE_S
    while free.pair.sent < 20 * MB:
        assert time.monotonic() < deadline, free.pair.sent
        time.sleep(0.001)
    assert limited.pair.sent <= 16 * 1024


class Turns:
    """How often the pump has woken."""

    def __init__(self, pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._select = pump._selector.select
        monkeypatch.setattr(pump._selector, "select", self._counting)

    def _counting(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.count += 1
        return self._select(timeout)


def test_waiting_for_budget_costs_no_processor_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred pairs with much to send and no budget: the pump looks in on them now and then."""
    turns = Turns(bench.pump, monkeypatch)
    budget = byte_budget(0.05 * MB)
    ends = [bench.join(budget) for _ in range(100)]
    for one in ends:
        one.near.sendall(bytes(100_000))
    time.sleep(0.2)
    started, before = time.monotonic(), turns.count
    time.sleep(1.0)
    count = turns.count - before
    assert 0 < count <= 10 + (time.monotonic() - started) / LIMITED_RETRY_S


def test_idle_limited_pairs_cost_no_processor_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(bench.pump, monkeypatch)
    budget = byte_budget(1 * MB)
    ends = [bench.join(budget) for _ in range(100)]
    for one in ends:
        one.near.sendall(b"x")
        assert one.far.recv(1) == b"x"
    time.sleep(0.2)
    before = turns.count
    time.sleep(0.5)
    assert turns.count - before <= 2, "that of the last byte, if it was late"
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


def test_a_half_closed_pair_that_waits_for_budget_is_not_stalled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "HALF_CLOSED_S", 0.1)
    ends = bench.join(byte_budget(0.02 * MB))  # most of a second between two moves
    ends.far.sendall(bytes(50_000))
    ends.near.shutdown(socket.SHUT_WR)
    assert ends.far.recv(1) == b""
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
    received, started = 0, time.monotonic()
    ends = bench.join(byte_budget(30_000))
    ends.near.sendall(bytes(60_000))
    while received < 60_000:
        received += len(ends.far.recv(65536))
    assert time.monotonic() - started > 1.0
