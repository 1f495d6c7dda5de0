"""Interceptors of a node's server, which may be added while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

OWN = "/lattica.v1."
"""Methods of Lattica's own services, which interceptors do not see: bulk data, calls in bulk."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Any]]"


class Interceptors(grpc.aio.ServerInterceptor):
    """One interceptor that stands for all that were added, the first outermost."""

    def __init__(self) -> None:
        self._added: tuple[grpc.aio.ServerInterceptor, ...] = ()

    def add(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        """Have an interceptor see the calls from now on, inside of those that do already; once, however often added."""
        if interceptor not in self._added:
            self._added = (*self._added, interceptor)

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        if not self._added or handler_call_details.method.startswith(OWN):
            return await continuation(handler_call_details)
        return await _through(self._added, continuation, handler_call_details)


async def _through(
    interceptors: tuple[grpc.aio.ServerInterceptor, ...],
    continuation: Continuation,
    details: grpc.HandlerCallDetails,
) -> Any:
    if not interceptors:
        return await continuation(details)
    first, *others = interceptors

    async def inner(details: grpc.HandlerCallDetails) -> Any:
        return await _through(tuple(others), continuation, details)

    return await first.intercept_service(inner, details)
