"""The pump: every byte arrives, in order, through kernel pipes and through the portable buffer alike."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from descriptors import count_descriptors, descriptors, opened_since
from pump_clock import PumpClock

from lattica.mesh import pump as pump_module
from lattica.mesh.movers import HAS_SPLICE, SPARE_PIPES
from lattica.mesh.pump import Pair, Pump

PATIENCE_S = 20.0
MB = 1_000_000

splice_modes = pytest.mark.parametrize(
    "splice",
    [
        pytest.param(True, id="splice", marks=pytest.mark.skipif(not HAS_SPLICE, reason="no os.splice on this system")),
        pytest.param(False, id="copy"),
    ],
)
pytestmark = splice_modes


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialled = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    for sock in (dialled, accepted):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return dialled, accepted


@dataclass
class Joined:
    """A pair of the pump between our gRPC (a unix socket) and a peer (TCP), and the two outer ends."""

    near: socket.socket
    far: socket.socket
    pair: Pair
    closed: threading.Event

    def wait_closed(self) -> None:
        assert self.closed.wait(PATIENCE_S), "the pair is still open"


class Bench:
    """A pump with pairs; outer ends block for `PATIENCE_S` at most."""

    def __init__(self, pump: Pump, stack: contextlib.ExitStack) -> None:
        self.pump = pump
        self._stack = stack

    def join(self) -> Joined:
        near, near_inner = socket.socketpair()
        far_inner, far = tcp_pair()
        for sock in (near, far):
            sock.settimeout(PATIENCE_S)
            self._stack.enter_context(sock)
        closed = threading.Event()
        return Joined(near, far, self.pump.join(near_inner, far_inner, closed.set), closed)


@pytest.fixture
def bench(splice: bool) -> Iterator[Bench]:
    """A running pump. Afterwards neither its thread nor a descriptor is left."""
    before = descriptors()
    with contextlib.ExitStack() as stack:
        pump = Pump(splice=splice)
        pump.start()
        try:
            yield Bench(pump, stack)
        finally:
            pump.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lattica-pump"]
    assert opened_since(before) == []


@functools.cache
def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def send(sock: socket.socket, data: bytes, *, seed: int = 0, largest: int = 300_000) -> None:
    """Send in chunks of random sizes, now and then a single byte, and say that this was all."""
    rng, view = random.Random(seed), memoryview(data)
    while view:
        size = 1 if rng.random() < 0.05 else rng.randint(1, largest)
        sock.sendall(view[:size])
        view = view[size:]
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket, *, pause_every: int = 0) -> bytes:
    """Everything to the end; with ``pause_every`` bytes a moment's rest, so that the sender has to wait."""
    parts, since_pause = [], 0
    while part := sock.recv(256 * 1024):
        parts.append(part)
        since_pause += len(part)
        if pause_every and since_pause >= pause_every:
            since_pause = 0
            time.sleep(0.002)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken for a while; how much that was."""
    sock.setblocking(False)
    sent = 0
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while selector.select(0.1):
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(bytes(256 * 1024))
    sock.settimeout(PATIENCE_S)
    return sent


def same(got: bytes, wanted: bytes) -> bool:
    """Without pytest's attempt to show the difference between megabytes."""
    return len(got) == len(wanted) and hashlib.blake2b(got).digest() == hashlib.blake2b(wanted).digest()


@pytest.mark.parametrize("pause_every", [0, 2 * MB], ids=["fast-reader", "slow-reader"])
def test_fifty_megabytes_each_way_at_once_arrive_exactly(bench: Bench, splice: bool, pause_every: int) -> None:
    joined = bench.join()
    there, back = noise(50 * MB), noise(50 * MB + 1)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, joined.near, there, seed=1), pool.submit(send, joined.far, back, seed=2)]
        at_far = pool.submit(receive, joined.far, pause_every=pause_every)
        at_near = pool.submit(receive, joined.near, pause_every=pause_every)
        assert same(at_far.result(), there)
        assert same(at_near.result(), back)
        for done in sending:
            done.result()
    seconds = time.monotonic() - started
    print(f"pump splice={splice} both ways {2 * 50 / seconds:.0f} MB/s")
    joined.wait_closed()
    assert (joined.pair.sent, joined.pair.received) == (len(there), len(back))


