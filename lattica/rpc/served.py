"""Services as they are added to a node's server: their names, and their calls counted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from lattica.rpc.behaviours import ended_with, is_plain, kind_of, refusing, remade
from lattica.rpc.metrics import UNCOUNTED, RpcMetrics
from lattica.rpc.settled import outcome_of
from lattica.rpc.sync_threads import SyncThreads


class Served(Protocol):
    """What takes a service's handlers: `grpc.aio.Server`, as far as it is used here."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server`."""


class Registrar:
    """The server as generated code sees it.

    That registers its methods twice: by generic handlers, which a running server takes, and in a table for speed, which
    it does not.

    Attributes:
        names: Services that were registered by name.
    """

    def __init__(self, server: Served, metrics: RpcMetrics, threads: SyncThreads) -> None:
        self._server = server
        self._metrics = metrics
        self._threads = threads
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server`."""
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.names.append(handler.service_name())
        self._server.add_generic_rpc_handlers(
            tuple(_Counting(handler, self._metrics, self._threads) for handler in handlers)
        )

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Done by the generic handlers."""


class _Counting(grpc.GenericRpcHandler):
    """A generic handler whose methods' calls are counted; those for threads are refused while too many wait for one."""

    def __init__(self, inner: grpc.GenericRpcHandler, metrics: RpcMetrics, threads: SyncThreads) -> None:
        self._inner = inner
        self._metrics = metrics
        self._threads = threads
        self._counted: dict[str, tuple[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler`."""
        handler = self._inner.service(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(UNCOUNTED):
            return handler
        if self._threads.is_full and is_plain(handler):
            return counted(refusing(handler, "too many calls of plain functions wait for a thread"), self._metrics)
        if not isinstance(self._inner, grpc.ServiceRpcHandler):  # it may answer to any name, and differently each time
            return counted(handler, self._metrics)
        known = self._counted.get(method)
        if known is None or known[0] is not handler:
            known = self._counted[method] = (handler, counted(handler, self._metrics))
        return known[1]


def counted(handler: Any, metrics: RpcMetrics) -> Any:
    """The same handler, its calls counted; nothing is done for each message of a stream."""
    kind = kind_of(handler)
    coding: dict[str, Any] = {}
    if not handler.request_streaming:
        coding["request_deserializer"] = metrics.counting_deserializer("server", handler.request_deserializer)
    if not handler.response_streaming:
        coding["response_serializer"] = metrics.counting_serializer("server", handler.response_serializer)
    return remade(handler, lambda context: _Call(context, kind, metrics), **coding)


class _Call(contextlib.AbstractContextManager[None]):
    """Counts what its block does as one call."""

    __slots__ = ("_context", "_kind", "_metrics", "_started")

    def __init__(self, context: Any, kind: str, metrics: RpcMetrics) -> None:
        self._context = context
        self._kind = kind
        self._metrics = metrics
        self._started = time.monotonic()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        code = ended_with(self._context, error)
        self._metrics.ended("server", self._kind, "failed" if code is None else outcome_of(code), "", self._started)
