"""Services as they are added to a node's server: their names, and their calls counted."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc

from lattica.rpc.metrics import UNCOUNTED, RpcMetrics
from lattica.rpc.settled import outcome_of, status_of

_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class Registrar:
    """The server as generated code sees it.

    That registers its methods twice: by generic handlers, which a running server takes, and in a table for speed, which
    it does not.

    Attributes:
        names: Services that were registered by name.
    """

    def __init__(self, server: grpc.aio.Server, metrics: RpcMetrics) -> None:
        self._server = server
        self._metrics = metrics
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server`."""
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.names.append(handler.service_name())
        self._server.add_generic_rpc_handlers(tuple(_Counting(handler, self._metrics) for handler in handlers))

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Done by the generic handlers."""


class _Counting(grpc.GenericRpcHandler):
    """A generic handler whose methods' calls are counted."""

    def __init__(self, inner: grpc.GenericRpcHandler, metrics: RpcMetrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._counted: dict[str, tuple[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler`."""
        handler = self._inner.service(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(UNCOUNTED):
            return handler
        if not isinstance(self._inner, grpc.ServiceRpcHandler):  # it may answer to any name, and differently each time
            return counted(handler, self._metrics)
        known = self._counted.get(method)
        if known is None or known[0] is not handler:
            known = self._counted[method] = (handler, counted(handler, self._metrics))
        return known[1]


def counted(handler: Any, metrics: RpcMetrics) -> Any:
    """The same handler, its calls counted; for a message of a stream nothing is done but to pass it on."""
    kind = _KINDS[handler.request_streaming, handler.response_streaming]
    deserializer, serializer = handler.request_deserializer, handler.response_serializer
    if not handler.request_streaming:
        deserializer = metrics.counting_deserializer("server", deserializer)
    if not handler.response_streaming:
        serializer = metrics.counting_serializer("server", serializer)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    behaviour = _counted_behaviour(getattr(handler, kind), kind, metrics)
    return make(behaviour, deserializer, serializer)


def _counted_behaviour(behaviour: Callable[..., Any], kind: str, metrics: RpcMetrics) -> Callable[..., Any]:
    """A function of the same sort, by which gRPC decides how to run it."""

    async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
        with _Call(context, kind, metrics):
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    async def coroutine(request: Any, context: Any) -> Any:
        with _Call(context, kind, metrics):
            return await behaviour(request, context)

    def plain_generator(request: Any, context: Any) -> Iterator[Any]:
        with _Call(context, kind, metrics):
            yield from behaviour(request, context)

    def plain(request: Any, context: Any) -> Any:
        with _Call(context, kind, metrics):
            return behaviour(request, context)

    if inspect.isasyncgenfunction(behaviour):
        return generator
    if inspect.iscoroutinefunction(behaviour):
        return coroutine
    return plain_generator if kind.endswith("_stream") else plain


class _Call:
    """Counts what its block does as one call."""

    __slots__ = ("_context", "_kind", "_metrics", "_started")

    def __init__(self, context: Any, kind: str, metrics: RpcMetrics) -> None:
        self._context = context
        self._kind = kind
        self._metrics = metrics
        self._started = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._metrics.ended("server", self._kind, self._outcome(error), "", self._started)

    def _outcome(self, error: BaseException | None) -> str:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            left = self._context.time_remaining()
            return "deadline_exceeded" if left is not None and left <= 0 else "cancelled"
        if not hasattr(self._context, "code"):  # a plain function's context keeps its status to itself
            return "ok" if error is None else "failed"
        code = status_of(self._context.code())
        return "unknown" if error is not None and code is grpc.StatusCode.OK else outcome_of(code)