def test_many_tiny_pieces_arrive_exactly(bench: Bench) -> None:
    """Each takes a slot of the kernel's pipe, which is full long before its bytes are."""
    joined = bench.join()
    data = noise(200_000)
    with ThreadPoolExecutor(2) as pool:
        sending = pool.submit(send, joined.near, data, largest=20)
        assert same(receive(joined.far, pause_every=20_000), data)
        sending.result()


@pytest.mark.parametrize("closer", ["near", "far"])
def test_a_side_that_has_closed_its_direction_still_receives(bench: Bench, closer: str) -> None:
    joined = bench.join()
    first, second = (joined.near, joined.far) if closer == "near" else (joined.far, joined.near)
    first.sendall(b"question")
    first.shutdown(socket.SHUT_WR)
    assert receive(second) == b"question"
    assert not joined.closed.is_set()
    data = noise(5 * MB)
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(send, second, data)
        assert same(receive(first), data)
        answering.result()
    joined.wait_closed()


@pytest.mark.parametrize("closer", ["near", "far"])
def test_what_was_sent_before_the_end_arrives_although_the_reader_is_late(bench: Bench, closer: str) -> None:
    joined = bench.join()
    first, second = (joined.near, joined.far) if closer == "near" else (joined.far, joined.near)
    sent = fill(first)  # every buffer on the way is full, the pump's as well
    first.close()
    assert len(receive(second)) == sent
    second.close()
    joined.wait_closed()


