"""Spans of calls, by OpenTelemetry; needs the extra ``lattica-mesh[otel]`` and is imported on request only.

Names and attributes are those of the semantic conventions for gRPC; ``lattica.peer`` is the peer ID of the other side.
The context travels as W3C ``traceparent`` in the call's metadata (or what the program's global propagator writes).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from lattica.identity import PeerId
from lattica.rpc.behaviours import ended_with, remade
from lattica.rpc.caller import caller_id
from lattica.rpc.outcomes import EXPIRED, FAILED, INTERNAL, LOST, OK, UNIMPLEMENTED
from lattica.rpc.settled import settled_code

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError as missing:
    raise ImportError(
        "lattica.rpc.otel needs OpenTelemetry: pip install 'lattica-mesh[otel]'", name=missing.name
    ) from missing

Pairs: TypeAlias = list[tuple[str, str]]

MAX_PAIRS = 64
"""Pairs of a peer's that are looked at for a context; propagators write a few."""

_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        None,
    }
)
_CLIENT_FAULTS = frozenset(code for code in grpc.StatusCode if code is not grpc.StatusCode.OK)
"""Statuses that are an error of the span; at the server some are the caller's business."""
_PLAIN_SERVER_FAULTS = frozenset({FAILED, EXPIRED, UNIMPLEMENTED, INTERNAL, LOST})
"""Likewise for plain Python services."""


def inject_context() -> Pairs:
    """The current trace context, to be sent with a call."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())


class Tracing:
    """Makes a span of each call.

    ``node.rpc.use_tracing(tracing)`` for those that peers make and those of stubs of plain Python services;
    ``node.rpc.channel(peer, interceptors=tracing.client(peer))`` for those of generated stubs: the same objects, hence
    the same channel, each time.

    Args:
        provider: Whose tracer; by default the global one.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = _tracer(provider)
        self._clients: dict[PeerId, tuple[grpc.aio.ClientInterceptor, ...]] = {}
        self.server: grpc.aio.ServerInterceptor = _ServerTracing(self._tracer)

    def client(self, peer: PeerId) -> tuple[grpc.aio.ClientInterceptor, ...]:
        """Interceptors for the channel to a peer, one for each kind of call."""
        interceptors = self._clients.get(peer)
        if interceptors is None:
            starter = _ClientSpans(self._tracer, peer)
            interceptors = self._clients[peer] = (
                _UnaryUnary(starter),
                _UnaryStream(starter),
                _StreamUnary(starter),
                _StreamStream(starter),
            )
        return interceptors

    def called(self, peer: PeerId, method: str) -> PlainSpan:
        """See `lattica.rpc.tracing.CallTracing`."""
        return PlainSpan(self._tracer, SpanKind.CLIENT, None, peer, method)

    def served(self, peer: PeerId, method: str, context: Mapping[str, str]) -> PlainSpan:
        """See `lattica.rpc.tracing.CallTracing`."""
        return PlainSpan(self._tracer, SpanKind.SERVER, _extracted(context.items()), peer, method)


# Plain Python services


class PlainSpan:
    """The span of a call of a plain Python service: `lattica.rpc.tracing.CallSpan`."""

    def __init__(
        self, tracer: Tracer, kind: SpanKind, context: otel_context.Context | None, peer: PeerId, path: str
    ) -> None:
        service, _, method = path.rpartition("/")
        self._is_server = kind is SpanKind.SERVER
        self._span = tracer.start_span(
            path, context=context, kind=kind, attributes=_attributes("lattica", service, method, peer)
        )

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `lattica.rpc.tracing.CallSpan`."""
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def end(self, outcome: str, error_type: str = "") -> None:
        """See `lattica.rpc.tracing.CallSpan`."""
        if outcome != OK:
            self._span.set_attribute("error.type", error_type or outcome)
        if outcome in _PLAIN_SERVER_FAULTS or (outcome != OK and not self._is_server):
            self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._span.end()


# The client's side


@dataclass(frozen=True, slots=True)
class _ClientSpans:
    tracer: Tracer
    peer: PeerId

    async def begin(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Start the call with a span that ends when it does."""
        service, method = _names(details.method)
        span = self.tracer.start_span(
            f"{service}/{method}", kind=SpanKind.CLIENT, attributes=_attributes("grpc", service, method, self.peer)
        )
        with trace.use_span(span, end_on_exit=False):
            try:
                call = await continuation(_with_context(details), request)
            except BaseException:
                span.set_status(Status(StatusCode.ERROR))
                span.end()
                raise
        call.add_done_callback(lambda ended: _end(span, settled_code(ended), faults=_CLIENT_FAULTS))
        return call


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, spans: _ClientSpans) -> None:
        self._spans = spans

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._spans.begin(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, spans: _ClientSpans) -> None:
        self._spans = spans

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._spans.begin(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, spans: _ClientSpans) -> None:
        self._spans = spans

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._spans.begin(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, spans: _ClientSpans) -> None:
        self._spans = spans

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._spans.begin(continuation, client_call_details, request_iterator)


def _with_context(details: Any) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    for key, value in inject_context():
        metadata.add(key, value)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


# The server's side


class _ServerTracing(grpc.aio.ServerInterceptor):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(handler_call_details)
        return handler if handler is None else _traced(handler, handler_call_details, self._tracer)


def _traced(handler: Any, details: grpc.HandlerCallDetails, tracer: Tracer) -> Any:
    """The handler within a span; for a plain function that is in its thread."""
    return remade(handler, lambda context: _served(context, details, tracer))


@contextlib.contextmanager
def _served(context: Any, details: grpc.HandlerCallDetails, tracer: Tracer) -> Iterator[None]:
    service, method = _names(details.method)
    span = tracer.start_span(
        f"{service}/{method}",
        context=_extracted(details.invocation_metadata or ()),
        kind=SpanKind.SERVER,
        attributes=_attributes("grpc", service, method, caller_id(context)),
    )
    failure: BaseException | None = None
    try:
        with trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as error:
        failure = error
        raise
    finally:
        _end(span, ended_with(context, failure), faults=_SERVER_FAULTS)


# Both


def _tracer(provider: TracerProvider | None) -> Tracer:
    return trace.get_tracer("lattica.rpc", tracer_provider=provider)


def _extracted(pairs: Iterable[tuple[str, str | bytes]]) -> otel_context.Context:
    """The context that a peer has sent; an empty one if it has sent none, or nonsense."""
    carrier = {key: value for key, value in itertools.islice(pairs, MAX_PAIRS) if isinstance(value, str)}
    return propagate.extract(carrier, context=otel_context.Context())


def _names(path: str | bytes) -> tuple[str, str]:
    """Service and method; gRPC's clients have the path as bytes."""
    text = path.decode() if isinstance(path, bytes) else path
    service, _, method = text.lstrip("/").partition("/")
    return service, method


def _attributes(system: str, service: str, method: str, peer: PeerId | None) -> dict[str, str]:
    attributes = {"rpc.system": system, "rpc.service": service, "rpc.method": method}
    if peer is not None:
        attributes["lattica.peer"] = str(peer)
    return attributes


def _end(span: Span, code: grpc.StatusCode | None, *, faults: Container[grpc.StatusCode | None]) -> None:
    if code is not None:
        span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in faults:
        span.set_status(Status(StatusCode.ERROR, None if code is None else code.name))
    span.end()
