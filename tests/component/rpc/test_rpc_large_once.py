"""Large calls that must not run twice, while connections are cut and servers forget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import DeadlineExceededError, LatticaError, OutcomeUnknownError
from lattica.rpc import once_server
from lattica.rpc.batch_client import BatchClient
from lattica.rpc.batch_wire import FORGOTTEN, MAX_BULK, ONCE, Failure
from lattica.rpc.call_memory import CallMemory
from lattica.rpc.own_client import call_alone
from lattica.rpc.own_wire import CallHeader
from lattica.rpc.peer_caller import PeerCaller
from lattica.rpc.service import spec_of

BATCHED, ALONE = MAX_BULK // 2, 3 * MAX_BULK
"""Bytes of arguments that travel in the session for larger ones, and that have a gRPC call of their own."""


@rpc.service("ledger")
class Ledger:
    """Counts what it runs; `go` lets it end."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.go.set()

    @rpc.method
    async def book(self, data: bytes, result: int = 8) -> bytes:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return data[:1] * result


@dataclass(frozen=True, slots=True)
class Two:
    """Alice, who calls, and Bob, who keeps the ledger."""

    alice: Rooms
    bob: Rooms
    ledger: Ledger
    stub: Ledger

    def cut(self) -> None:
        """Cut all connections between them."""
        for pipe in list(self.alice.mesh._table.of(self.bob.peer_id)):
            self.alice.mesh._table.drop(pipe)

    @property
    def caller(self) -> PeerCaller:
        return self.alice.rpc._callers[self.bob.peer_id]

    def session(self, size: int) -> BatchClient:
        """Whose numbers calls with so many bytes have."""
        return self.caller.bulk if size <= MAX_BULK else self.caller.batch

    def memory(self, size: int) -> CallMemory:
        """What Bob remembers of such calls of Alice's."""
        return self.bob.rpc._calls._callers[self.alice.peer_id, self.session(size).instance]

    def forget(self, size: int) -> None:
        """Bob forgets them, as if he had been restarted."""
        memories = self.bob.rpc._calls._callers
        memories[self.alice.peer_id, self.session(size).instance] = CallMemory(b"another memory..")


@pytest.fixture
async def two(request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    before, native = asyncio.all_tasks(), getattr(request, "param", 0)
    async with asyncio.timeout(60), open_rooms() as alice, open_rooms(native_port=native) as bob:
        alice.knows(bob)
        ledger = Ledger()
        bob.rpc.serve(ledger)
        yield Two(alice, bob, ledger, alice.rpc.stub(Ledger, bob.peer_id))
        ledger.go.set()
    here = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() <= {*before, here})


@contextlib.asynccontextmanager
async def under_way(two: Two, size: int, result: int = 8) -> AsyncIterator[asyncio.Task[bytes]]:
    """A call that runs and waits, of a caller that knows by now whose memory it is in."""
    two.ledger.go.clear()
    call = asyncio.create_task(two.stub.book(b"x" * size, result))
    try:
        await until(lambda: two.ledger.begun == 1 and two.session(size)._server is not None)
        yield call
    finally:
        call.cancel()
        await asyncio.wait([call])


@pytest.mark.parametrize("size", [BATCHED, ALONE])
@pytest.mark.parametrize("result", [8, MAX_BULK + 1])
async def test_a_call_runs_on_when_its_connection_is_cut_and_its_caller_gets_the_answer(
    two: Two, size: int, result: int
) -> None:
    async with under_way(two, size, result) as call:
        two.cut()
        memory = two.memory(size)
        await until(lambda: not (memory.attempts or memory.streams) or next(iter(memory.entries.values())).again)
        two.ledger.go.set()
        assert await call == b"x" * result
    assert (two.ledger.begun, two.ledger.cancelled) == (1, 0)
    await until(lambda: not two.memory(size).entries)


@pytest.mark.parametrize("size", [BATCHED, ALONE])
async def test_one_that_ended_while_its_caller_was_cut_off_is_answered_from_memory(two: Two, size: int) -> None:
    async with under_way(two, size) as call:
        entry = next(iter(two.memory(size).entries.values()))
        two.cut()
        two.ledger.go.set()
        await until(lambda: entry.answer is not None)
        assert await call == b"x" * 8
    assert two.ledger.begun == 1


@pytest.mark.parametrize("size", [BATCHED, ALONE])
async def test_a_caller_that_cancels_cancels_the_method(two: Two, size: int) -> None:
    async with under_way(two, size) as call:
        call.cancel()
        await until(lambda: two.ledger.cancelled == 1)
    await until(lambda: not two.memory(size).entries)


