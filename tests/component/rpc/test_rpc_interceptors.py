"""Interceptors on both sides see every kind of call, and change what they may."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from call_services import echo, open_two
from every_service import ANSWERS, KINDS, Every, add_every, call_every
from grpc.aio import AioRpcError
from waiting import until

from lattica.errors import PeerUnreachableError, UsageError
from lattica.identity import IdentityKey


class Marking:
    """What the four client interceptors below share: the call's name is noted, and a mark put into its metadata."""

    def __init__(self, mark: str, seen: list[str]) -> None:
        self._mark = mark
        self._seen = seen

    async def _pass(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        self._seen.append(f"{self._mark} {_text(details.method)}")
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("mark", self._mark)
        marked = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(marked, request)


class MarkingUnaryUnary(Marking, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._pass(continuation, client_call_details, request)


class MarkingUnaryStream(Marking, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._pass(continuation, client_call_details, request)


class MarkingStreamUnary(Marking, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._pass(continuation, client_call_details, request_iterator)


class MarkingStreamStream(Marking, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._pass(continuation, client_call_details, request_iterator)


def marking(mark: str, seen: list[str]) -> list[grpc.aio.ClientInterceptor]:
    return [
        kind(mark, seen) for kind in (MarkingUnaryUnary, MarkingUnaryStream, MarkingStreamUnary, MarkingStreamStream)
    ]


class Noting(grpc.aio.ServerInterceptor):
    """Notes each call with the marks that it carries; refuses those that it is told to."""

    def __init__(self, name: str, seen: list[str], refuse: str = "") -> None:
        self._name = name
        self._seen = seen
        self._refuse = refuse

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        marks = [str(value) for key, value in handler_call_details.invocation_metadata or () if key == "mark"]
        self._seen.append(f"{self._name} {handler_call_details.method} {','.join(marks)}")
        if handler_call_details.method == self._refuse:
            return grpc.unary_unary_rpc_method_handler(_refuse)
        return await continuation(handler_call_details)


async def _refuse(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you", (("why", "a test"),))
    raise AssertionError("abort raises")


async def test_interceptors_see_all_four_kinds_of_call_on_both_sides_in_order() -> None:
    async with open_two() as two:
        seen: list[str] = []
        served: list[str] = []
        two.bob.rpc.add_servicer(add_every, Every())
        channel = two.alice.rpc.channel(
            two.bob.peer_id, interceptors=[*marking("outer", seen), *marking("inner", seen)]
        )
        assert await call_every(channel) == ANSWERS  # before there are any at the server
        two.bob.rpc.add_interceptor(Noting("first", served))
        two.bob.rpc.add_interceptor(Noting("second", served))
        seen.clear()
        assert await call_every(channel) == ANSWERS
        assert await call_every(two.channel) == ANSWERS
        methods = [f"/tests.Every/{kind}" for kind in KINDS]
        assert seen == [f"{mark} {method}" for method in methods for mark in ("outer", "inner")]
        marked = [f"{name} {method} outer,inner" for method in methods for name in ("first", "second")]
        assert served == marked + [f"{name} {method} " for method in methods for name in ("first", "second")]


async def test_streams_are_read_and_written_by_hand_through_interceptors() -> None:
    async with open_two() as two:
        two.bob.rpc.add_servicer(add_every, Every())
        channel = two.alice.rpc.channel(two.bob.peer_id, interceptors=marking("x", []))
        for _ in range(2):
            call = channel.stream_stream("/tests.Every/stream_stream")()
            for text in (b"1", b"2"):
                await call.write(text)
                assert await call.read() == text
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


async def test_metadata_status_details_deadline_and_cancellation_pass_through_interceptors() -> None:
    async with open_two() as two:
        every = Every()
        two.bob.rpc.add_servicer(add_every, every)
        two.bob.rpc.add_interceptor(Noting("n", []))
        channel = two.alice.rpc.channel(two.bob.peer_id, interceptors=marking("x", []))
        method = channel.unary_unary("/tests.Every/unary_unary")
        call = method(b"x", timeout=20)
        assert ("first", "metadata") in list(await call.initial_metadata())
        assert await call == b"x"
        assert ("last", "metadata") in list(await call.trailing_metadata())
        assert 0 < (call.time_remaining() or 0) <= 20
        with pytest.raises(AioRpcError) as caught:
            await method(b"x", metadata=(("do", "abort"),))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as asked")
        assert ("last", "metadata") in list(caught.value.trailing_metadata())
        while not every.begun:  # a deadline may come before its call has begun
            with pytest.raises(AioRpcError) as caught:
                await method(b"x", timeout=1.0, metadata=(("do", "wait"),))
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: every.cancelled == every.begun)
        before = every.begun
        call = method(b"x", metadata=(("do", "wait"),))
        await until(lambda: every.begun > before)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: every.cancelled == every.begun)


async def test_a_servers_interceptor_can_refuse_a_call() -> None:
    async with open_two() as two:
        two.bob.rpc.add_servicer(add_every, Every())
        two.bob.rpc.add_interceptor(Noting("n", [], refuse="/tests.Every/unary_unary"))
        with pytest.raises(AioRpcError) as caught:
            await two.channel.unary_unary("/tests.Every/unary_unary")(b"x")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
        assert ("why", "a test") in list(caught.value.trailing_metadata())
        assert await two.channel.stream_unary("/tests.Every/stream_unary")(iter([b"y"])) == b"y"


async def test_lattica_s_own_services_are_not_intercepted() -> None:
    async with open_two() as two:
        served: list[str] = []
        two.bob.rpc.add_interceptor(Noting("n", served))
        await two.echo.Echo(echo("x"))
        assert served == []
        await two.channel.unary_unary("/raw/Size")(b"123")
        assert served == ["n /raw/Size "]


async def test_the_same_interceptors_share_a_channel_and_others_do_not() -> None:
    async with open_two() as two:
        some: Sequence[grpc.aio.ClientInterceptor] = marking("x", [])
        rpc, peer = two.alice.rpc, two.bob.peer_id
        assert rpc.channel(peer, interceptors=some) is rpc.channel(peer, interceptors=list(some))
        assert rpc.channel(peer, interceptors=some) is not rpc.channel(peer)
        assert rpc.channel(peer, interceptors=some[:1]) is not rpc.channel(peer, interceptors=some)
        assert rpc.channel(peer) is two.channel


async def test_what_is_no_interceptor_is_refused_at_once() -> None:
    async with open_two() as two:
        with pytest.raises(UsageError, match="client interceptor"):
            two.alice.rpc.channel(two.bob.peer_id, interceptors=[Noting("n", [])])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="ServerInterceptor"):
            two.alice.rpc.add_interceptor(marking("x", [])[0])  # type: ignore[arg-type]


async def test_a_peer_that_cannot_be_found_is_unreachable_through_interceptors_too() -> None:
    async with open_two() as two:
        stranger = IdentityKey.generate().peer_id
        channel = two.alice.rpc.channel(stranger, interceptors=marking("x", []))
        with pytest.raises(PeerUnreachableError):
            await channel.unary_unary("/raw/Size")(b"", timeout=30)


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method