def test_a_half_closed_pair_that_stands_still_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our gRPC has gone; a peer that does not follow must not hold our descriptors for ever."""
    monkeypatch.setattr(pump_module, "HALF_CLOSED_S", 0.1)
    joined = bench.join()
    joined.near.close()
    assert receive(joined.far) == b""
    joined.wait_closed()


def test_a_half_closed_pair_that_moves_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = PumpClock(monkeypatch)
    joined = bench.join()
    joined.near.shutdown(socket.SHUT_WR)
    assert joined.far.recv(1) == b""
    for _ in range(12):
        clock.now += 0.4 * pump_module.HALF_CLOSED_S  # longer than that in all
        joined.far.sendall(b"x")
        assert joined.near.recv(10) == b"x"
    bench.join()  # wakes the pump
    assert not joined.closed.wait(0.1)
    clock.now += 1.1 * pump_module.HALF_CLOSED_S
    bench.join()
    joined.wait_closed()


@pytest.mark.parametrize("resetter", ["near", "far"])
def test_a_reset_in_the_middle_closes_the_pair(bench: Bench, resetter: str) -> None:
    joined = bench.join()
    gone, other = (joined.near, joined.far) if resetter == "near" else (joined.far, joined.near)
    while fill(other) + fill(gone):  # the system's buffers grow while the other side is filled
        pass
    reset(gone)
    joined.wait_closed()
    with contextlib.suppress(ConnectionResetError):  # the other side may be told either way
        receive(other)


def test_two_hundred_pairs_at_once_keep_their_bytes_apart(bench: Bench) -> None:
    pairs = [bench.join() for _ in range(200)]
    payloads = [noise(40_000 + number) for number in range(200)]

    def talk(joined: Joined, payload: bytes) -> bool:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send, joined.near, payload, largest=9_000)
            exact = same(receive(joined.far), payload)
            sending.result()
        joined.far.close()
        return exact

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(talk, pairs, payloads))
    for joined in pairs:
        joined.wait_closed()


def test_a_stalled_pair_does_not_stop_the_others(bench: Bench) -> None:
    stalled, busy = bench.join(), bench.join()
    held = fill(stalled.near)
    data = noise(20 * MB)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, busy.near, data)
        assert same(receive(busy.far), data)
        sending.result()
    stalled.near.close()
    assert len(receive(stalled.far)) == held


def test_a_stalled_pair_costs_no_processor_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    select = bench.pump._selector.select

    def counting(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        nonlocal turns
        turns += 1
        return select(timeout)

    monkeypatch.setattr(bench.pump._selector, "select", counting)
    stalled = bench.join()
    while fill(stalled.near) + fill(stalled.far):
        pass
    before = turns
    time.sleep(0.3)
    assert turns - before < 20, "it does not spin"


def test_a_dropped_pair_is_closed_at_both_ends(bench: Bench) -> None:
    joined, other = bench.join(), bench.join()
    bench.pump.drop(joined.pair)
    joined.wait_closed()
    assert joined.near.recv(1) == b""
    assert joined.far.recv(1) == b""
    bench.pump.drop(joined.pair)  # again: nothing happens
    other.near.sendall(b"still here")
    assert other.far.recv(100) == b"still here"


def test_a_closed_pump_closes_its_pairs_with_bytes_on_their_way(bench: Bench) -> None:
    pairs = [bench.join() for _ in range(5)]
    for joined in pairs:
        fill(joined.near)
    bench.pump.close()
    for joined in pairs:
        assert joined.closed.is_set()
        with contextlib.suppress(ConnectionResetError):
            receive(joined.far)


def test_a_pair_that_is_over_before_it_is_joined_is_closed(bench: Bench) -> None:
    near, near_inner = socket.socketpair()
    far_inner, far = tcp_pair()
    near.close()
    far.close()
    closed = threading.Event()
    bench.pump.join(near_inner, far_inner, closed.set)
    assert closed.wait(PATIENCE_S)


def test_idle_pairs_hold_their_two_sockets_and_nothing_else(bench: Bench) -> None:
    before = count_descriptors()
    pairs = [bench.join() for _ in range(50)]
    for joined in pairs:
        joined.near.sendall(b"request")
        assert joined.far.recv(100) == b"request"
    assert count_descriptors() <= before + 4 * len(pairs) + 2 * SPARE_PIPES


@pytest.mark.slow
def test_pairs_that_hold_bytes_give_their_kernel_pipes_back(bench: Bench) -> None:
    before = count_descriptors()
    pairs = [bench.join() for _ in range(SPARE_PIPES + 4)]
    for joined in pairs:
        fill(joined.near)
    for joined in pairs:
        joined.near.close()
        receive(joined.far)
        joined.far.close()
        joined.wait_closed()
    assert count_descriptors() <= before + 2 * SPARE_PIPES


def test_without_descriptors_a_pair_that_needs_one_is_closed(
    bench: Bench, splice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", exhausted)
    joined = bench.join()
    with contextlib.suppress(BrokenPipeError):  # the pump may have noticed before we say anything
        joined.near.sendall(b"request")
    if splice:
        joined.wait_closed()
    else:
        assert joined.far.recv(100) == b"request"


def test_a_raised_error_of_the_selector_costs_one_pair_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = bench.join()
    selector: selectors.BaseSelector = bench.pump._selector
    deadline = time.monotonic() + PATIENCE_S
    while len(selector.get_map()) < 3:  # its wake-up socket and the two of the pair
        assert time.monotonic() < deadline
        time.sleep(0.001)
    register: Callable[..., selectors.SelectorKey] = selector.register
    monkeypatch.setattr(selector, "register", _raise_once(register))
    unlucky = bench.join()
    unlucky.wait_closed()
    healthy.near.sendall(b"x")
    assert healthy.far.recv(1) == b"x"


def _raise_once(function: Callable[..., selectors.SelectorKey]) -> Callable[..., selectors.SelectorKey]:
    failures = [OSError(28, "No space left on device")]

    def call(*args: object) -> selectors.SelectorKey:
        if failures:
            raise failures.pop()
        return function(*args)

    return call
