"""A peer's services on a unix socket of this machine, for programs that cannot take a channel object."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc.aio import AioRpcError

from lattica.rpc.local import open_local_server
from lattica.rpc.options import MESSAGE_LIMITS


class Forwarding(grpc.GenericRpcHandler):
    """Every method there is, carried out by the peer of a channel.

    Messages pass as bytes. One message is a stream of one on the wire, so all four kinds of call are one here.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """See `grpc.GenericRpcHandler`."""
        method: Any = self._channel.stream_stream(handler_call_details.method)

        async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = method(requests, timeout=context.time_remaining(), metadata=_passed_on(context))
            try:
                await context.send_initial_metadata(tuple(await call.initial_metadata()))
                async for response in call:
                    yield response
                context.set_trailing_metadata(tuple(await call.trailing_metadata()))
            except AioRpcError as error:
                trailing = tuple(error.trailing_metadata() or ())
                await context.abort(error.code(), error.details() or "", trailing)
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)


def _passed_on(context: Any) -> tuple[tuple[str, str | bytes], ...]:
    """The caller's metadata without what gRPC itself put there."""
    sent = context.invocation_metadata() or ()
    return tuple((key, value) for key, value in sent if not key.startswith("grpc-") and key != "user-agent")


@contextlib.asynccontextmanager
async def open_local_target(path: Path, channel: grpc.aio.Channel) -> AsyncIterator[str]:
    """A gRPC target without TLS that leads to the peer of a channel while the block runs.

    Whoever may open the socket's folder calls the peer in the node's name.
    """

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((Forwarding(channel),))

    async with open_local_server(path, register, options=MESSAGE_LIMITS):
        yield f"unix:{path}"
