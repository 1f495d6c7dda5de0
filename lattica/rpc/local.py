"""gRPC on this machine only: the local control API's unix socket in a private folder."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc

from lattica.rpc.options import Options


@contextlib.asynccontextmanager
async def open_local_server(
    path: Path, register: Callable[[grpc.aio.Server], None], *, options: Options | None = None
) -> AsyncIterator[None]:
    """A running server without TLS on a unix socket; who may open the folder may call. ``register`` adds servicers."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *(options or [])])
    server.add_insecure_port(f"unix:{path}")
    register(server)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def open_local_channel(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to such a server."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        yield channel
