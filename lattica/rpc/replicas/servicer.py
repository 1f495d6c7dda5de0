"""Serves `lattica.v1.Replicas` to peers: answers from memory, nothing in it waits."""

from __future__ import annotations

import logging
from typing import Protocol

import grpc

from lattica._proto import replicas_pb2
from lattica.errors import RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc.caller import caller_id
from lattica.rpc.replicas.wire import SERVICE, parse_goodbye, parse_question

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[bytes, bytes]


class Directory(Protocol):
    """What answers."""

    def describe(self, name: str, own: bytes, caller: PeerId) -> bytes:
        """The serialized answer; raises `RemoteProtocolError`."""

    def goodbye(self, own: bytes, caller: PeerId) -> None:
        """Take a goodbye; raises `RemoteProtocolError`."""


class ReplicasServicer:
    """Answers questions about replicas; add it to a server with `add_replicas_servicer`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def describe(self, request: bytes, context: _Context) -> bytes:
        """`Replicas.Describe`, serialized."""
        caller = caller_id(context)
        try:
            question = parse_question(request)
            return self._directory.describe(question.name, question.own, caller)
        except RemoteProtocolError as error:
            return await _refuse(context, caller, error)

    async def goodbye(self, request: bytes, context: _Context) -> bytes:
        """`Replicas.Goodbye`, serialized."""
        caller = caller_id(context)
        try:
            self._directory.goodbye(parse_goodbye(request), caller)
        except RemoteProtocolError as error:
            return await _refuse(context, caller, error)
        return replicas_pb2.GoodbyeResponse().SerializeToString()


async def _refuse(context: _Context, caller: PeerId, error: RemoteProtocolError) -> bytes:
    logger.info("question about replicas refused peer=%s reason=%s", caller, error.reason)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
    raise AssertionError  # abort raises


def add_replicas_servicer(servicer: ReplicasServicer, server: grpc.aio.Server) -> None:
    """Serve `lattica.v1.Replicas` on a server.

    In place of the generated function: messages pass as bytes, so that their size is checked before they are parsed.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Describe": grpc.unary_unary_rpc_method_handler(servicer.describe),
        "Goodbye": grpc.unary_unary_rpc_method_handler(servicer.goodbye),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
