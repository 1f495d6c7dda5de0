"""The local control API's part about replicated documents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from lattica._proto import documents_pb2, documents_pb2_grpc
from lattica.errors import DocumentError, NamespaceError, StoreUsageError
from lattica.node.control_errors import Context, errors_told
from lattica.store import (
    Document,
    Genesis,
    Json,
    Limits,
    NamespaceId,
    Policy,
    Role,
    RootKind,
    dump,
    dump_key,
    dump_root,
)
from lattica.store.dump import parse_root_argument
from lattica.store.namespace import MAX_STRANGERS

if TYPE_CHECKING:
    from lattica.node.node import Node

PART_SIZE = 1 << 20
"""Bytes of one message with JSON; gRPC takes 4 MiB."""


class DocumentsServicer(documents_pb2_grpc.DocumentsServicer):
    """Serves `lattica.v1.Documents` for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store

    async def List(  # noqa: N802
        self, request: documents_pb2.DocumentsRequest, context: Context
    ) -> documents_pb2.DocumentsResponse:
        """The documents that are kept here."""
        del request, context
        return documents_pb2.DocumentsResponse(documents=[_info(genesis) for genesis in self._store.namespaces])

    async def Create(  # noqa: N802
        self, request: documents_pb2.CreateDocumentRequest, context: Context
    ) -> documents_pb2.DocumentInfo:
        """A new namespace of this node's."""
        async with errors_told(context):
            policy = _policy(request.policy) if request.policy else Policy.ALLOW_LIST
            strangers = request.strangers if request.HasField("strangers") else MAX_STRANGERS
            limits = Limits(strangers=strangers, stranger_entries=request.stranger_entries)
            return _info((await self._store.create(request.title, policy=policy, limits=limits)).genesis)

    async def Open(  # noqa: N802
        self, request: documents_pb2.OpenDocumentRequest, context: Context
    ) -> documents_pb2.DocumentInfo:
        """Take part in a namespace, which others may have."""
        async with errors_told(context):
            if request.timeout_s > 0:
                return _info((await self._store.open(request.namespace, timeout=request.timeout_s)).genesis)
            return _info((await self._kept(request.namespace)).genesis)

    async def Show(  # noqa: N802
        self, request: documents_pb2.NamespaceRequest, context: Context
    ) -> documents_pb2.DocumentDetails:
        """Who writes a document, how far this replica is, and with whom it is in touch."""
        async with errors_told(context):
            document = await self._kept(request.namespace)
            replicator = self._store.replicator_of(document.namespace)
            return documents_pb2.DocumentDetails(
                info=_info(document.genesis),
                authors=[
                    documents_pb2.DocumentAuthor(
                        peer_id=str(author.peer),
                        role=author.role,
                        paths=author.paths,
                        entries=author.entries,
                        controls=author.controls,
                        frozen=author.frozen,
                        covered=author.covered,
                    )
                    for author in document.authors()
                ],
                frontier=document.frontier().digest(),
                peers=[str(peer) for peer in replicator.peers] if replicator else [],
                problems=sorted(document.problems),
            )

    async def Grant(  # noqa: N802
        self, request: documents_pb2.GrantRequest, context: Context
    ) -> documents_pb2.DocumentChanged:
        """Give a peer the right to write."""
        async with errors_told(context):
            document = await self._kept(request.namespace)
            role = Role.ADMIN if request.admin else Role.WRITER
            await document.grant(self._node.resolve(request.peer), role, paths=list(request.paths))
            return _changed(document)

    async def Revoke(  # noqa: N802
        self, request: documents_pb2.RevokeRequest, context: Context
    ) -> documents_pb2.DocumentChanged:
        """End a peer's rights."""
        async with errors_told(context):
            document = await self._kept(request.namespace)
            await document.revoke(self._node.resolve(request.peer))
            return _changed(document)

    async def Get(  # noqa: N802
        self, request: documents_pb2.GetValueRequest, context: Context
    ) -> AsyncIterator[documents_pb2.JsonPart]:
        """What a container holds, or one of its keys."""
        async with errors_told(context):
            document = await self._kept(request.namespace)
            if request.HasField("key"):
                found = dump_key(document, request.root, request.key)
            else:
                found = dump_root(document, request.root)
            for part in _parts(found):
                yield part

    async def Set(  # noqa: N802
        self, request: documents_pb2.SetValueRequest, context: Context
    ) -> documents_pb2.DocumentChanged:
        """Write one key of a map."""
        async with errors_told(context):
            kind, name = parse_root_argument(request.root)
            if kind is not RootKind.MAP:
                raise StoreUsageError(f"{request.root} is no map; only keys of maps can be set: map:NAME")
            try:
                value = json.loads(request.json)
            except (ValueError, RecursionError) as error:
                raise StoreUsageError(f"the value is no JSON: {error}") from error
            document = await self._kept(request.namespace)
            async with document.transaction():
                document.map(name)[request.key] = value
            return _changed(document)

    async def Dump(  # noqa: N802
        self, request: documents_pb2.NamespaceRequest, context: Context
    ) -> AsyncIterator[documents_pb2.JsonPart]:
        """All that a document holds."""
        async with errors_told(context):
            for part in _parts(dict(dump(await self._kept(request.namespace)))):
                yield part

    async def Compact(  # noqa: N802
        self, request: documents_pb2.NamespaceRequest, context: Context
    ) -> documents_pb2.DocumentCompacted:
        """Put a document's state in the place of its history."""
        async with errors_told(context):
            document = await self._kept(request.namespace)
            return documents_pb2.DocumentCompacted(changed=await document.compact())

    async def Forget(  # noqa: N802
        self, request: documents_pb2.NamespaceRequest, context: Context
    ) -> documents_pb2.DocumentInfo:
        """Delete a document here."""
        async with errors_told(context):
            genesis = (await self._kept(request.namespace)).genesis
            await self._store.forget(genesis.namespace)
            return _info(genesis)

    async def _kept(self, text: str) -> Document:
        namespace = NamespaceId.parse(text)
        if self._store.genesis_of(namespace) is None:
            raise DocumentError(f"{namespace} is not kept here; `lattica store open {namespace}` looks for it")
        return await self._store.open(namespace)


def _policy(text: str) -> Policy:
    try:
        return Policy(text)
    except ValueError as error:
        raise NamespaceError(f"there is no policy {text[:80]!r}, only {', '.join(Policy)}") from error


def _info(genesis: Genesis) -> documents_pb2.DocumentInfo:
    return documents_pb2.DocumentInfo(
        namespace=str(genesis.namespace),
        owner=str(genesis.owner),
        policy=genesis.policy.value,
        title=genesis.title,
        strangers=genesis.limits.strangers,
        stranger_entries=genesis.limits.stranger_entries,
    )


def _changed(document: Document) -> documents_pb2.DocumentChanged:
    return documents_pb2.DocumentChanged(frontier=document.frontier().digest())


def _parts(value: Json) -> Iterator[documents_pb2.JsonPart]:
    data = json.dumps(value, ensure_ascii=False).encode()
    for start in range(0, len(data), PART_SIZE):
        yield documents_pb2.JsonPart(json=data[start : start + PART_SIZE])
