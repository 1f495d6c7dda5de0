"""The gRPC server of a node: mutual TLS on a unix socket, behind the node's one port, and on a native port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import grpc

from lattica.errors import UsageError
from lattica.identity import TlsIdentity
from lattica.rpc.health import Health
from lattica.rpc.interceptors import Interceptors
from lattica.rpc.metrics import METRICS, RpcMetrics
from lattica.rpc.native_server import NativeAddress, bind_native
from lattica.rpc.options import DRAIN_S, NATIVE_SERVER_OPTIONS, SERVER_OPTIONS
from lattica.rpc.reflection import Reflection
from lattica.rpc.served import Registrar
from lattica.rpc.sync_threads import SyncThreads, sync_threads

logger = logging.getLogger(__name__)

S = TypeVar("S")


class Servers:
    """The servers of one node: whatever one of them serves, all do."""

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        self._servers = servers

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """See `grpc.aio.Server`."""
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    async def start(self) -> None:
        """Take calls from now on."""
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        """Take no new calls; those that run have `DRAIN_S` seconds."""
        await asyncio.gather(*(server.stop(DRAIN_S) for server in self._servers))


class RpcServer:
    """Serves gRPC services to peers that hold a link; made by `open_server`.

    Attributes:
        path: Its unix socket.
        native_port: TCP port on which it listens itself; 0 if there is none.
        health: What it says of its services.
        metrics: Where their calls are counted.
    """

    def __init__(
        self,
        servers: Servers,
        path: Path,
        interceptors: Interceptors,
        threads: SyncThreads,
        *,
        native_port: int = 0,
        reflection: bool = False,
        metrics: RpcMetrics = METRICS,
    ) -> None:
        self.path = path
        self.native_port = native_port
        self.health = Health()
        self.metrics = metrics
        self._servers = servers
        self._interceptors = interceptors
        self._threads = threads
        self._reflection = Reflection() if reflection else None
        for standard in (self.health, self._reflection):
            if standard is not None:
                self.add_servicer(_register, standard)

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a generated service: ``add_servicer(add_FooServicer_to_server, Foo())``. Also while running."""
        registrar = Registrar(self._servers, self.metrics, self._threads)
        register(servicer, cast(grpc.aio.Server, registrar))
        for name in registrar.names:
            self.health.added(name)
            if self._reflection is not None:
                self._reflection.added(name)

    def add_own(self, services: grpc.GenericRpcHandler) -> None:
        """Serve what is Lattica's own and has no generated code."""
        self._servers.add_generic_rpc_handlers((services,))

    def add_interceptor(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        """Have an interceptor see calls of services that are not Lattica's own; see `Interceptors.add`."""
        if not isinstance(interceptor, grpc.aio.ServerInterceptor):
            raise UsageError(f"{interceptor!r} is no grpc.aio.ServerInterceptor")
        self._interceptors.add(interceptor)


def _register(standard: Health | Reflection, server: grpc.aio.Server) -> None:
    standard.register(server)


@contextlib.asynccontextmanager
async def open_server(
    tls: TlsIdentity,
    path: Path,
    *,
    native: NativeAddress | None = None,
    reflection: bool = False,
    metrics: RpcMetrics = METRICS,
) -> AsyncIterator[RpcServer]:
    """A running server that only clients certified by ``tls.authority`` get through to.

    It listens on a unix socket, and itself at the ``native`` address. At the end it takes no new calls, and running
    ones have `DRAIN_S` seconds to finish.

    Raises:
        PortInUseError: Somebody listens at the native address.
        ConfigError: The native address is not one of this machine's, or the port not allowed.
    """
    credentials = grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
    )
    interceptors, native_port = Interceptors(), 0
    async with sync_threads() as threads:
        opened = [grpc.aio.server(threads, options=SERVER_OPTIONS, interceptors=[interceptors])]
        opened[0].add_secure_port(f"unix:{path}", credentials)
        if native is not None:
            server = grpc.aio.server(threads, options=NATIVE_SERVER_OPTIONS, interceptors=[interceptors])
            native_port = bind_native(server, native, credentials)
            opened.append(server)
        servers = Servers(opened)
        await servers.start()
        try:
            yield RpcServer(
                servers,
                path,
                interceptors,
                threads,
                native_port=native_port,
                reflection=reflection,
                metrics=metrics,
            )
        finally:
            await servers.stop()
            path.unlink(missing_ok=True)
