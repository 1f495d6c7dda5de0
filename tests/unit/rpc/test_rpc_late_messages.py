"""Messages of lost streams that reach a server after the caller has made the call again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from lattica import rpc
from lattica.identity import IdentityKey
from lattica.rpc.batch_wire import AGAIN, BULK, FORGOTTEN, ONCE, SMALL, Call, Failure, SessionKind
from lattica.rpc.call_answers import Answer
from lattica.rpc.call_memory import MAX_SETTLED, CallMemory, Entry
from lattica.rpc.call_server import CallServer
from lattica.rpc.dispatch import Dispatcher
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.service import spec_of

PEER = IdentityKey.generate().peer_id


@rpc.service("late")
class Service:
    def __init__(self) -> None:
        self.runs = 0

    @rpc.method
    async def run(self) -> None:
        self.runs += 1


class Stream:
    """Where answers go."""

    is_open = True

    def __init__(self, kind: SessionKind = SMALL) -> None:
        self.kind = kind
        self.answers: asyncio.Queue[Answer | None] = asyncio.Queue()

    def answer(self, number: int, answer: Answer | None) -> None:
        self.answers.put_nowait(answer)

    answer_again = answer


class Server:
    """A server with one caller."""

    def __init__(self) -> None:
        self.service = Service()
        dispatcher = Dispatcher()
        dispatcher.add(spec_of(Service), self.service)
        self.calls = CallServer(dispatcher, RpcMetrics())
        self.memory, _ = self.calls.memory_of(PEER, bytes(16))

    async def call(self, number: int, flags: int = ONCE) -> Answer | None:
        stream, spec = Stream(), spec_of(Service).methods["run"]
        args = spec.args.encode_small(())
        assert isinstance(args, bytes)
        call = Call(number, spec.path, 0, flags, msgspec.Raw(args))
        self.calls.begin(PEER, self.memory, stream, call, time.monotonic())
        async with asyncio.timeout(30):
            return await stream.answers.get()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.calls.close()


def is_forgotten(answer: Answer | None) -> bool:
    return isinstance(answer, Failure) and answer.code == FORGOTTEN


@pytest.mark.parametrize("flags", [[ONCE | AGAIN], [ONCE, ONCE | AGAIN]], ids=["first-is-late", "third-is-late"])
async def test_a_call_that_was_sent_twice_and_acknowledged_does_not_run_again(server: Server, flags: list[int]) -> None:
    for flag in flags:
        assert not is_forgotten(await server.call(1, flag))
    server.memory.acknowledged([1])
    assert is_forgotten(await server.call(1))
    assert server.service.runs == 1


async def test_a_call_that_is_cancelled_before_it_comes_does_not_run(server: Server) -> None:
    server.calls.cancel(server.memory, [1])
    assert is_forgotten(await server.call(1))
    assert server.service.runs == 0


async def test_one_that_is_cancelled_in_the_turn_in_which_it_comes_holds_no_place(server: Server) -> None:
    spec = spec_of(Service).methods["run"]
    for kind in (SMALL, BULK):
        stream = Stream(kind)
        call = Call(kind.max_value, spec.path, 0, ONCE, msgspec.Raw(b"\x90"))
        server.calls.begin(PEER, server.memory, stream, call, time.monotonic())
        server.calls.cancel(server.memory, [call.id])
    tasks = [entry.task for entry in server.memory.entries.values() if entry.task is not None]
    await asyncio.wait(tasks)
    assert (server.calls.dispatcher.running, server.calls.intake.taken, server.service.runs) == (0, 0, 0)
    assert not server.memory.entries


async def test_one_that_may_run_twice_runs_as_often_as_it_is_sent(server: Server) -> None:
    """Its caller may have lost the second answer too."""
    for flags in (0, AGAIN, AGAIN):
        assert not is_forgotten(await server.call(1, flags))
    assert server.service.runs == 3


async def test_calls_that_were_sent_once_leave_nothing(server: Server) -> None:
    await server.call(1)
    server.memory.acknowledged([1])
    assert not server.memory.entries
    assert not server.memory.settled


async def test_a_caller_is_gone_when_neither_a_stream_nor_an_attempt_of_its_is_left(server: Server) -> None:
    memory, stream = server.memory, Stream()
    server.calls.joined(memory, stream)
    server.calls.attached(memory)
    server.calls.left(memory, stream)
    assert memory.gone_since is None
    server.calls.attached(memory)
    server.calls.detached(memory)
    assert memory.gone_since is None
    server.calls.detached(memory)
    assert memory.gone_since is not None


def test_the_oldest_settled_numbers_are_forgotten() -> None:
    memory = CallMemory()
    for number in range(MAX_SETTLED + 5):
        memory.settle(number)
    assert len(memory.settled) == MAX_SETTLED
    assert 4 not in memory.settled
    assert 5 in memory.settled


async def test_a_call_that_takes_its_time_to_end_is_waited_for_even_if_its_caller_was_forgotten(server: Server) -> None:
    ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    task = asyncio.create_task(stubborn())
    server.memory.entries[1] = Entry(1, Stream(), once=True, task=task)
    await asyncio.sleep(0)
    server.calls._drop((PEER, bytes(16)))
    await server.calls.close()
    assert ended.is_set()
