"""One provider of a running fetch: sends it requests, receives its answers, has them verified; all three at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from lattica.content.provider_client import ChunkStream
from lattica.content.provider_wire import Answers, Wanted
from lattica.errors import StreamError

VERIFY_AHEAD = 2
"""Responses of a provider that wait while one is verified and written."""


class ProviderSession:
    """A chunk stream at work, and the next one when there is a better way to the provider.

    Args:
        open_stream: Opens a stream to the provider, by the best way of the moment; raises `NetworkError`.
        wait_moved: Returns when there is a better way than before.
        heard: Called when something has come.
        take: Verifies answers and writes the chunks; one call at a time.

    """

    def __init__(
        self,
        open_stream: Callable[[], ChunkStream],
        *,
        wait_moved: Callable[[], Awaitable[None]],
        heard: Callable[[], None],
        take: Callable[[Answers], Awaitable[None]],
    ) -> None:
        self._end_reason = ""
        self._open_stream = open_stream
        self._wait_moved = wait_moved
        self._stream = open_stream()
        self._streams = {self._stream}
        self._heard = heard
        self._take = take
        self._outbox: asyncio.Queue[Sequence[Wanted]] = asyncio.Queue()
        self._inbox: asyncio.Queue[Answers] = asyncio.Queue(VERIFY_AHEAD)

    def ask_nowait(self, wanted: Sequence[Wanted]) -> None:
        """Have chunks asked for; the scheduler bounds how many."""
        self._outbox.put_nowait(wanted)

    def end(self, reason: str) -> None:
        """End the stream, and `run` with it."""
        self._end_reason = reason
        for stream in self._streams:
            stream.close()

    async def run(self) -> None:
        """Work until the stream ends, which it always does with an error.

        Raises:
            ExceptionGroup: Of `NetworkError`, and whatever `take` raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._receive(self._stream))
                tasks.create_task(self._move(tasks))
                tasks.create_task(self._verify())
        except* StreamError as group:
            if self._end_reason:
                raise StreamError(self._end_reason) from group
            raise
        finally:
            for stream in self._streams:
                stream.close()

    async def _send(self) -> None:
        while True:
            await self._stream.ask(await self._outbox.get())

    async def _receive(self, stream: ChunkStream) -> None:
        """Read a stream until it fails, or has answered all and another one has taken its place."""
        while stream is self._stream or not stream.is_answered:
            try:
                answers = await stream.read()
            except StreamError:
                if stream is self._stream or not stream.is_answered:
                    raise
                break
            self._heard()
            await self._inbox.put(answers)
        stream.close()
        self._streams.discard(stream)

    async def _move(self, tasks: asyncio.TaskGroup) -> None:
        """Ask by the better way, each time there is one; what was asked before still comes by the old."""
        while True:
            await self._wait_moved()
            before, self._stream = self._stream, self._open_stream()
            self._streams.add(self._stream)
            tasks.create_task(self._receive(self._stream))
            if before.is_answered:
                before.close()

    async def _verify(self) -> None:
        while True:
            await self._take(await self._inbox.get())
