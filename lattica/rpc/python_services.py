"""Plain Python services on the gRPC server: the two methods that carry all their calls, bytes in and out."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from lattica.rpc.batch_server import serve_session
from lattica.rpc.batch_wire import CALL_METHOD, SESSION_METHOD, UNARY_METHOD
from lattica.rpc.call_server import CallServer
from lattica.rpc.own_server import serve_call, serve_unary


class PythonServices(grpc.GenericRpcHandler):
    """Gives gRPC the handlers."""

    def __init__(self, server: CallServer) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            SESSION_METHOD: grpc.stream_stream_rpc_method_handler(_without_iterator(partial(serve_session, server))),
            CALL_METHOD: grpc.stream_stream_rpc_method_handler(_without_iterator(partial(serve_call, server))),
            UNARY_METHOD: grpc.unary_unary_rpc_method_handler(partial(serve_unary, server)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; ``None`` for what is not ours."""
        return self._handlers.get(handler_call_details.method)


def _without_iterator(serve: Any) -> Any:
    async def behaviour(_: Any, context: Any) -> None:
        await serve(context)

    return behaviour
