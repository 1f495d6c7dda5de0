"""Content peers on the loopback interface: real stores, real gRPC servers, and providers that misbehave by script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from lattica._proto import content_pb2
from lattica.content.cid import Cid, HashFunction
from lattica.content.fetch import Fetcher
from lattica.content.fetch_report import Patience
from lattica.content.manifest import ChunkRun, FileEntry, Manifest
from lattica.content.provider_stream import Context
from lattica.content.provider_wire import SERVICE, Wanted, encode_response, parse_request
from lattica.content.service import ContentServicer, add_content_servicer
from lattica.content.store import BlockStore
from lattica.errors import NetworkError
from lattica.identity import PeerId

CHUNK = 64 << 10
"""Size of the chunks of test content: small, so that little content has many."""
HASTE = Patience(nobody=2.0, manifest=8.0, stuck=6.0)
"""For fetches that are meant to fail; providers have done their part by then, also where the machine pauses."""
CALM = Patience(stuck=45.0)
"""For fetches that are meant to succeed, also while the disk is busy with something else."""


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20)) + number.to_bytes(32, "big"))


def file_entry(path: str, data: bytes, chunk_size: int = CHUNK) -> FileEntry:
    """A file of one run."""
    digest = HashFunction.BLAKE3.digest
    parts = [data[at : at + chunk_size] for at in range(0, len(data), chunk_size)]
    runs = (ChunkRun(chunk_size, len(data), b"".join(map(digest, parts))),) if data else ()
    return FileEntry(path, len(data), digest(data), runs)


@dataclass(frozen=True)
class Content:
    """Something to fetch.

    Attributes:
        files: Bytes by path.
        manifest: Describes them.
        chunks: Bytes by digest.
    """

    files: Mapping[str, bytes]
    manifest: Manifest
    chunks: Mapping[bytes, bytes]

    @classmethod
    def of(cls, files: Mapping[str, bytes], chunk_size: int = CHUNK) -> Self:
        entries = tuple(file_entry(path, files[path], chunk_size) for path in sorted(files))
        chunks = {
            chunk.digest: files[entry.path][chunk.offset : chunk.offset + chunk.length]
            for entry in entries
            for chunk in entry.chunks()
        }
        return cls(files, Manifest("test", HashFunction.BLAKE3, entries), chunks)

    @property
    def cid(self) -> Cid:
        return self.manifest.cid()

    @property
    def data(self) -> bytes:
        """The bytes of the only file."""
        (data,) = self.files.values()
        return data

    def put_into(self, store: BlockStore) -> None:
        store.put_manifest(self.cid, self.manifest.encode())
        for entry in self.manifest.files:
            with store.open_blob(entry, HashFunction.BLAKE3) as blob:
                for chunk in blob.missing():
                    blob.write(chunk, self.chunks[chunk.digest])
                blob.seal()


class LoopbackChannels:
    """Channels to the servers of `ContentPeers`, by peer ID."""

    def __init__(self) -> None:
        self.ports: dict[PeerId, int] = {}
        self._channels: dict[PeerId, grpc.aio.Channel] = {}
        self._moved = asyncio.Event()

    def channel(self, peer: PeerId) -> grpc.aio.Channel:
        if peer not in self._channels:
            self._channels[peer] = grpc.aio.insecure_channel(f"127.0.0.1:{self.ports[peer]}")
        return self._channels[peer]

    def path_kind(self, peer: PeerId) -> str:
        return "lan" if peer in self._channels else ""

    async def wait_moved(self, peer: PeerId) -> None:
        await self._moved.wait()

    def move(self) -> None:
        """Say that there is a better way to every peer."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


class ListRouting:
    """Content routing that knows a list of providers. Each search yields those it has and ends.

    Attributes:
        providers: May change at any time.
        announced: Keys that were provided.
        failure: Raised by searches, if set.
    """

    def __init__(self, providers: Iterable[PeerId] = ()) -> None:
        self.providers = list(providers)
        self.announced: list[bytes] = []
        self.searches = 0
        self.failure: NetworkError | None = None

    async def find_providers(self, key: bytes) -> AsyncIterator[PeerId]:
        self.searches += 1
        if self.failure is not None:
            raise self.failure
        for peer in list(self.providers):
            await asyncio.sleep(0)
            yield peer

    async def provide(self, key: bytes) -> int:
        await asyncio.sleep(0)
        self.announced.append(key)
        return 1


