"""One `Content.GetChunks` stream at the provider: requests in, chunks out, reading ahead while it sends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
import grpc.aio

from lattica.content.provider_wire import MAX_IN_FLIGHT, MAX_RESPONSE_DATA, Wanted, parse_request

READ_AHEAD = 1
"""Responses of a stream that wait while one is being sent; one more may be waiting for room among them."""
SEND_TIMEOUT_S = 30.0
"""Seconds in which a peer must have room for one more response: 35 KB/s."""
IDLE_S = 120.0
"""Seconds after which a stream on which nothing is asked is ended. A client that has a question later opens another."""

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class RefusedError(Exception):
    """A peer's call ends with this gRPC status; the reason goes to the peer."""

    def __init__(self, status: grpc.StatusCode, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class ProviderStream:
    """Answers one stream's requests in their order, as many to a response as fit.

    Args:
        context: Of the call.
        read: Makes the encoded response to some wanted chunks.
    """

    def __init__(self, context: Context, read: Callable[[list[Wanted]], Awaitable[bytes]]) -> None:
        self._context = context
        self._read = read
        self._wanted: deque[Wanted] = deque()
        self._unanswered = 0
        self._news = asyncio.Event()
        self._is_ended = False
        self._ready: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue(READ_AHEAD)

    async def run(self) -> None:
        """Serve until the client has no more requests.

        Raises:
            grpc.aio.InternalError: The client is gone. In a group.
            RefusedError: The client asks for too much, is idle, or does not take what it asked for. In a group.
            RemoteProtocolError: A request is malformed. In a group.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take_requests())
            tasks.create_task(self._read_chunks())
            tasks.create_task(self._send_responses())

    async def _take_requests(self) -> None:
        wanted: list[Wanted] = []
        while (raw := await self._next_request()) is not None:
            wanted = parse_request(raw, is_first=not wanted)
            self._unanswered += len(wanted)
            if self._unanswered > MAX_IN_FLIGHT:
                raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_IN_FLIGHT} chunks to answer")
            self._wanted.extend(wanted)
            self._news.set()
        self._is_ended = True
        self._news.set()

    async def _next_request(self) -> bytes | None:
        message: object = await self._context.read()
        return message if isinstance(message, bytes) else None  # grpc.aio.EOF

    async def _read_chunks(self) -> None:
        while batch := await self._next_batch():
            await self._ready.put((await self._read(batch), len(batch)))
        await self._ready.put(None)

    async def _next_batch(self) -> list[Wanted]:
        """The next chunks that fit into one response; none at the end."""
        while not self._wanted and not self._is_ended:
            self._news.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._news.wait()
            except TimeoutError:
                if not self._unanswered:
                    raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "the stream was idle") from None
        batch: list[Wanted] = []
        room = MAX_RESPONSE_DATA
        while self._wanted and self._wanted[0].length <= room:
            room -= self._wanted[0].length
            batch.append(self._wanted.popleft())
        return batch

    async def _send_responses(self) -> None:
        while (ready := await self._ready.get()) is not None:
            response, count = ready
            # Before it is sent: the client may use the room as soon as it has the response.
            self._unanswered -= count
            await send(self._context, response)


async def send(context: Context, message: bytes) -> None:
    """Send a message; raises `RefusedError` if the client has no room for it for `SEND_TIMEOUT_S` seconds."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await context.write(message)
    except TimeoutError:
        raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "you do not take what you asked for") from None
