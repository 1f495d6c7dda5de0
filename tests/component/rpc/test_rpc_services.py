"""Plain Python services between two nodes' rooms."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import (
    CodecError,
    DeadlineExceededError,
    DecodeError,
    NoSuchMethodError,
    RemoteError,
    ServerBusyError,
    UsageError,
)
from lattica.rpc.batch_wire import BULK, CALL_METHOD, MAX_TIMEOUT_S, SMALL


class OutOfMemoryError(Exception):
    """A service's own exception."""


@dataclass
class Point:
    x: int
    y: float


@rpc.service("everything")
class Everything:
    def __init__(self) -> None:
        self.running = 0
        self.ended = 0
        self.made = 0
        self.taken = 0
        self.go = asyncio.Event()
        self.unblocked = threading.Event()

    @rpc.method
    async def echo(self, data: bytes) -> bytes:
        return data

    @rpc.method(idempotent=True)
    def scaled(self, array: np.ndarray[Any, Any], by: float = 2.0, *, offset: float = 0.0) -> np.ndarray[Any, Any]:
        return array * by + offset

    @rpc.method
    async def mirrored(self, point: Point) -> Point:
        return Point(-point.x, -point.y)

    @rpc.method
    async def who(self) -> str:
        return str(rpc.current_call().peer)

    @rpc.method
    async def zeros(self, size: int) -> bytes:
        return bytes(size)

    @rpc.method(raises=(OutOfMemoryError,))
    async def fail(self, how: str) -> None:
        raise OutOfMemoryError("all of it") if how == "own" else ValueError(how)

    @rpc.method
    async def wait(self) -> str:
        self.running += 1
        try:
            await self.go.wait()
        finally:
            self.running -= 1
            self.ended += 1
        return "gone"

    @rpc.method(concurrency=2)
    async def few(self) -> None:
        self.running += 1
        await self.go.wait()

    @rpc.method(threads=2)
    def block(self) -> bool:
        return self.unblocked.wait(30)

    @rpc.method
    async def numbers(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
        finally:
            self.ended += 1

    @rpc.method
    def letters(self, text: str) -> Iterator[str]:
        yield from text

    @rpc.method
    async def blocks(self, count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            self.made += 1
            yield bytes(1 << 20)

    @rpc.method
    async def total(self, items: AsyncIterator[int], start: int = 0) -> int:
        return start + sum([item async for item in items])

    @rpc.method
    async def slowly(self, items: AsyncIterator[bytes]) -> int:
        async for _ in items:
            self.taken += 1
            await self.go.wait()
        return self.taken

    @rpc.method
    async def doubled(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item


@dataclass
class Two:
    alice: Rooms
    bob: Rooms
    served: Everything
    stub: Everything


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        served = Everything()
        bob.rpc.serve(served)
        yield Two(alice, bob, served, alice.rpc.stub(Everything, bob.peer_id, timeout=30.0))


async def test_calls_of_all_kinds_return_what_the_method_does(two: Two) -> None:
    assert await two.stub.echo(b"small") == b"small"
    assert await two.stub.mirrored(Point(1, 2.0)) == Point(-1, -2.0)
    assert await two.stub.who() == str(two.alice.peer_id)
    assert (await two.stub.scaled(np.ones(3), offset=1.0)).tolist() == [3.0] * 3
    assert [number async for number in two.stub.numbers(4)] == [0, 1, 2, 3]
    assert [letter async for letter in two.stub.letters("abc")] == ["a", "b", "c"]

    async def items() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    assert await two.stub.total(items(), start=100) == 110
    assert [number async for number in two.stub.doubled(items())] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("size", [65_000, 66_000, 300_000, 3_000_000, 9_000_000])
async def test_large_arguments_and_results_arrive(two: Two, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert await two.stub.echo(data) == data
    assert await two.stub.zeros(size) == bytes(size)
    array = np.arange(size // 8, dtype=np.float64)
    assert np.array_equal(await two.stub.scaled(array, 3.0), array * 3.0)


async def test_many_calls_at_once_each_get_their_own_answer(two: Two) -> None:
    asked = [str(number).encode() for number in range(5000)]
    assert await asyncio.gather(*map(two.stub.echo, asked)) == asked
    await until(lambda: not two.bob.rpc._calls.dispatcher.running)
    await until(lambda: all(not memory.entries for memory in two.bob.rpc._calls._callers.values()))
    assert len(two.bob.rpc._calls.deadlines) == 0, "kept until deadlines that nobody waits for"
    assert len(two.alice.rpc._callers[two.bob.peer_id].batch._deadlines) == 0


async def test_as_many_of_the_largest_calls_that_share_a_message_arrive(two: Two) -> None:
    asked = [bytes([number % 256]) * 60_000 for number in range(300)]
    assert await asyncio.gather(*map(two.stub.echo, asked)) == asked


async def test_many_long_error_messages_at_once_arrive(two: Two) -> None:
    text = "\N{SNOWMAN}" * 20_000
    errors = await asyncio.gather(*(two.stub.fail(text) for _ in range(300)), return_exceptions=True)
    assert {type(error).__name__ for error in errors} == {"RemoteValueError"}
    assert await two.stub.echo(b"same session") == b"same session"


async def test_exceptions_arrive_as_what_they_were(two: Two) -> None:
    with pytest.raises(ValueError, match="no such layer") as caught:
        await two.stub.fail("no such layer")
    assert isinstance(caught.value, RemoteError)
    assert caught.value.kind == "ValueError"
    assert not caught.value.traceback
    with pytest.raises(OutOfMemoryError):
        await two.stub.fail("own")
    with pytest.raises(RemoteError, match="in fail"):
        await rpc.options(two.stub, traceback=True).fail("x")


async def test_what_does_not_fit_is_refused_and_says_where(two: Two) -> None:
    with pytest.raises(CodecError, match="argument data of everything/echo"):
        await two.stub.echo(object())  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="argument by of everything/scaled"):
        await two.stub.scaled(np.ones(1), "two")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing"):
        await two.stub.echo()  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="no stub"):
        rpc.options(object())
    with pytest.raises(UsageError, match="unknown call option"):
        rpc.options(two.stub, hedge=1)


async def test_unknown_services_are_refused(two: Two) -> None:
    stub = two.bob.rpc.stub(Everything, two.alice.peer_id)
    two.bob.knows(two.alice)
    with pytest.raises(NoSuchMethodError):
        await stub.echo(b"")
    with pytest.raises(NoSuchMethodError):
        await stub.echo(bytes(100_000))
    with pytest.raises(NoSuchMethodError):
        await stub.echo(bytes(5_000_000))
    with pytest.raises(NoSuchMethodError):
        await anext(aiter(stub.numbers(1)))


async def test_deadlines_and_cancelled_callers_end_the_handler(two: Two) -> None:
    assert await two.stub.echo(b"connected")
    while not (two.served.running or two.served.ended):  # a deadline may come before its call has begun
        with pytest.raises(DeadlineExceededError):
            await rpc.options(two.stub, timeout=1.0).wait()
    await until(lambda: two.served.ended and not two.served.running)
    calls = [asyncio.ensure_future(two.stub.wait()) for _ in range(2000)]
    await until(lambda: two.served.running == 2000)
    for call in calls:
        call.cancel()
    await until(lambda: two.served.running == 0)
    assert await two.stub.echo(b"still") == b"still"
    await until(lambda: all(not memory.entries for memory in two.bob.rpc._calls._callers.values()))


async def test_the_longest_timeout_can_be_told_by_every_clock_on_the_way(two: Two) -> None:
    stub = rpc.options(two.stub, timeout=float(MAX_TIMEOUT_S))
    assert await stub.echo(b"small") == b"small"
    assert await stub.echo(bytes(100_000)) == bytes(100_000)
    assert await stub.echo(bytes(5_000_000)) == bytes(5_000_000)
    assert [number async for number in stub.numbers(2)] == [0, 1]


async def test_leaving_a_stream_closes_the_generator_at_the_peer(two: Two) -> None:
    async with contextlib.aclosing(two.stub.numbers(10_000_000)) as numbers:  # type: ignore[type-var]
        async for number in numbers:
            if number == 10:
                break
    await until(lambda: two.served.ended == 1)
    await until(lambda: not two.bob.rpc._calls.dispatcher.running)


async def test_a_method_over_its_limit_refuses_quickly_and_others_go_on(two: Two) -> None:
    stub = rpc.options(two.stub, attempts=1)
    calls = [asyncio.ensure_future(stub.few()) for _ in range(2)]
    await until(lambda: two.served.running == 2)
    with pytest.raises(ServerBusyError, match="2 calls of it"):
        await stub.few()
    assert await stub.echo(b"x") == b"x"
    two.served.go.set()
    await asyncio.gather(*calls)
    await stub.few()


async def test_slow_plain_functions_hold_up_only_themselves(two: Two) -> None:
    calls = [asyncio.ensure_future(two.stub.block()) for _ in range(4)]
    for number in range(50):
        assert await two.stub.echo(str(number).encode())
    assert not any(call.done() for call in calls)
    two.served.unblocked.set()
    assert await asyncio.gather(*calls) == [True] * 4


async def test_a_stalled_reader_bounds_what_is_made_for_it_and_loses_nothing(two: Two) -> None:
    stream = aiter(two.stub.blocks(300))
    assert len(await anext(stream)) == 1 << 20
    made = -1
    while made != two.served.made:  # until nothing more is made for half a second
        made = two.served.made
        await asyncio.sleep(0.5)
    assert made < 150, "blocks of 1 MiB made for a reader that took one"
    assert 1 + len([block async for block in stream]) == 300


async def test_a_stalled_handler_bounds_what_is_sent_to_it(two: Two) -> None:
    sent = 0

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += 1
            yield bytes(1 << 20)

    call = asyncio.ensure_future(two.stub.slowly(blocks()))
    await until(lambda: two.served.taken == 1)
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.5)
    assert sent < 150, "blocks of 1 MiB sent to a handler that took one"
    two.served.go.set()
    assert await call == 300


async def test_a_caller_whose_own_stream_fails_gets_that_error(two: Two) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await two.stub.total(items())
    await until(lambda: not two.bob.rpc._calls.dispatcher.running)


@pytest.mark.parametrize("method", [SMALL.method, BULK.method, CALL_METHOD])
async def test_garbage_costs_its_sender_the_call(two: Two, method: str) -> None:
    channel = two.alice.rpc.channel(two.bob.peer_id)
    for garbage in (b"", b"\xc1", b"\x93\x90\x90", b"\x01\xff\xff\xff\xff", bytes(100), b"\x93" + b"\x91" * 1000):
        call = channel.stream_stream(method)(metadata=(("lattica-instance-bin", bytes(16)),), timeout=20)
        await call.write(garbage)
        await call.done_writing()
        assert (await call.code()).name in {"INVALID_ARGUMENT", "OK"}
    assert await two.stub.echo(b"unharmed") == b"unharmed"


async def test_hedged_calls_return_one_answer(two: Two) -> None:
    stub = rpc.options(two.stub, hedge_after=0.0)
    for _ in range(20):
        assert (await stub.scaled(np.ones(2))).tolist() == [2.0, 2.0]


async def test_a_closing_node_answers_what_is_under_way_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rpc", "server"):
        monkeypatch.setattr(f"lattica.rpc.{module}.DRAIN_S", 600.0)  # the grace for calls that do not end
    async with open_rooms() as alice:
        served = Everything()
        async with open_rooms() as bob:
            bob.rpc.serve(served)
            alice.knows(bob)
            stub = alice.rpc.stub(Everything, bob.peer_id)
            waiting = asyncio.ensure_future(stub.wait())
            await until(lambda: served.running == 1)
            asyncio.get_running_loop().call_later(0.3, served.go.set)
        assert await waiting == "gone"
