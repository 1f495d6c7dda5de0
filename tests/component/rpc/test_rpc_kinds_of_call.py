"""Every kind of call works over pipes as it does without: messages, metadata, deadlines, statuses, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from call_services import count_to, echo, open_two, tags, wanted
from grpc.aio import AioRpcError
from waiting import until

from lattica._proto import content_pb2
from lattica.identity import PeerId
from lattica.mesh.movers import HAS_SPLICE
from lattica.rpc.options import MAX_MESSAGE


@pytest.fixture(
    params=[
        pytest.param(True, id="splice", marks=pytest.mark.skipif(not HAS_SPLICE, reason="no os.splice on this system")),
        pytest.param(False, id="copy"),
    ]
)
def splice(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_one_request_one_response(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        response = await two.echo.Echo(echo("hello"))
        assert response.payload == b"hello"
        assert PeerId(response.caller) == two.alice.peer_id


async def test_one_request_many_responses(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        assert [part.total async for part in two.streams.GetManifest(count_to(1000))] == list(range(1000))
        call = two.streams.GetManifest(count_to(2))
        assert await call.read() == content_pb2.ManifestPart(total=0)
        assert await call.read() == content_pb2.ManifestPart(total=1)
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_many_requests_one_response(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        sizes = two.channel.stream_unary("/raw/Sizes")
        assert await sizes(bytes(size) for size in (1, 20, 300)) == b"1 20 300"
        call = sizes()
        for size in (3, 5):
            await call.write(bytes(size))
        await call.done_writing()
        assert await call == b"3 5"


async def test_many_requests_many_responses(splice: bool) -> None:
    async with open_two(splice=splice) as two:

        def requests() -> Iterator[content_pb2.ChunkRequest]:
            return (wanted(number, number + 1) for number in range(100))

        async def requests_in_time() -> AsyncIterator[content_pb2.ChunkRequest]:
            for request in requests():
                await asyncio.sleep(0)
                yield request

        expected = [[number, number + 1] for number in range(100)]
        assert [tags(response) async for response in two.streams.GetChunks(requests())] == expected
        assert [tags(response) async for response in two.streams.GetChunks(requests_in_time())] == expected
        call = two.streams.GetChunks()
        for number in range(3):
            await call.write(wanted(number))
            assert tags(await call.read()) == [number]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_metadata_goes_both_ways_on_a_first_call_and_a_later_one(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        for say in ("first", "later"):
            call = two.echo.Echo(echo("x"), metadata=(("say", say),))
            assert ("first", say) in list(await call.initial_metadata())
            await call
            trailing = list(await call.trailing_metadata())
            assert ("last", say) in trailing
            assert ("raw-bin", b"\x00\xff") in trailing


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"])
async def test_the_services_own_status_comes_unchanged(splice: bool, code: str) -> None:
    async with open_two(splice=splice) as two:
        for _ in range(2):
            with pytest.raises(AioRpcError) as caught:
                await two.echo.Echo(echo("x"), metadata=(("do", f"abort {code} as the service says: schoen"),))
            assert type(caught.value) is AioRpcError
            assert caught.value.code() is grpc.StatusCode[code]
            assert caught.value.details() == "as the service says: sch\u00f6n"
            assert ("raw-bin", b"\x00\xff") in list(caught.value.trailing_metadata())
        assert (await two.echo.Echo(echo("next"))).payload == b"next"


async def test_an_exception_in_the_service_is_its_own_business(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        with pytest.raises(AioRpcError) as caught:
            await two.echo.Echo(echo("x"), metadata=(("do", "raise"),))
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_a_method_that_nobody_serves_is_unimplemented(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        with pytest.raises(AioRpcError) as caught:
            await two.channel.unary_unary("/nobody/Nothing")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
async def test_a_deadline_ends_a_call_at_both_ends(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        await two.echo.Echo(echo("connect"))
        while not two.services.echo.begun:  # the deadline may come before the call has begun
            started = asyncio.get_running_loop().time()
            with pytest.raises(AioRpcError) as caught:
                await two.echo.Echo(echo("x"), timeout=1.0, metadata=(("do", "wait"),))
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert asyncio.get_running_loop().time() - started > 0.9
        await until(lambda: two.services.echo.cancelled == two.services.echo.begun)


@pytest.mark.slow
async def test_a_deadline_covers_finding_the_peer_and_the_call(splice: bool) -> None:
    timeout, begun = 1.0, 0
    while not begun:  # the deadline may come before the peer is found, on a machine that takes its time
        async with open_two(splice=splice) as two:
            call = two.echo.Echo(echo("x"), timeout=timeout, metadata=(("do", "wait"),))
            remaining = call.time_remaining()
            assert remaining is not None
            assert 0 <= remaining <= timeout
            with pytest.raises(AioRpcError) as caught:
                await call
            begun = two.services.echo.begun
        timeout *= 3
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_cancelling_a_running_call_cancels_its_handler(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        call = two.echo.Echo(echo("x"), metadata=(("do", "wait"),))
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_outcome(call))
            await until(lambda: two.services.echo.waiting == 1)
            assert call.cancel()
            assert await waiting == "cancelled"
        assert await call.code() is grpc.StatusCode.CANCELLED
        await until(lambda: two.services.echo.cancelled == 1)


async def test_cancelling_who_waits_cancels_the_call(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_outcome(two.echo.Echo(echo("x"), metadata=(("do", "wait"),))))
            await until(lambda: two.services.echo.waiting == 1)
            waiting.cancel()
        await until(lambda: two.services.echo.cancelled == 1)


async def test_a_call_cancelled_before_its_peer_is_found_never_reaches_it(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        call = two.echo.Echo(echo("x"))
        await asyncio.sleep(0)
        assert call.cancel()
        assert await _outcome(call) == "cancelled"
        assert await call.code() is grpc.StatusCode.CANCELLED
        await two.echo.Echo(echo("y"))
        assert two.services.echo.calls == 1


async def test_a_stream_that_is_left_ends_at_the_server_when_it_is_cancelled(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        two.services.streams.pause = 0.01
        call = two.streams.GetManifest(count_to(10_000))
        async for part in call:
            if part.total == 3:
                break
        call.cancel()
        async with asyncio.timeout(30):
            await two.services.streams.ended.wait()


async def test_a_slow_reader_holds_the_sender_up_and_loses_nothing(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        two.services.streams.part_bytes = 100_000
        received = []
        async for part in two.streams.GetManifest(count_to(300)):
            assert len(part.data) == 100_000
            received.append(part.total)
            if part.total % 50 == 0:
                await asyncio.sleep(0.02)
        assert received == list(range(300))


async def test_a_message_may_have_the_limits_size_and_not_a_byte_more(splice: bool) -> None:
    async with open_two(splice=splice) as two:
        size = two.channel.unary_unary("/raw/Size")
        assert await size(bytes(MAX_MESSAGE)) == str(MAX_MESSAGE).encode()
        with pytest.raises(AioRpcError) as caught:
            await size(bytes(MAX_MESSAGE + 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await size(b"next") == b"4"


async def test_a_thousand_calls_at_once_share_one_session(splice: bool) -> None:
    async with open_two(splice=splice, native_port=None) as two:
        answers = await asyncio.gather(*(two.echo.Echo(echo(str(number))) for number in range(1000)))
        assert [answer.payload for answer in answers] == [str(number).encode() for number in range(1000)]
        assert len(two.alice.mesh.paths(two.bob.peer_id)) == 1


async def _outcome(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
    try:
        await call
    except asyncio.CancelledError:
        return "cancelled"
    except AioRpcError as error:
        return error.code().name
    return "done"
