"""Spans of calls join up across two nodes, over real pipes."""

from __future__ import annotations

import pytest
from waiting import until

pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from call_services import open_two
from every_service import ANSWERS, KINDS, Every, add_every, call_every
from grpc.aio import AioRpcError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lattica import rpc
from lattica.errors import UsageError
from lattica.rpc.otel import Tracing

LOST = grpc.StatusCode.DATA_LOSS.value[0], StatusCode.ERROR
LATE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0], StatusCode.ERROR


class Traces:
    """A provider, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is kind]

    def ends(self, kind: SpanKind) -> list[tuple[object, StatusCode]]:
        """The status that gRPC gave to each call, and whether its span says that it is an error."""
        return [(attributes(span)["rpc.grpc.status_code"], span.status.status_code) for span in self.of(kind)]


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    return dict(span.attributes or {})


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    number: int = span.context.trace_id
    return number


async def test_each_kind_of_call_is_a_span_at_both_ends_and_one_trace() -> None:
    traces = Traces()
    tracing = Tracing(traces.provider)
    async with open_two() as two:
        two.bob.rpc.add_servicer(add_every, Every())
        two.bob.rpc.add_interceptor(tracing.server)
        channel = two.alice.rpc.channel(two.bob.peer_id, interceptors=tracing.client(two.bob.peer_id))
        assert two.alice.rpc.channel(two.bob.peer_id, interceptors=tracing.client(two.bob.peer_id)) is channel
        with traces.tracer.start_as_current_span("parent") as parent:
            assert await call_every(channel) == ANSWERS
        await until(lambda: len(traces.of(SpanKind.CLIENT)) == len(traces.of(SpanKind.SERVER)) == 4)
        ids = {trace_id(span) for kind in (SpanKind.CLIENT, SpanKind.SERVER) for span in traces.of(kind)}
        assert ids == {parent.get_span_context().trace_id}
        clients = {span.context.span_id for span in traces.of(SpanKind.CLIENT) if span.context}
        assert {span.parent.span_id for span in traces.of(SpanKind.SERVER) if span.parent} == clients
        assert {span.name for span in traces.of(SpanKind.SERVER)} == {f"tests.Every/{kind}" for kind in KINDS}
        expected = {"rpc.system": "grpc", "rpc.service": "tests.Every", "rpc.grpc.status_code": 0}
        for kind, peer in ((SpanKind.CLIENT, two.bob.peer_id), (SpanKind.SERVER, two.alice.peer_id)):
            for span in traces.of(kind):
                method = span.name.partition("/")[2]
                assert attributes(span) == {**expected, "rpc.method": method, "lattica.peer": str(peer)}


async def test_a_failed_call_is_an_error_of_the_spans_that_it_concerns() -> None:
    traces = Traces()
    tracing = Tracing(traces.provider)
    async with open_two() as two:
        every, late = Every(), 0
        two.bob.rpc.add_servicer(add_every, every)
        two.bob.rpc.add_interceptor(tracing.server)
        channel = two.alice.rpc.channel(two.bob.peer_id, interceptors=tracing.client(two.bob.peer_id))
        with pytest.raises(AioRpcError):
            await channel.unary_unary("/tests.Every/unary_unary")(b"", metadata=(("do", "abort"),))
        while LATE not in traces.ends(
            SpanKind.SERVER
        ):  # one that is long on its way begins too late, or ends otherwise
            late += 1
            with pytest.raises(AioRpcError):
                await channel.unary_unary("/tests.Every/unary_unary")(b"", timeout=0.3, metadata=(("do", "wait"),))
            await until(lambda: every.cancelled == every.begun)
        await until(lambda: len(traces.of(SpanKind.CLIENT)) == 1 + late)
        assert traces.ends(SpanKind.CLIENT) == [LOST, *[LATE] * late]
        assert traces.ends(SpanKind.SERVER)[0] == LOST


async def test_a_plain_function_runs_within_its_span() -> None:
    traces = Traces()
    seen: list[trace.SpanContext] = []

    def plain(request: bytes, _: object) -> bytes:
        seen.append(trace.get_current_span().get_span_context())
        return request

    def add_plain(_: object, server: grpc.aio.Server) -> None:
        methods: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(plain)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Plain", methods),))

    async with open_two() as two:
        two.bob.rpc.add_servicer(add_plain, None)
        two.bob.rpc.add_interceptor(Tracing(traces.provider).server)
        assert await two.channel.unary_unary("/tests.Plain/Echo")(b"x") == b"x"
        await until(lambda: len(traces.of(SpanKind.SERVER)) == 1)
        assert [span.context for span in traces.of(SpanKind.SERVER)] == seen


@rpc.service("plain")
class Plain:
    """Each kind of method; the spans that they ran in."""

    def __init__(self) -> None:
        self.seen: list[trace.SpanContext] = []

    def _look(self) -> None:
        self.seen.append(trace.get_current_span().get_span_context())

    @rpc.method
    async def small(self, data: bytes) -> int:
        self._look()
        return len(data)

    @rpc.method
    def in_a_thread(self) -> None:
        self._look()

    @rpc.method
    async def results(self) -> AsyncIterator[int]:
        self._look()
        yield 1

    @rpc.method
    async def requests(self, items: AsyncIterator[int]) -> int:
        self._look()
        return sum([item async for item in items])

    @rpc.method
    async def fail(self) -> None:
        self._look()
        raise KeyError("no")


async def test_calls_of_plain_python_services_are_spans_at_both_ends_and_one_trace() -> None:
    traces, served = Traces(), Plain()
    tracing = Tracing(traces.provider)
    async with open_two() as two:
        two.bob.rpc.serve(served)
        for rooms in (two.alice, two.bob):
            rooms.rpc.use_tracing(tracing)
        stub: Any = two.alice.rpc.stub(Plain, two.bob.peer_id, timeout=30.0)
        with traces.tracer.start_as_current_span("parent") as parent:
            assert await stub.small(b"x") == 1
            assert await stub.small(bytes(100_000)) == 100_000  # a gRPC call of its own
            await stub.in_a_thread()
            assert [result async for result in stub.results()] == [1]
            assert await stub.requests(items=[1, 2]) == 3
            with pytest.raises(KeyError):
                await stub.fail()
        await until(lambda: len(traces.of(SpanKind.SERVER)) == 6)
        clients, servers = traces.of(SpanKind.CLIENT), traces.of(SpanKind.SERVER)
        assert {trace_id(span) for span in (*clients, *servers)} == {parent.get_span_context().trace_id}
        by_id = {span.context.span_id: span.name for span in clients if span.context}
        assert [by_id[span.parent.span_id] for span in servers if span.parent] == [span.name for span in servers]
        assert {span.context.span_id for span in servers if span.context} == {seen.span_id for seen in served.seen}
        names = ["small", "small", "in_a_thread", "results", "requests", "fail"]
        assert [span.name for span in clients] == [f"plain/{name}" for name in names]
        for spans, peer in ((clients, two.bob.peer_id), (servers, two.alice.peer_id)):
            errors = [attributes(span).get("error.type") for span in sorted(spans, key=lambda span: span.name)]
            assert errors == ["KeyError", None, None, None, None, None]
            assert {attributes(span)["lattica.peer"] for span in spans} == {str(peer)}
            assert {attributes(span)["rpc.service"] for span in spans} == {"plain"}
            assert [span.name for span in spans if span.status.status_code is StatusCode.ERROR] == ["plain/fail"]


async def test_a_node_makes_spans_with_one_tracing() -> None:
    tracing = Tracing(Traces().provider)
    async with open_two() as two:
        two.alice.rpc.use_tracing(tracing)
        two.alice.rpc.use_tracing(tracing)
        with pytest.raises(UsageError, match="makes spans already"):
            two.alice.rpc.use_tracing(Tracing(Traces().provider))
