"""The one gRPC server of a node: mutual TLS on a unix socket, behind the node's one port."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar, cast

import grpc

from lattica.identity import TlsIdentity
from lattica.rpc.options import DRAIN_S, SERVER_OPTIONS

logger = logging.getLogger(__name__)

S = TypeVar("S")


class RpcServer:
    """Serves gRPC services to peers that hold a link; made by `open_server`.

    Attributes:
        path: Its unix socket.
    """

    def __init__(self, server: grpc.aio.Server, path: Path) -> None:
        self.path = path
        self._server = server

    def add_servicer(self, register: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Serve a generated service: ``add_servicer(add_FooServicer_to_server, Foo())``. Also while running."""
        register(servicer, cast(grpc.aio.Server, _Registrar(self._server)))


class _Registrar:
    """The server as generated code sees it.

    That registers its methods twice: by generic handlers, which a running server takes, and in a table for speed, which
    it does not.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Done by the generic handlers."""


@contextlib.asynccontextmanager
async def open_server(tls: TlsIdentity, path: Path) -> AsyncIterator[RpcServer]:
    """A running server on a unix socket that only clients certified by ``tls.authority`` get through to.

    At the end it takes no new calls, and running ones have `DRAIN_S` seconds to finish.
    """
    credentials = grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate)], root_certificates=tls.authority, require_client_auth=True
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_secure_port(f"unix:{path}", credentials)
    await server.start()
    try:
        yield RpcServer(server, path)
    finally:
        await server.stop(DRAIN_S)
        path.unlink(missing_ok=True)
