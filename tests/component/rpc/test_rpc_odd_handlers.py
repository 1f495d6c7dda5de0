"""Handlers that fail in odd ways: their callers are told, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica import rpc
from lattica.errors import CodecError, DecodeError, RemoteError, RemoteProtocolError, RpcError

LARGE = bytes(200_000)
NESTED = {
    "DecodeError": DecodeError("a result of another service", "it is malformed"),
    "CodecError": CodecError("an argument of another service", "it has no form"),
    "RemoteProtocolError": RemoteProtocolError("nonsense", "another peer"),
}
"""Errors of calls that a handler itself makes."""


@rpc.service("odd")
class Odd:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0

    @rpc.method
    async def fine(self) -> str:
        return "fine"

    @rpc.method
    async def wait(self) -> str:
        self.waiting += 1
        await self.go.wait()
        return "waited"

    @rpc.method
    async def surrogate(self, data: bytes) -> None:
        raise ValueError("caf\udce9")

    @rpc.method
    async def surrogates(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("caf\udce9")

    @rpc.method
    async def cancelled(self, data: bytes) -> None:
        inner = asyncio.ensure_future(self.go.wait())
        inner.cancel()
        await inner

    @rpc.method
    async def cancelled_later(self) -> AsyncIterator[int]:
        yield 1
        await self.cancelled(b"")

    @rpc.method
    async def cancelled_taking(self, items: AsyncIterator[int]) -> None:
        await self.cancelled(b"")

    @rpc.method
    def exhausted(self, data: bytes) -> int:
        return next(iter(()))

    @rpc.method
    def exhausted_later(self) -> Iterator[int]:
        yield 1
        next(iter(()))

    @rpc.method
    async def relayed(self, kind: str) -> None:
        raise NESTED[kind]

    @rpc.method
    async def relayed_later(self, kind: str) -> AsyncIterator[int]:
        yield 1
        raise NESTED[kind]

    @rpc.method
    async def relayed_taking(self, kind: str, items: AsyncIterator[int]) -> None:
        async for _ in items:
            raise NESTED[kind]

    @rpc.method
    async def unsendable_later(self) -> AsyncIterator[int]:
        yield 1
        yield object()  # type: ignore[misc]

    @rpc.method
    def promised(self) -> Iterator[int]:
        return next(iter(()))


@dataclass
class Two:
    bob: Rooms
    served: Odd
    stub: Odd


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        served = Odd()
        bob.rpc.serve(served)
        yield Two(bob, served, alice.rpc.stub(Odd, bob.peer_id))


async def all_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        pytest.param(lambda odd: odd.surrogate(b""), "ValueError", r"caf\udce9", id="surrogate"),
        pytest.param(lambda odd: odd.surrogate(LARGE), "ValueError", r"caf\udce9", id="surrogate-large"),
        pytest.param(lambda odd: all_of(odd.surrogates()), "ValueError", r"caf\udce9", id="surrogate-stream"),
        pytest.param(lambda odd: odd.cancelled(b""), "CancelledError", "", id="cancelled"),
        pytest.param(lambda odd: odd.cancelled(LARGE), "CancelledError", "", id="cancelled-large"),
        pytest.param(lambda odd: all_of(odd.cancelled_later()), "CancelledError", "", id="cancelled-stream"),
        pytest.param(lambda odd: odd.cancelled_taking([1]), "CancelledError", "", id="cancelled-requests"),
        pytest.param(lambda odd: odd.exhausted(b""), "RuntimeError", "odd/exhausted raised StopIteration", id="stop"),
        pytest.param(lambda odd: odd.exhausted(LARGE), "RuntimeError", "raised StopIteration", id="stop-large"),
        pytest.param(
            lambda odd: all_of(odd.exhausted_later()), "RuntimeError", "raised StopIteration", id="stop-stream"
        ),
        pytest.param(lambda odd: all_of(odd.promised()), "RuntimeError", "raised StopIteration", id="stop-first"),
    ],
)
async def test_whoever_called_is_told_and_the_other_calls_go_on(
    two: Two, call: Callable[[Any], Coroutine[Any, Any, Any]], kind: str, text: str
) -> None:
    other = asyncio.ensure_future(two.stub.wait())
    await until(lambda: two.served.waiting == 1)
    with pytest.raises(RemoteError) as caught:
        await call(two.stub)
    assert (caught.value.kind, text in caught.value.message) == (kind, True)
    assert await two.stub.fine() == "fine"
    two.served.go.set()
    assert await other == "waited"
    assert two.served.waiting == 1, "the other call was begun once"
    await until(lambda: not two.bob.rpc._calls.dispatcher.running)


@pytest.mark.parametrize("kind", NESTED)
async def test_what_a_handlers_own_calls_raise_is_not_taken_for_a_fault_of_its_caller(two: Two, kind: str) -> None:
    stub: Any = two.stub
    for call in (stub.relayed(kind), all_of(stub.relayed_later(kind)), stub.relayed_taking(kind, [1])):
        with pytest.raises(RemoteError) as caught:
            await call
        assert (caught.value.kind, caught.value.message) == (kind, str(NESTED[kind]))


async def test_what_cannot_be_taken_or_sent_within_a_stream_is_told_apart_from_that(two: Two) -> None:
    stub: Any = two.stub
    with pytest.raises(DecodeError, match="an item of odd/relayed_taking"):
        await stub.relayed_taking("DecodeError", ["one"])
    with pytest.raises(DecodeError, match="argument kind of odd/relayed_later"):
        await all_of(stub.relayed_later(1))
    with pytest.raises(RpcError, match="was executed, but the result of odd/unsendable_later cannot be sent"):
        await all_of(stub.unsendable_later())
    assert await stub.fine() == "fine"
