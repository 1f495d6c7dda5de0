"""Serves replicas to peers: `Store` of proto/lattica/v1/store.proto."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lattica._proto import store_pb2
from lattica.errors import NamespaceError, NetworkError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.store.grpc_link import SERVICE, Context, ServedLink
from lattica.store.namespace import NamespaceId
from lattica.store.ports import SyncLink
from lattica.store.replicator import Replicator
from lattica.store.sync_wire import FrameReader

MAX_REQUEST = 1024
"""Bytes of a question for a genesis."""
GREETING_S = 10.0
"""Seconds for a caller's first frame."""


class StoreServicer:
    """Serves the open documents of a node.

    Args:
        genesis_of: The signed genesis of a namespace that is kept here, or ``None``.
        replicator_of: Keeps the replica of a namespace that is open here, or ``None``.
        caller_of: Who calls, as its certificate says.
    """

    def __init__(
        self,
        genesis_of: Callable[[NamespaceId], bytes | None],
        replicator_of: Callable[[NamespaceId], Replicator | None],
        caller_of: Callable[[Context], PeerId],
    ) -> None:
        self._genesis_of = genesis_of
        self._replicator_of = replicator_of
        self._caller_of = caller_of

    async def get_genesis(self, request: bytes, context: Context) -> bytes:
        """`Store.GetGenesis`; request and response are serialized."""
        message = store_pb2.GenesisRequest()
        try:
            if len(request) > MAX_REQUEST:
                raise DecodeError
            message.ParseFromString(request)
            namespace = NamespaceId(message.namespace)
        except (DecodeError, NamespaceError):
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a malformed question")
        genesis = self._genesis_of(namespace)
        return store_pb2.GenesisResponse(genesis=genesis or b"").SerializeToString()

    async def sync(self, _: object, context: Context) -> None:
        """`Store.Sync`; frames are serialized."""
        try:
            async with asyncio.timeout(GREETING_S):
                first: object = await context.read()
            if not isinstance(first, bytes):
                return
            namespace = NamespaceId(FrameReader().read(first).namespace)
        except TimeoutError:
            await _refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "no greeting in time")
        except (RemoteProtocolError, NamespaceError):
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a malformed greeting")
        replicator = self._replicator_of(namespace)
        if replicator is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, "no such replica here")
        link: SyncLink = ServedLink(self._caller_of(context), context, first)
        try:
            await replicator.serve(link)
        except NetworkError as error:
            await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))


async def _refuse(context: Context, status: grpc.StatusCode, reason: str) -> NoReturn:
    await context.abort(status, reason)


def add_store_servicer(servicer: StoreServicer, server: grpc.aio.Server) -> None:
    """Serve `lattica.v1.Store` on a server; messages pass as bytes, so that their sizes are checked first."""
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetGenesis": grpc.unary_unary_rpc_method_handler(servicer.get_genesis),
        "Sync": grpc.stream_stream_rpc_method_handler(servicer.sync),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