async def test_a_caller_that_cancels_while_it_is_cut_off_cancels_the_method(two: Two) -> None:
    async with under_way(two, ALONE) as call:
        two.cut()
        call.cancel()
        await until(lambda: two.ledger.cancelled == 1)


@pytest.mark.parametrize("size", [BATCHED, ALONE])
async def test_a_deadline_ends_the_method_and_leaves_nothing(two: Two, size: int) -> None:
    await two.stub.book(b"y")
    two.ledger.go.clear()
    while two.ledger.begun < 2:  # the deadline may come before the call has begun
        with pytest.raises(DeadlineExceededError):
            await rpc.options(two.stub, timeout=0.5).book(b"x" * size)
    await until(lambda: two.ledger.cancelled == two.ledger.begun - 1)
    await until(lambda: not two.memory(size).entries)


@pytest.mark.parametrize("size", [BATCHED, ALONE])
async def test_a_server_that_has_forgotten_a_lost_call_does_not_run_it(two: Two, size: int) -> None:
    async with under_way(two, size) as call:
        two.forget(size)
        two.cut()
        with pytest.raises(OutcomeUnknownError, match="restarted"):
            await call
    assert two.ledger.begun == 1


@pytest.mark.parametrize("two", [None], indirect=True, ids=["one stream"])
async def test_a_server_that_has_forgotten_us_before_the_call_runs_it(two: Two) -> None:
    await two.stub.book(b"y" * ALONE)
    session = two.session(ALONE)._stream
    assert session is not None
    two.forget(ALONE)
    call = asyncio.create_task(two.stub.book(b"x" * ALONE))  # names the memory that is gone
    await asyncio.sleep(0)
    session.cancel()
    assert await call == b"x" * 8
    assert two.ledger.begun == 2


async def test_arguments_that_were_cut_off_are_sent_again(two: Two) -> None:
    await two.stub.book(b"y")
    call = asyncio.create_task(two.stub.book(b"x" * (64 << 20)))
    await until(lambda: two.bob.rpc._calls.intake.taken > 0)
    two.cut()
    assert await call == b"x" * 8
    assert two.ledger.begun == 2
    await until(lambda: two.bob.rpc._calls.intake.taken == 0)


async def test_a_result_too_large_to_be_kept_is_told_to_have_been_there(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once_server, "MAX_REMEMBERED_BYTES", 1000)
    async with under_way(two, ALONE, result=1001) as call:
        entry = next(iter(two.memory(ALONE).entries.values()))
        two.cut()
        two.ledger.go.set()
        await until(lambda: entry.answer is not None)
        assert entry.size < 1000
        with pytest.raises(OutcomeUnknownError, match="too large to be kept"):
            await call
    assert two.ledger.begun == 1


async def test_one_whose_caller_stays_gets_it_all_the_same(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once_server, "MAX_REMEMBERED_BYTES", 1000)
    assert len(await two.stub.book(b"x" * ALONE, 1 << 20)) == 1 << 20


async def test_a_late_message_of_an_acknowledged_call_that_was_sent_twice_does_not_run_it(two: Two) -> None:
    async with under_way(two, ALONE) as call:
        memory = two.memory(ALONE)
        number = next(iter(memory.entries))
        two.cut()
        two.ledger.go.set()
        await call
    await until(lambda: not memory.entries)
    assert number in memory.settled
    args = spec_of(Ledger).methods["book"].args
    header = CallHeader("ledger/book", two.caller.batch.instance, number, ONCE, None, memory.name)
    late = await call_alone(two.caller.channel, header, args.encode_small(args.bind((b"x" * ALONE,), {})), None)
    assert isinstance(late, Failure)
    assert late.code == FORGOTTEN
    assert two.ledger.begun == 1


@pytest.mark.parametrize(("size", "calls"), [(BATCHED, 60), (ALONE, 15)])
async def test_every_call_runs_once_and_succeeds_while_connections_are_cut_again_and_again(
    two: Two, size: int, calls: int
) -> None:
    results: list[bytes | LatticaError] = []

    async def one(number: int) -> None:
        try:
            results.append(await two.stub.book(bytes([number]) * size))
        except LatticaError as error:
            results.append(error)

    async with asyncio.TaskGroup() as tasks:
        for number in range(calls):
            tasks.create_task(one(number))
        for cut in range(1, 5):
            await until(partial(_has, results, cut * calls // 6), 60)
            two.cut()
    assert sorted(result if isinstance(result, bytes) else b"" for result in results) == [
        bytes([number]) * 8 for number in range(calls)
    ], [result for result in results if isinstance(result, Exception)]
    assert two.ledger.begun == calls
    await until(lambda: not two.memory(size).entries)


def _has(results: list[bytes | LatticaError], count: int) -> bool:
    return len(results) >= count
