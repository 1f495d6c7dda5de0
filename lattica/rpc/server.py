"""The one gRPC server of a node: mutual TLS on a unix socket, behind the node's one port."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar, cast

import grpc

from lattica.errors import UsageError
from lattica.identity import TlsIdentity
from lattica.rpc.health import Health
from lattica.rpc.interceptors import Interceptors
from lattica.rpc.metrics import METRICS, RpcMetrics
from lattica.rpc.options import DRAIN_S, SERVER_OPTIONS
from lattica.rpc.reflection import Reflection
from lattica.rpc.served import Registrar
from lattica.rpc.sync_threads import SyncThreads, sync_threads

logger = logging.getLogger(__name__)

S = TypeVar("S")


class RpcServer:
    """Serves gRPC services to peers that hold a link; made by `open_server`.

    Attributes:
        path: Its unix socket.
        health: What it says of its services.
        metrics: Where their calls are counted.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        path: Path,
        interceptors: Interceptors,
        threads: SyncThreads,
        *,
        reflection: bool = False,
        metrics: RpcMetrics = METRICS,
    ) -> None:
        self.path = path
        self.health = Health()
        self.metrics = metrics
        self._server = server
        self._interceptors = interceptors
        self._threads = threads
        self._reflection = Reflection() if reflection else None
        for standard in (self.health, self._reflection):
            if standard is not None:
                self.add_servicer(_register, standard)

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a generated service: ``add_servicer(add_FooServicer_to_server, Foo())``. Also while running."""
        registrar = Registrar(self._server, self.metrics, self._threads)
        register(servicer, cast(grpc.aio.Server, registrar))
        for name in registrar.names:
            self.health.added(name)
            if self._reflection is not None:
                self._reflection.added(name)

    def add_own(self, services: grpc.GenericRpcHandler) -> None:
        """Serve what is Lattica's own and has no generated code."""
        self._server.add_generic_rpc_handlers((services,))

    def add_interceptor(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        """Have an interceptor see calls of services that are not Lattica's own; see `Interceptors.add`."""
        if not isinstance(interceptor, grpc.aio.ServerInterceptor):
            raise UsageError(f"{interceptor!r} is no grpc.aio.ServerInterceptor")
        self._interceptors.add(interceptor)


def _register(standard: Health | Reflection, server: grpc.aio.Server) -> None:
    standard.register(server)


@contextlib.asynccontextmanager
async def open_server(
    tls: TlsIdentity, path: Path, *, reflection: bool = False, metrics: RpcMetrics = METRICS
) -> AsyncIterator[RpcServer]:
    """A running server on a unix socket that only clients certified by ``tls.authority`` get through to.

    At the end it takes no new calls, and running ones have `DRAIN_S` seconds to finish.
    """
    credentials = grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
    )
    interceptors = Interceptors()
    async with sync_threads() as threads:
        server = grpc.aio.server(threads, options=SERVER_OPTIONS, interceptors=[interceptors])
        server.add_secure_port(f"unix:{path}", credentials)
        await server.start()
        try:
            yield RpcServer(server, path, interceptors, threads, reflection=reflection, metrics=metrics)
        finally:
            await server.stop(DRAIN_S)
            path.unlink(missing_ok=True)
