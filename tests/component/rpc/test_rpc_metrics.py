"""Calls are counted at both ends: how many, how long, how they ended, by which path, and bytes where that is cheap."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from call_services import count_to, echo, open_two, until
from every_service import PlainEcho
from grpc.aio import AioRpcError
from prometheus_client import REGISTRY, CollectorRegistry

from lattica._proto import peer_pb2_grpc
from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey
from lattica.rpc import RpcMetrics
from lattica.rpc.metrics import METRICS


def count(metrics: RpcMetrics, side: str, kind: str, outcome: str, path: str) -> float:
    value: float = metrics.total.labels(side, kind, outcome, path)._value.get()
    return value


async def test_calls_are_counted_at_both_ends_by_outcome_and_path() -> None:
    async with open_two() as two:
        at_client, at_server = two.alice.rpc.metrics, two.bob.rpc.metrics
        for _ in range(3):
            await two.echo.Echo(echo("hello"))
        with pytest.raises(AioRpcError):
            await two.echo.Echo(echo("x"), metadata=(("do", "abort NOT_FOUND no"),))
        with pytest.raises(AioRpcError):
            await two.echo.Echo(echo("x"), metadata=(("do", "raise"),))
        with pytest.raises(AioRpcError):
            await two.echo.Echo(echo("x"), timeout=1.0, metadata=(("do", "wait"),))
        assert [part.total async for part in two.streams.GetManifest(count_to(5))] == list(range(5))
        expected = {"ok": 3, "not_found": 1, "unknown": 1, "deadline_exceeded": 1}
        for outcome, times in expected.items():
            assert count(at_client, "client", "unary_unary", outcome, "lan") == times, outcome
        assert count(at_client, "client", "unary_stream", "ok", "lan") == 1
        await until(lambda: count(at_server, "server", "unary_unary", "deadline_exceeded", "unknown") == 1)
        for outcome, times in expected.items():
            assert count(at_server, "server", "unary_unary", outcome, "unknown") == times, outcome
        assert count(at_server, "server", "unary_stream", "ok", "unknown") == 1


async def test_bytes_and_seconds_of_a_call_are_counted() -> None:
    async with open_two() as two:
        size = two.channel.unary_unary("/raw/Size")
        assert await size(bytes(1000)) == b"1000"
        for metrics, side, sent, received in (
            (two.alice.rpc.metrics, "client", 1000, 4),
            (two.bob.rpc.metrics, "server", 4, 1000),
        ):
            assert metrics.size.labels(side, "sent")._value.get() == sent
            assert metrics.size.labels(side, "received")._value.get() == received
            assert 0 < metrics.duration.labels(side, "unary_unary")._sum.get() < 10


async def test_calls_to_who_cannot_be_reached_and_cancelled_ones_are_counted() -> None:
    async with open_two() as two:
        stranger = two.alice.rpc.channel(IdentityKey.generate().peer_id)
        with pytest.raises(PeerUnreachableError):
            await stranger.unary_unary("/raw/Size")(b"", timeout=5)
        metrics = two.alice.rpc.metrics
        assert count(metrics, "client", "unary_unary", "unreachable", "unknown") == 1
        call = two.echo.Echo(echo("x"))
        await asyncio.sleep(0)
        call.cancel()
        await until(lambda: count(metrics, "client", "unary_unary", "cancelled", "unknown") == 1)


async def test_plain_functions_are_counted() -> None:
    async with open_two() as two:
        two.alice.rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, PlainEcho())
        stub = peer_pb2_grpc.PeerStub(two.bob.knows(two.alice))
        await stub.Echo(echo("x"))
        with pytest.raises(AioRpcError) as caught:
            await stub.Echo(echo("abort"))
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        metrics = two.alice.rpc.metrics
        assert count(metrics, "server", "unary_unary", "ok", "unknown") == 1
        await until(lambda: count(metrics, "server", "unary_unary", "failed", "unknown") == 1)


def test_a_batch_is_counted_at_once() -> None:
    metrics = RpcMetrics(registry := CollectorRegistry())
    metrics.calls("client", "batched", "ok", "relayed", 50_000)
    metrics.seconds("client", "batched", 0.5)
    metrics.bytes("client", "sent", 128 * 50_000)
    labels = {"side": "client", "kind": "batched", "outcome": "ok", "path": "relayed"}
    assert registry.get_sample_value("lattica_rpc_calls_total", labels) == 50_000
    assert registry.get_sample_value("lattica_rpc_call_seconds_count", {"side": "client", "kind": "batched"}) == 1


def test_nodes_export_to_the_default_registry() -> None:
    METRICS.calls("client", "unary_unary", "ok", "lan", 0)
    labels = {"side": "client", "kind": "unary_unary", "outcome": "ok", "path": "lan"}
    assert REGISTRY.get_sample_value("lattica_rpc_calls_total", labels) is not None
