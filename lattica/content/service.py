"""The provider's side: serves manifests and chunks of the block store to peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import NoReturn

import grpc
import grpc.aio

from lattica._proto import content_pb2
from lattica.background import first_leaf
from lattica.content import metrics
from lattica.content.cid import Cid
from lattica.content.manifest_limits import MAX_CHUNK
from lattica.content.provider_stream import Context, ProviderStream, RefusedError, send
from lattica.content.provider_wire import (
    MAX_REQUEST_BYTES,
    SERVICE,
    Wanted,
    encode_response,
    parse_message,
    parse_root,
)
from lattica.content.store import BlockStore
from lattica.content.transfer_threads import run_to_end
from lattica.errors import RemoteProtocolError, StoreError

logger = logging.getLogger(__name__)

MAX_CALLS = 128
"""Calls served at a time. Each holds at most three responses, so 400 MiB if every one of them is hostile."""
MAX_CALLS_PER_PEER = 16
"""Calls of one peer served at a time; a fetch takes one."""
MAX_READS = 4
"""Threads that read the store at a time, for all calls together."""


@dataclass(slots=True)
class _SharedManifest:
    """A manifest that some calls are sending."""

    data: bytes
    users: int = 0


class ContentServicer:
    """Serves what a block store holds: whole files and those still being fetched.

    Add it to a server with `add_content_servicer`. What it takes in memory and threads is bounded, whatever its peers
    do; a peer that breaks the protocol or does not take what it asked for loses the call.

    Args:
        store: What to serve.
        caller_of: Tells callers apart, for `MAX_CALLS_PER_PEER`.
    """

    def __init__(self, store: BlockStore, *, caller_of: Callable[[Context], Hashable] | None = None) -> None:
        self._store = store
        self._caller_of = caller_of or certified_names
        self._calls: Counter[Hashable] = Counter()
        self._reads = asyncio.Semaphore(MAX_READS)
        self._manifests: dict[Cid, _SharedManifest] = {}

    @property
    def calls_served(self) -> int:
        """How many calls are under way."""
        return self._calls.total()

    async def get_manifest(self, request: bytes, context: Context) -> None:
        """`Content.GetManifest`; request and responses are serialized."""
        async with self._admitted(context):
            message = parse_message(content_pb2.ManifestRequest, request, MAX_REQUEST_BYTES)
            async with self._manifest(parse_root(message.cid)) as data:
                for offset in range(0, len(data), MAX_CHUNK):
                    part = content_pb2.ManifestPart(total=len(data), data=data[offset : offset + MAX_CHUNK])
                    await send(context, part.SerializeToString())

    async def get_chunks(self, _: object, context: Context) -> None:
        """`Content.GetChunks`; requests and responses are serialized."""
        async with self._admitted(context):
            await ProviderStream(context, self._read_batch).run()

    @contextlib.asynccontextmanager
    async def _manifest(self, cid: Cid) -> AsyncIterator[bytes]:
        """An encoded manifest, in memory once, however many calls are sending it."""
        shared = self._manifests.get(cid)
        if shared is None:
            async with self._reads:
                data = await run_to_end(self._store.get_manifest, cid)
            if data is None:
                raise RefusedError(grpc.StatusCode.NOT_FOUND, "no such manifest here")
            shared = self._manifests.setdefault(cid, _SharedManifest(data))
        shared.users += 1
        try:
            yield shared.data
        finally:
            shared.users -= 1
            if not shared.users:
                self._manifests.pop(cid, None)

    async def _read_batch(self, batch: list[Wanted]) -> bytes:
        async with self._reads:
            return await run_to_end(self._encode_batch, batch)

    def _encode_batch(self, batch: list[Wanted]) -> bytes:
        """The response to a batch; blocks on the disk."""
        found = [(wanted.tag, self._read_chunk(wanted)) for wanted in batch]
        sizes = [len(data) for _, data in found if data is not None]
        metrics.CHUNKS_SERVED.inc(len(sizes))
        metrics.BYTES_SERVED.inc(sum(sizes))
        metrics.CHUNKS_NOT_FOUND.inc(len(found) - len(sizes))
        return encode_response(found)

    def _read_chunk(self, wanted: Wanted) -> bytes | None:
        try:
            return self._store.read_chunk(wanted.digest, wanted.length)
        except StoreError as error:
            logger.warning("chunk not readable digest=%s reason=%s", wanted.digest.hex(), error)
            return None

    @contextlib.asynccontextmanager
    async def _admitted(self, context: Context) -> AsyncIterator[None]:
        """Count a call while it runs. If it is one too many or its peer misbehaves, end it with a status."""
        caller = self._caller_of(context)
        if self._calls.total() >= MAX_CALLS or self._calls[caller] >= MAX_CALLS_PER_PEER:
            await self._refuse(context, RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at a time"))
        self._calls[caller] += 1
        refused: RefusedError | None = None
        try:
            try:
                yield
            except* RefusedError as group:
                refused = first_leaf(group)
            except* RemoteProtocolError as group:
                refused = RefusedError(grpc.StatusCode.INVALID_ARGUMENT, first_leaf(group).reason)
            except* grpc.aio.InternalError:  # the client has gone; gRPC is about to cancel this task
                logger.debug("caller gone peer=%s", context.peer())
            if refused is not None:
                await self._refuse(context, refused)
        finally:
            self._calls[caller] -= 1
            if not self._calls[caller]:
                del self._calls[caller]

    async def _refuse(self, context: Context, refused: RefusedError) -> NoReturn:
        metrics.CALLS_REFUSED.labels(refused.status.name.lower()).inc()
        logger.info("call refused peer=%s status=%s reason=%s", context.peer(), refused.status.name, refused.reason)
        await context.abort(refused.status, refused.reason)


def add_content_servicer(servicer: ContentServicer, server: grpc.aio.Server) -> None:
    """Serve `lattica.v1.Content` on a server.

    In place of the generated function: messages pass as bytes, so that their size is checked before they are parsed,
    and that chunks are not copied by protobuf's serializer.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetManifest": grpc.unary_stream_rpc_method_handler(servicer.get_manifest),
        "GetChunks": grpc.stream_stream_rpc_method_handler(servicer.get_chunks),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def certified_names(context: Context) -> Hashable:
    """The names in a caller's certificate, which tell peers apart; its address if it has none."""
    names = context.auth_context().get("x509_subject_alternative_name")
    return tuple(names) if names else context.peer()