class ScriptedProvider:
    """A provider without a store, honest by itself; subclasses override what they do differently.

    Attributes:
        served: Digests in the order in which they were sent.
        asked: How many chunks it was asked for.
        calls: How many chunk streams were opened.
        streams: How many of them have not ended.
    """

    def __init__(self, content: Content) -> None:
        self.content = content
        self.served: list[bytes] = []
        self.asked = 0
        self.calls = 0
        self.streams = 0

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "GetManifest": grpc.unary_stream_rpc_method_handler(self.get_manifest),
            "GetChunks": grpc.stream_stream_rpc_method_handler(self.get_chunks),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def get_manifest(self, request: bytes, context: Context) -> None:
        data = self.content.manifest.encode()
        await context.write(content_pb2.ManifestPart(total=len(data), data=data).SerializeToString())

    async def get_chunks(self, _: object, context: Context) -> None:
        self.calls += 1
        self.streams += 1
        try:
            is_first = True
            while isinstance(raw := await context.read(), bytes):
                wanted = parse_request(raw, is_first=is_first)
                is_first = False
                self.asked += len(wanted)
                for chunk in wanted:
                    await self.answer(chunk, context)
        finally:
            self.streams -= 1

    async def answer(self, wanted: Wanted, context: Context) -> None:
        data = self.chunk(wanted)
        if data is not None:
            self.served.append(wanted.digest)
        await context.write(encode_response([(wanted.tag, data)]))

    def chunk(self, wanted: Wanted) -> bytes | None:
        return self.content.chunks.get(wanted.digest)


class StoreProvider:
    """A node's own servicer over a store."""

    def __init__(self, store: BlockStore) -> None:
        self.servicer = ContentServicer(store)

    def register(self, server: grpc.aio.Server) -> None:
        add_content_servicer(self.servicer, server)


class ContentPeers:
    """Providers and fetchers of one test. An async context manager, which stops them all."""

    def __init__(self, folder: Path) -> None:
        self.channels = LoopbackChannels()
        self.servers: dict[PeerId, grpc.aio.Server] = {}
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()

    async def serve(self, provider: ScriptedProvider | StoreProvider) -> PeerId:
        """Start a server; the peer ID at which it is found."""
        peer = peer_id(len(self.channels.ports) + 1)
        server = grpc.aio.server()
        provider.register(server)
        self.channels.ports[peer] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.servers[peer] = server
        return peer

    async def publish(self, content: Content) -> PeerId:
        """Serve content from a store, as a node does."""
        store = self.store()
        content.put_into(store)
        return await self.serve(StoreProvider(store))

    async def stop(self, peer: PeerId) -> None:
        """End a server and every call at once."""
        await self.servers.pop(peer).stop(None)

    def nobody(self) -> PeerId:
        """A peer ID at which nobody listens."""
        peer = peer_id(len(self.channels.ports) + 1)
        self.channels.ports[peer] = 1
        return peer

    def store(self, kind: Callable[[Path], BlockStore] = BlockStore.open) -> BlockStore:
        """A new store."""
        number = len(list(self._folder.glob("store-*")))
        return self._stack.enter_context(kind(self._folder / f"store-{number}"))

    def fetcher(
        self, *providers: PeerId, store: BlockStore | None = None, patience: Patience | None = None
    ) -> tuple[Fetcher, ListRouting]:
        """A fetcher that finds these providers, and its routing."""
        routing = ListRouting(providers)
        return Fetcher(store or self.store(), self.channels, routing, patience=patience or CALM), routing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channels.close()
        for server in self.servers.values():
            await server.stop(None)
        await self._stack.aclose()


async def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return as soon as something is so; raise `TimeoutError` if it is not within ``seconds``."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
