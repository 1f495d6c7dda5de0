"""Plain Python services on the gRPC server: the three methods that carry all their calls, bytes in and out."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from lattica.rpc.batch_server import serve_session
from lattica.rpc.batch_wire import BULK, CALL_METHOD, SMALL
from lattica.rpc.call_server import CallServer
from lattica.rpc.own_server import serve_call


class PythonServices(grpc.GenericRpcHandler):
    """Gives gRPC the handlers."""

    def __init__(self, server: CallServer) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            **{
                kind.method: grpc.stream_stream_rpc_method_handler(
                    _without_iterator(partial(serve_session, server, kind))
                )
                for kind in (SMALL, BULK)
            },
            CALL_METHOD: grpc.stream_stream_rpc_method_handler(_without_iterator(partial(serve_call, server))),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; ``None`` for what is not ours."""
        return self._handlers.get(handler_call_details.method)


def _without_iterator(serve: Any) -> Any:
    async def behaviour(_: Any, context: Any) -> None:
        await serve(context)

    return behaviour
