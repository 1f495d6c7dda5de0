"""Spans of calls join up across two nodes, over real pipes."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")

from collections.abc import Mapping
from typing import Any

import grpc
from call_services import open_two, until
from every_service import ANSWERS, KINDS, Every, add_every, call_every
from grpc.aio import AioRpcError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lattica.identity import IdentityKey
from lattica.rpc.otel import Tracing, inject_context, server_span


class Traces:
    """A provider, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is kind]


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
        two.bob.rpc.add_servicer(add_every, Every())
        two.bob.rpc.add_interceptor(tracing.server)
        channel = two.alice.rpc.channel(two.bob.peer_id, interceptors=tracing.client(two.bob.peer_id))
        with pytest.raises(AioRpcError):
            await channel.unary_unary("/tests.Every/unary_unary")(b"", metadata=(("do", "abort"),))
        with pytest.raises(AioRpcError):
            await channel.unary_unary("/tests.Every/unary_unary")(b"", timeout=0.3, metadata=(("do", "wait"),))
        await until(lambda: len(traces.of(SpanKind.CLIENT)) == len(traces.of(SpanKind.SERVER)) == 2)
        for kind in (SpanKind.CLIENT, SpanKind.SERVER):
            codes = [attributes(span)["rpc.grpc.status_code"] for span in traces.of(kind)]
            assert codes == [grpc.StatusCode.DATA_LOSS.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]]
            assert [span.status.status_code for span in traces.of(kind)] == [StatusCode.ERROR] * 2


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


def test_a_context_is_carried_by_hand_for_services_that_are_not_grpc() -> None:
    traces = Traces()
    peer = IdentityKey.generate().peer_id
    with traces.tracer.start_as_current_span("parent"):
        pairs = inject_context()
    assert [key for key, _ in pairs] == ["traceparent"]
    with pytest.raises(ZeroDivisionError), server_span(pairs, "llm", "load", peer=peer, tracer=traces.tracer):
        raise ZeroDivisionError
    with server_span([("traceparent", "nonsense")], "llm", "load", tracer=traces.tracer):
        pass
    failed, orphan = traces.of(SpanKind.SERVER)
    assert failed.parent is not None
    assert failed.name == "llm/load"
    assert attributes(failed)["lattica.peer"] == str(peer)
    assert failed.status.status_code is StatusCode.ERROR
    assert orphan.parent is None
