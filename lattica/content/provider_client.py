"""The fetcher's side of a provider: its manifest, and a stream of its chunks. Nothing here is verified by hash."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import grpc
import grpc.aio

from lattica._proto import content_pb2
from lattica.content.cid import Cid
from lattica.content.manifest_limits import MAX_CHUNK, MAX_MANIFEST
from lattica.content.provider_wire import SERVICE, Answers, RequestBook, Wanted, parse_message
from lattica.errors import LatticaError, RemoteProtocolError, StreamError

MAX_PART_BYTES: Final = MAX_CHUNK + 32
"""Largest encoded `ManifestPart`: 1 MiB and the fields around it."""


async def get_manifest(channel: grpc.aio.Channel, cid: Cid, large: asyncio.Semaphore) -> bytes:
    """The bytes that a provider gives for a manifest, `MAX_MANIFEST` at most. The deadline is the caller's.

    Args:
        channel: To the provider.
        cid: The manifest's.
        large: Taken while more than one part is received, so that many providers can be asked at a time.

    Raises:
        RemoteProtocolError: The provider sends something else than a manifest in parts.
        NetworkError: It cannot be reached, does not have the manifest, or the call broke.
    """
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/GetManifest")
    with call_errors():
        call = method(content_pb2.ManifestRequest(cid=cid.to_bytes()).SerializeToString())
    try:
        parts = ManifestParts()
        parts.add(await _read(call))
        if parts.missing:
            async with large:
                while parts.missing:
                    parts.add(await _read(call))
        return parts.join()
    finally:
        call.cancel()


class ManifestParts:
    """A manifest that comes in parts.

    Attributes:
        missing: Bytes still to come; 0 once it is complete.
    """

    def __init__(self) -> None:
        self.missing = -1
        self._parts: list[bytes] = []

    def add(self, raw: bytes) -> None:
        """Take a serialized `ManifestPart`; raises `RemoteProtocolError` if it does not fit."""
        part = parse_message(content_pb2.ManifestPart, raw, MAX_PART_BYTES)
        if self.missing < 0:
            if part.total > MAX_MANIFEST:
                raise RemoteProtocolError(f"manifest of {part.total} bytes, more than {MAX_MANIFEST}")
            self.missing = part.total
        if not 0 < len(part.data) <= self.missing:
            raise RemoteProtocolError(f"manifest part of {len(part.data)} bytes where {self.missing} are missing")
        self.missing -= len(part.data)
        self._parts.append(part.data)

    def join(self) -> bytes:
        """All parts as one."""
        return b"".join(self._parts)


class ChunkStream:
    """One `Content.GetChunks` call; `close` it."""

    def __init__(self, channel: grpc.aio.Channel, root: Cid) -> None:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/GetChunks")
        self._book = RequestBook(root)
        with call_errors():
            self._call = method()

    @property
    def is_answered(self) -> bool:
        """Whether nothing that was asked for is missing."""
        return not self._book.unanswered

    async def ask(self, wanted: Sequence[Wanted]) -> None:
        """Ask for chunks; waits while the provider takes no requests. Raises `NetworkError`."""
        message = self._book.encode_request(wanted)
        with call_errors():
            await self._call.write(message)

    async def read(self) -> Answers:
        """The next answers; each fits a chunk that was asked for.

        Raises:
            RemoteProtocolError: The provider sent something else.
            NetworkError: The provider cannot be reached, or the call ended.
        """
        return self._book.take_response(await _read(self._call))

    def close(self) -> None:
        """End the call; whoever reads or asks gets `StreamError`."""
        self._call.cancel()


async def _read(call: grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]) -> bytes:
    with call_errors():
        message = await call.read()
    if not isinstance(message, bytes):  # grpc.aio.EOF
        raise StreamError("the provider ended the call")
    return message


@contextlib.contextmanager
def call_errors() -> Iterator[None]:
    """Turn how a gRPC call fails into `StreamError`; a `LatticaError` passes, such as `PeerUnreachableError`.

    gRPC raises `asyncio.CancelledError` also when the peer or the channel's owner ends the call; only a cancellation
    of this task passes as one.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise StreamError("the call was cancelled") from None
    except grpc.aio.AioRpcError as error:
        if isinstance(error, LatticaError):
            raise
        raise StreamError(f"{error.code().name.lower().replace('_', ' ')}: {error.details()}") from error
    except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
        raise StreamError(f"the call cannot be used any more: {error}") from error
