"""Calls are counted at both ends: how many, how long, how they ended, by which path, and bytes where that is cheap."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from call_services import count_to, echo, open_two
from every_service import PlainEcho
from grpc.aio import AioRpcError
from prometheus_client import REGISTRY, CollectorRegistry
from waiting import until

from lattica import rpc
from lattica._proto import peer_pb2_grpc
from lattica.errors import DeadlineExceededError, DecodeError, NoSuchMethodError, PeerUnreachableError, ServerBusyError
from lattica.identity import IdentityKey
from lattica.rpc import RpcMetrics
from lattica.rpc.metrics import METRICS

CANCELLED, LATE = ("batched", "cancelled"), ("batched", "deadline_exceeded")


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
        late = 0
        while not count(at_server, "server", "unary_unary", "deadline_exceeded", "unknown"):
            late += 1  # one that is long on its way begins too late, or ends otherwise
            with pytest.raises(AioRpcError):
                await two.echo.Echo(echo("x"), timeout=1.0, metadata=(("do", "wait"),))
            await until(lambda: two.services.echo.cancelled == two.services.echo.begun)
        assert [part.total async for part in two.streams.GetManifest(count_to(5))] == list(range(5))
        expected = {"ok": 3, "not_found": 1, "unknown": 1}
        for outcome, times in (expected | {"deadline_exceeded": late}).items():
            assert count(at_client, "client", "unary_unary", outcome, "lan") == times, outcome
        assert count(at_client, "client", "unary_stream", "ok", "lan") == 1
        await until(lambda: count(at_server, "server", "unary_stream", "ok", "unknown") == 1)
        for outcome, times in expected.items():
            assert count(at_server, "server", "unary_unary", outcome, "unknown") == times, outcome


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
            assert metrics.duration.labels(side, "unary_unary")._sum.get() > 0


async def test_calls_to_who_cannot_be_reached_and_cancelled_ones_are_counted() -> None:
    async with open_two() as two:
        stranger = two.alice.rpc.channel(IdentityKey.generate().peer_id)
        with pytest.raises(PeerUnreachableError):
            await stranger.unary_unary("/raw/Size")(b"", timeout=30)
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


@rpc.service("counted")
class Counted:
    """Ends in each way."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    @rpc.method
    async def small(self, data: bytes) -> bytes:
        return data

    @rpc.method
    async def grow(self, size: int) -> bytes:
        return bytes(size)

    @rpc.method
    async def fail(self) -> None:
        raise ValueError("no")

    @rpc.method(concurrency=1)
    async def wait(self) -> None:
        await self.go.wait()

    @rpc.method
    async def results(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    @rpc.method
    async def requests(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


async def test_calls_of_plain_python_services_are_counted_at_both_ends() -> None:
    served = Counted()
    async with open_two() as two:
        two.bob.rpc.serve(served)
        stub: Any = two.alice.rpc.stub(Counted, two.bob.peer_id, timeout=30.0)
        await asyncio.gather(*(stub.small(b"x") for _ in range(50)))
        assert len(await stub.grow(300_000)) == 300_000  # in a batch; its result is fetched
        assert await stub.small(bytes(100_000)) == bytes(100_000)  # in a batch as well
        assert await stub.small(bytes(3_000_000)) == bytes(3_000_000)  # a gRPC call of its own
        with pytest.raises(ValueError, match="no"):
            await stub.fail()
        with pytest.raises(DecodeError):
            await stub.grow("much")
        with pytest.raises(NoSuchMethodError):
            await two.alice.rpc.stub(Counted, two.bob.peer_id, name="nowhere").fail()
        waiting = asyncio.create_task(stub.wait())
        await until(lambda: two.bob.rpc._calls.dispatcher.load("counted") == 1)
        with pytest.raises(ServerBusyError):
            await rpc.options(stub, attempts=1).wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await until(lambda: not two.bob.rpc._calls.dispatcher.running)
        late = 0
        while not _counted(two.bob.rpc.metrics, "server").get(LATE):
            late += 1  # one that is long on its way begins too late, or ends otherwise
            with pytest.raises(DeadlineExceededError):
                await rpc.options(stub, timeout=0.2).wait()
            await until(lambda: not two.bob.rpc._calls.dispatcher.running)
        assert [number async for number in stub.results(3)] == [0, 1, 2]
        async for _ in stub.results(1_000_000):
            break
        assert await stub.requests(items=[1, 2]) == 3
        batched = {
            "ok": 52, "failed": 1, "invalid_argument": 1, "unimplemented": 1, "resource_exhausted": 1, "cancelled": 1,
            "deadline_exceeded": late,
        }  # fmt: skip
        expected = {("batched", outcome): times for outcome, times in batched.items()} | {
            ("unary_unary", "ok"): 1, ("unary_stream", "ok"): 1, ("unary_stream", "cancelled"): 1,
            ("stream_unary", "ok"): 1,
        }  # fmt: skip
        await until(lambda: _counted(two.alice.rpc.metrics, "client") == expected)
        await until(lambda: _in_time(_counted(two.bob.rpc.metrics, "server")) == _in_time(expected))
        at_server = _counted(two.bob.rpc.metrics, "server")
        assert at_server[CANCELLED] >= 1
        assert at_server[CANCELLED] + at_server[LATE] <= 1 + late
        paths = {labels["path"] for labels, _ in _samples(two.alice.rpc.metrics) if labels["outcome"] == "ok"}
        assert paths == {"lan"}
        for metrics, side in ((two.alice.rpc.metrics, "client"), (two.bob.rpc.metrics, "server")):
            for kind in ("batched", "unary_unary", "unary_stream", "stream_unary"):
                assert metrics.duration.labels(side, kind)._sum.get() > 0, kind
            assert metrics.size.labels(side, "sent")._value.get() > 100_000
            assert metrics.size.labels(side, "received")._value.get() > 100_000


def _in_time(counted: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Those that no deadline and no caller has ended."""
    return {each: times for each, times in counted.items() if each not in {CANCELLED, LATE}}


def _samples(metrics: RpcMetrics) -> list[tuple[dict[str, str], float]]:
    [family] = metrics.total.collect()
    return [(sample.labels, sample.value) for sample in family.samples if sample.name.endswith("_total")]


def _counted(metrics: RpcMetrics, side: str) -> dict[tuple[str, str], float]:
    counted: Counter[tuple[str, str]] = Counter()
    for labels, value in _samples(metrics):
        if labels["side"] == side:
            counted[labels["kind"], labels["outcome"]] += int(value)
    return {key: times for key, times in counted.items() if times}
