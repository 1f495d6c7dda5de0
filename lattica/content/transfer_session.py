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
    """A chunk stream at work.

    Args:
        stream: To the provider.
        heard: Called when something has come.
        take: Verifies answers and writes the chunks; one call at a time.

    """

    def __init__(
        self, stream: ChunkStream, *, heard: Callable[[], None], take: Callable[[Answers], Awaitable[None]]
    ) -> None:
        self._end_reason = ""
        self._stream = stream
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
        self._stream.close()

    async def run(self) -> None:
        """Work until the stream ends, which it always does with an error.

        Raises:
            ExceptionGroup: Of `NetworkError`, and whatever `take` raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._receive())
                tasks.create_task(self._verify())
        except* StreamError as group:
            if self._end_reason:
                raise StreamError(self._end_reason) from group
            raise

    async def _send(self) -> None:
        while True:
            await self._stream.ask(await self._outbox.get())

    async def _receive(self) -> None:
        while True:
            answers = await self._stream.read()
            self._heard()
            await self._inbox.put(answers)

    async def _verify(self) -> None:
        while True:
            await self._take(await self._inbox.get())
