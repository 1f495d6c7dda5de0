"""Health and reflection, asked by code that nobody here wrote; plain functions as services; a plain target."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from call_services import echo, open_two, tags, wanted
from every_service import PlainEcho, PlainStreams
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mesh_rooms import open_rooms
from waiting import until
from yagrc.reflector import GrpcReflectionClient, list_services

from lattica._proto import content_pb2, content_pb2_grpc, peer_pb2, peer_pb2_grpc
from lattica.rpc import ServingStatus

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def about(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


# Health


async def test_a_node_and_what_it_serves_are_serving_until_told_otherwise() -> None:
    async with open_two() as two:
        stub = health_pb2_grpc.HealthStub(two.channel)
        for service in ("", "lattica.v1.Peer", "grpc.health.v1.Health"):
            assert (await stub.Check(about(service))).status == SERVING
        two.bob.rpc.health.set("lattica.v1.Peer", ServingStatus.NOT_SERVING)
        assert (await stub.Check(about("lattica.v1.Peer"))).status == NOT_SERVING
        assert (await stub.Check(about(""))).status == SERVING
        with pytest.raises(AioRpcError) as caught:
            await stub.Check(about("no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(ValueError, match="7"):
            two.bob.rpc.health.set("x", 7)  # type: ignore[arg-type]


async def test_watchers_are_told_of_changes_also_when_another_one_has_left() -> None:
    async with open_two() as two:
        stub = health_pb2_grpc.HealthStub(two.channel)
        staying, leaving = stub.Watch(about("model")), stub.Watch(about("model"))
        assert (await staying.read()).status == (await leaving.read()).status == UNKNOWN
        leaving.cancel()
        two.bob.rpc.health.set("model", ServingStatus.SERVING)
        assert (await staying.read()).status == SERVING
        two.bob.rpc.health.set("model", ServingStatus.NOT_SERVING)
        assert (await staying.read()).status == NOT_SERVING
        staying.cancel()


async def test_a_node_that_closes_tells_watchers_first_and_does_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("rpc", "server"):
        monkeypatch.setattr(f"lattica.rpc.{module}.DRAIN_S", 600.0)  # the grace for calls that do not end
    async with open_rooms() as alice:
        async with open_rooms() as bob:
            stub = health_pb2_grpc.HealthStub(alice.knows(bob))
            watching = stub.Watch(about(""))
            assert (await watching.read()).status == SERVING
        assert (await watching.read()).status == NOT_SERVING
        assert await watching.read() is grpc.aio.EOF
        bob.rpc.health.set("", ServingStatus.SERVING)
        assert bob.rpc.health.get() is ServingStatus.NOT_SERVING


# Reflection


async def test_a_foreign_client_lists_and_calls_a_service_that_it_has_no_code_for() -> None:
    async with open_two(reflection=True) as two, two.alice.rpc.local_target(two.bob.peer_id) as target:

        def foreign() -> tuple[list[str], bytes]:
            with grpc.insecure_channel(target) as channel:
                client = GrpcReflectionClient()
                client.load_protocols(channel)
                stub = client.service_stub_class("lattica.v1.Peer")(channel)
                request = client.message_class("lattica.v1.EchoRequest")(payload=b"no code")
                return list_services(channel), stub.Echo(request, timeout=30).payload

        services, payload = await asyncio.to_thread(foreign)
        assert payload == b"no code"
        assert services == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "lattica.v1.Content",
            "lattica.v1.Peer",
        ]


async def test_reflection_tells_of_what_is_served_and_of_nothing_else() -> None:
    async with open_rooms() as alice, open_rooms(reflection=True) as bob:
        bob.rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, PlainEcho())
        stub = reflection_pb2_grpc.ServerReflectionStub(alice.knows(bob))
        questions = [
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="lattica.v1.Peer"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="lattica.v1.Control"),
            reflection_pb2.ServerReflectionRequest(file_by_filename=content_pb2.DESCRIPTOR.name),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="google.protobuf.MessageOptions"),
            reflection_pb2.ServerReflectionRequest(),
        ]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(questions))]
        (described,) = answers[0].file_descriptor_response.file_descriptor_proto
        assert FileDescriptorProto.FromString(described).name == peer_pb2.DESCRIPTOR.name
        assert [answer.error_response.error_code for answer in answers[1:]] == [5, 5, 5, 3]
        bob.rpc.add_servicer(content_pb2_grpc.add_ContentServicer_to_server, PlainStreams())
        (answer,) = [answer async for answer in stub.ServerReflectionInfo(iter([questions[2]]))]
        assert answer.HasField("file_descriptor_response")


async def test_reflection_is_off_unless_asked_for() -> None:
    async with open_two() as two:
        stub = reflection_pb2_grpc.ServerReflectionStub(two.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(AioRpcError) as caught:
            await stub.ServerReflectionInfo(iter([question])).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Plain functions


async def test_servicers_with_plain_methods_work_in_threads_of_their_own() -> None:
    async with open_rooms() as alice, open_rooms() as bob:
        plain = PlainEcho()
        bob.rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, plain)
        bob.rpc.add_servicer(content_pb2_grpc.add_ContentServicer_to_server, PlainStreams())
        channel = alice.knows(bob)
        stub, streams = peer_pb2_grpc.PeerStub(channel), content_pb2_grpc.ContentStub(channel)
        together = await asyncio.gather(*(stub.Echo(echo("together")) for _ in range(3)))
        assert [answer.caller for answer in together] == [alice.peer_id.raw] * 3
        assert all(name.startswith("lattica-rpc-sync") for name in plain.threads)
        with pytest.raises(AioRpcError) as caught:
            await stub.Echo(echo("abort"))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "as asked")
        parts = [part.total async for part in streams.GetManifest(content_pb2.ManifestRequest(cid=b"20"))]
        assert parts == list(range(20))
        assert [tags(answer) async for answer in streams.GetChunks(iter([wanted(1), wanted(2, 3)]))] == [[1], [2, 3]]
        waiting = stub.Echo(echo("wait"))
        await until(lambda: len(plain.threads) == 5)
        assert (await stub.Echo(echo("meanwhile"), timeout=30)).payload == b"meanwhile"
        plain.go.set()
        assert (await waiting).payload == b"wait"


# A plain target


async def test_a_local_target_carries_all_kinds_of_call_from_a_synchronous_stub() -> None:
    async with open_two() as two:
        async with two.alice.rpc.local_target(two.bob.peer_id) as target:
            folder = Path(target.removeprefix("unix:")).parent
            assert folder == two.alice.server.parent

            def plain() -> None:
                with grpc.insecure_channel(target) as channel:
                    _use_all_kinds(channel)

            await asyncio.to_thread(plain)
        assert not Path(target.removeprefix("unix:")).exists()


def _use_all_kinds(channel: grpc.Channel) -> None:
    peer, content = peer_pb2_grpc.PeerStub(channel), content_pb2_grpc.ContentStub(channel)
    answer, call = peer.Echo.with_call(echo("hi"), timeout=30, metadata=(("say", "this"), ("some-bin", b"\x00")))
    assert answer.payload == b"hi"
    assert ("first", "this") in list(call.initial_metadata())
    assert ("raw-bin", b"\x00\xff") in list(call.trailing_metadata())
    with pytest.raises(grpc.RpcError) as caught:
        peer.Echo(echo("x"), metadata=(("do", "abort NOT_FOUND as asked"),))
    failed: Any = caught.value
    assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, "as asked")
    assert ("raw-bin", b"\x00\xff") in list(failed.trailing_metadata())
    with pytest.raises(grpc.RpcError) as caught:
        peer.Echo(echo("x"), timeout=0.5, metadata=(("do", "wait"),))
    failed = caught.value
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [part.total for part in content.GetManifest(content_pb2.ManifestRequest(cid=b"50"))] == list(range(50))
    assert [tags(part) for part in content.GetChunks(iter([wanted(1), wanted(2)]))] == [[1], [2]]
    sizes: Any = channel.stream_unary("/raw/Sizes")
    assert sizes(iter([b"1", b"22"])) == b"1 2"


async def test_a_call_cancelled_at_a_local_target_is_cancelled_at_the_peer() -> None:
    async with (
        open_two() as two,
        two.alice.rpc.local_target(two.bob.peer_id) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        call = peer_pb2_grpc.PeerStub(channel).Echo(echo("x"), metadata=(("do", "wait"),))
        tasks = asyncio.ensure_future(_ended(call))
        await until(lambda: two.services.echo.waiting == 1)
        call.cancel()
        await tasks
        await until(lambda: two.services.echo.cancelled == 1)


async def _ended(call: Any) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call
