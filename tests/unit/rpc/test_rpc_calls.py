"""A call that waits for its peer behaves like gRPC's own: results, errors, cancellation, callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from lattica.errors import NetworkError, PeerUnreachableError
from lattica.rpc import RpcUnreachableError
from lattica.rpc.calls import StreamStreamPeerCall, UnaryStreamPeerCall, UnaryUnaryPeerCall

PEER = "12D3KooWpeer"


def unreachable(**attempts: str) -> PeerUnreachableError:
    return PeerUnreachableError(PEER, attempts)


def rpc_error(code: grpc.StatusCode, details: str = "as the server said") -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(("k", "v")), details=details)


class FakeCall:
    """The call that a started one becomes."""

    def __init__(self, *responses: str, error: AioRpcError | None = None) -> None:
        self.responses = list(responses)
        self.error = error
        self.written: list[str] = []
        self.finished = asyncio.Event()
        self._cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []

    def finish(self) -> None:
        self.finished.set()
        for callback in self._callbacks:
            callback(self)

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self.finished.is_set()

    def time_remaining(self) -> float | None:
        return 7.0

    def cancel(self) -> bool:
        if self.done():
            return False
        self._cancelled = True
        self.finish()
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, None, str]:
        return self._result().__await__()

    async def _result(self) -> str:
        await self.finished.wait()
        if self._cancelled:
            raise asyncio.CancelledError
        if self.error:
            raise self.error
        return self.responses[0]

    async def __aiter__(self) -> AsyncIterator[str]:
        for response in self.responses:
            yield response
        if self.error:
            raise self.error

    async def write(self, request: str) -> None:
        self.written.append(request)

    async def code(self) -> grpc.StatusCode:
        return self.error.code() if self.error else grpc.StatusCode.OK

    async def details(self) -> str:
        return str(self.error.details()) if self.error else ""


class FakeStarter:
    """Starts ``call`` when told to."""

    def __init__(self, call: FakeCall, *, ready: bool = False) -> None:
        self.call = call
        self.go = asyncio.Event()
        self.failure: Exception | None = None
        self.started = 0
        self._ready = ready

    def start_nowait(self) -> FakeCall | None:
        return self.call if self._ready else None

    async def start(self) -> FakeCall:
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.started += 1
        return self.call

    def abandoned(self) -> AioRpcError:
        return RpcUnreachableError(unreachable(node="it is closing"))

    def time_remaining(self) -> float | None:
        return 3.0

    def explain(self, error: AioRpcError) -> AioRpcError:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return RpcUnreachableError(unreachable(here="refused"))
        return error


class Spawner:
    """Runs starts in a task group that ends with the test."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self._group = group

    def __call__(self, start: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        self.tasks.append(self._group.create_task(start()))
        return self.tasks[-1]


@contextlib.asynccontextmanager
async def spawning() -> AsyncIterator[Spawner]:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        spawner = Spawner(group)
        yield spawner
        for task in spawner.tasks:
            task.cancel()


async def turns() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_call_with_a_session_starts_without_a_task() -> None:
    starter = FakeStarter(FakeCall("hello"), ready=True)
    starter.call.finish()
    async with spawning() as spawn:
        assert await UnaryUnaryPeerCall(starter, spawn) == "hello"
        assert spawn.tasks == []


async def test_a_call_waits_for_its_peer_and_gives_the_response() -> None:
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        assert not call.done()
        assert call.time_remaining() == 3.0
        starter.go.set()
        starter.call.finish()
        assert await call == "hello"
        assert call.done()
        assert call.time_remaining() == 7.0
        assert await call.code() is grpc.StatusCode.OK


async def test_an_unreachable_peer_is_both_our_error_and_grpcs() -> None:
    starter = FakeStarter(FakeCall())
    starter.failure = unreachable(here="connection refused")
    starter.go.set()
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        with pytest.raises(PeerUnreachableError) as caught:
            await call
        assert caught.value.attempts == {"here": "connection refused"}
        assert isinstance(caught.value, AioRpcError)
        assert isinstance(caught.value, NetworkError)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "connection refused" in str(caught.value.details())
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert "connection refused" in str(await call.details())
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()


def test_the_error_can_be_copied() -> None:
    error = RpcUnreachableError(unreachable(here="refused"))
    twin = copy.copy(error)
    assert (str(twin), twin.code(), twin.attempts) == (str(error), error.code(), error.attempts)


async def test_a_fault_of_the_callers_comes_out_as_it_is() -> None:
    starter = FakeStarter(FakeCall())
    starter.failure = TypeError("no such option")
    starter.go.set()
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        with pytest.raises(TypeError, match="no such option"):
            await call


async def test_the_servers_own_errors_pass_unchanged() -> None:
    error = rpc_error(grpc.StatusCode.NOT_FOUND)
    starter = FakeStarter(FakeCall(error=error), ready=True)
    starter.call.finish()
    async with spawning() as spawn:
        with pytest.raises(AioRpcError) as caught:
            await UnaryUnaryPeerCall(starter, spawn)
    assert caught.value is error


async def test_a_lost_peer_is_explained_with_grpcs_error_as_the_cause() -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    starter = FakeStarter(FakeCall("one", error=error), ready=True)
    starter.call.finish()
    async with spawning() as spawn:
        with pytest.raises(PeerUnreachableError, match="refused") as caught:
            await UnaryUnaryPeerCall(starter, spawn)
        assert caught.value.__cause__ is error
        responses = aiter(UnaryStreamPeerCall[str, str](starter, spawn))
        assert await anext(responses) == "one"
        with pytest.raises(PeerUnreachableError, match="refused"):
            await anext(responses)


async def test_a_call_cancelled_before_its_peer_is_found_never_starts() -> None:
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        ended: list[object] = []
        call.add_done_callback(ended.append)
        await turns()
        assert call.cancel()
        assert call.cancelled()
        assert call.done()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert "cancelled" in str(await call.details())
        assert ended == [call]
        starter.go.set()
        await turns()
        assert starter.started == 0


async def test_who_stops_waiting_for_a_response_cancels_the_call() -> None:
    """As with gRPC's own calls: the request must not reach the peer after its caller has given up."""
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await call
        assert call.cancelled()
        starter.go.set()
        await turns()
        assert starter.started == 0


async def test_who_stops_waiting_for_the_next_message_cancels_the_call() -> None:
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: StreamStreamPeerCall[str, str] = StreamStreamPeerCall(starter, spawn)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await call.write("request")
        assert call.cancelled()


async def test_who_stops_waiting_for_metadata_does_not() -> None:
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await call.initial_metadata()
        starter.go.set()
        starter.call.finish()
        assert await call == "hello"


async def test_a_running_call_is_cancelled_through() -> None:
    starter = FakeStarter(FakeCall("hello"), ready=True)
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        assert call.cancel()
        assert starter.call.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_call_that_the_node_closes_fails_and_does_not_cancel_its_caller() -> None:
    starter = FakeStarter(FakeCall("hello"), ready=True)
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        starter.call.cancel()
        with pytest.raises(PeerUnreachableError, match="it is closing"):
            await call


async def test_a_call_whose_start_the_node_cancels_fails_likewise() -> None:
    starter = FakeStarter(FakeCall("hello"))
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        await turns()
        spawn.tasks[0].cancel()
        with pytest.raises(PeerUnreachableError, match="it is closing"):
            await call


async def test_a_call_on_a_closed_node_fails_at_once() -> None:
    def refuse(start: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        raise unreachable(node="it is closing")

    call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(FakeStarter(FakeCall()), refuse)
    assert call.done()
    with pytest.raises(PeerUnreachableError, match="it is closing"):
        await call


@pytest.mark.parametrize("ready", [True, False])
async def test_callbacks_get_the_call_itself_once_whenever_they_are_added(ready: bool) -> None:
    starter = FakeStarter(FakeCall("hello"), ready=ready)
    ended: list[object] = []
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        call.add_done_callback(ended.append)
        starter.go.set()
        await turns()
        call.add_done_callback(ended.append)
        assert ended == []
        starter.call.finish()
        assert ended == [call, call]
        call.add_done_callback(ended.append)
        assert ended == [call, call, call]


async def test_callbacks_hear_of_a_call_that_never_started() -> None:
    starter = FakeStarter(FakeCall())
    starter.failure = unreachable()
    ended: list[object] = []
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(starter, spawn)
        call.add_done_callback(ended.append)
        starter.go.set()
        await turns()
    assert ended == [call]


async def test_iteration_may_be_left_and_taken_up_again() -> None:
    starter = FakeStarter(FakeCall("a", "b", "c"), ready=True)
    async with spawning() as spawn:
        call: UnaryStreamPeerCall[str, str] = UnaryStreamPeerCall(starter, spawn)
        responses = aiter(call)
        assert await anext(responses) == "a"
        assert [response async for response in responses] == ["b", "c"]


async def test_another_channel_closes_while_a_call_waits_for_its_peer() -> None:
    """grpcio before 1.85 looks through all tasks for its calls then, and stumbles over one it cannot place."""
    async with spawning() as spawn:
        call: UnaryUnaryPeerCall[str, str] = UnaryUnaryPeerCall(FakeStarter(FakeCall()), spawn)
        await turns()
        await grpc.aio.insecure_channel("unix:/nowhere").close()
        assert isinstance(call, grpc.aio.Call)
        assert hasattr(call, "_channel")
