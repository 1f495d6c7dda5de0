"""The standard health service, ``grpc.health.v1``: whether a node, and each service that it serves, takes calls.

Not the servicer that the package brings: that forgets its other watchers of a name when one of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ServingStatus(IntEnum):
    """What a service says of itself; the numbers are those of ``grpc.health.v1``."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2


_SERVICE_UNKNOWN = 3
"""What a watcher of a name that is not served is told; it is told when that changes."""


class Health:
    """The health of one node's services; peers ask for it by ``grpc.health.v1.Health``.

    The name ``""`` is the node as a whole. A service that is added is `SERVING` until it is `set` otherwise; when the
    node closes, all are `NOT_SERVING`.
    """

    def __init__(self) -> None:
        self._status = {"": ServingStatus.SERVING}
        self._changed = asyncio.Event()
        self._closing = False

    def set(self, service: str, status: ServingStatus) -> None:
        """Say how a service is; also one that the node does not serve under that name: a model, a part of a service.

        Raises:
            ValueError: There is no such status.
        """
        if not self._closing:
            self._status[service] = ServingStatus(status)
            self._tell()

    def get(self, service: str = "") -> ServingStatus | None:
        """How a service is; ``None`` if nobody has said."""
        return self._status.get(service)

    def shut_down(self) -> None:
        """Say for good that nothing is served any more, and let those that watch go once they know."""
        self._closing = True
        self._status = dict.fromkeys(self._status, ServingStatus.NOT_SERVING)
        self._tell()

    def added(self, service: str) -> None:
        """A service is being served from now on."""
        if service not in self._status:
            self.set(service, ServingStatus.SERVING)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self), server)

    async def watch(self, service: str) -> AsyncIterator[ServingStatus | None]:
        """How a service is, and again whenever that has changed, until the node closes.

        A slow reader misses what lies between, never the latest.
        """
        told: ServingStatus | NotToldYet | None = NOT_TOLD_YET
        while True:
            changed, status = self._changed, self.get(service)
            if told is NOT_TOLD_YET or status != told:
                told = status
                yield status
            elif self._closing:
                return
            else:
                await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class NotToldYet:
    """Of a watcher that knows nothing yet; ``None`` is something to be told."""


NOT_TOLD_YET = NotToldYet()


class _Servicer:
    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(  # noqa: N802 - the service's name for it
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._health.get(request.service)
        if status is None:
            await _refuse(context, request.service)
        return health_pb2.HealthCheckResponse(status=int(status))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, _: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        async for status in self._health.watch(request.service):
            yield health_pb2.HealthCheckResponse(status=_SERVICE_UNKNOWN if status is None else int(status))


async def _refuse(context: Context, service: str) -> NoReturn:
    await context.abort(grpc.StatusCode.NOT_FOUND, f"this node serves no {service!r}")
    raise AssertionError("abort raises")
