"""The search for better paths: goes on in the background while calls already run over a worse one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import chain, repeat

from lattica.background import Background
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId
from lattica.mesh.link_table import forget_oldest
from lattica.mesh.pipes import OpenPipe

PAUSES_S = (0.0, 1.0, 4.0, 15.0, 60.0)
LAST_PAUSE_S = 300.0
"""Seconds before each attempt, and from then on. 97.6% of the punches that succeed do so at once (arXiv 2510.27500); a
later one helps when a network has changed."""
JITTER = 0.2
"""Share by which a pause varies, so that the searches of many peers do not fall together."""
READY_S = 5.0
"""Seconds that a pipe waits to be used; after 10 s without a handshake the peer's gRPC server closes it."""

Attempt = Callable[[PeerId, dict[str, str]], Awaitable[OpenPipe | None]]
"""Tries the better ways to a peer once; may raise `PeerUnreachableError`."""


class Searches:
    """At most one search for each peer.

    Args:
        attempt: One try.
        wanted: Whether a peer's search should go on.
        found: Called when a better pipe than those in use is ready to be taken.
        failed: Called when an attempt has failed, with what was tried.
        tasks: Run the searches.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        wanted: Callable[[PeerId], bool],
        found: Callable[[OpenPipe], None],
        failed: Callable[[PeerId, Mapping[str, str]], None],
        tasks: Background,
    ) -> None:
        self._attempt = attempt
        self._wanted = wanted
        self._found = found
        self._failed = failed
        self._tasks = tasks
        self._closed = False
        self._wake: dict[PeerId, asyncio.Event] = {}
        self._running: dict[PeerId, asyncio.Task[None]] = {}
        self._waiting: dict[PeerId, list[asyncio.Future[OpenPipe | None]]] = {}
        self._ready: dict[PeerId, OpenPipe] = {}
        self._failures: dict[PeerId, dict[str, str]] = {}

    def start(self, peer: PeerId) -> None:
        """Search for a better path to ``peer`` now, unless an attempt is under way."""
        if peer in self._wake:
            self._wake[peer].set()
            return
        self._wake[peer] = asyncio.Event()
        task = self._tasks.start_unless_ending(self._run(peer))
        if task is None:
            del self._wake[peer]
            return
        self._running[peer] = task
        task.add_done_callback(partial(self._ended, peer))

    def failures(self, peer: PeerId) -> dict[str, str]:
        """Why the better ways failed in the latest attempt; empty while none has."""
        return dict(self._failures.get(peer, {}))

    async def next_pipe(self, peer: PeerId) -> OpenPipe | None:
        """The pipe that the attempt under way opens; ``None`` if it fails."""
        self.start(peer)
        if peer not in self._running:  # the mesh is closing
            return None
        future: asyncio.Future[OpenPipe | None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(peer, [])
        waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (pipe := future.result()) is not None:
                self.offer(pipe)  # it came just when we were told to stop waiting
            raise
        finally:
            waiting.remove(future)
            if not waiting and self._waiting.get(peer) is waiting:
                del self._waiting[peer]

    def take_nowait(self, peer: PeerId) -> OpenPipe | None:
        """A better pipe that is ready, if there is one."""
        return self._ready.pop(peer, None)

    def offer(self, pipe: OpenPipe) -> None:
        """Give a pipe to who waits for one; if nobody does, have it taken within `READY_S`."""
        if self._closed:
            pipe.sock.close()
            return
        peer = pipe.path.peer_id
        for future in self._waiting.get(peer, ()):
            if not future.done():
                future.set_result(pipe)
                return
        self._discard(self._ready.pop(peer, None))
        self._ready[peer] = pipe
        asyncio.get_running_loop().call_later(READY_S, self._expire, pipe)
        self._found(pipe)

    def close(self) -> None:
        """Close the pipes that nobody has taken; those that are found from here on are closed at once."""
        self._closed = True
        while self._ready:
            self._discard(self._ready.popitem()[1])

    def _expire(self, pipe: OpenPipe) -> None:
        if self._ready.get(pipe.path.peer_id) is pipe:
            self._discard(self._ready.pop(pipe.path.peer_id))

    @staticmethod
    def _discard(pipe: OpenPipe | None) -> None:
        if pipe is not None:
            pipe.sock.close()

    async def _run(self, peer: PeerId) -> None:
        for number, pause in enumerate(chain(PAUSES_S, repeat(LAST_PAUSE_S))):
            await self._pause(peer, pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - spreads load
            if number and not self._waiting.get(peer) and not self._wanted(peer):
                return
            attempts: dict[str, str] = {}
            try:
                pipe = await self._attempt(peer, attempts)
            except PeerUnreachableError as error:
                attempts, pipe = error.attempts, None
            if pipe is not None:
                self._failures.pop(peer, None)
                self._end(peer)  # before others hear of it: they may want another search at once
                self.offer(pipe)
                return
            self._failures[peer] = attempts
            forget_oldest(self._failures)
            self._failed(peer, attempts)
            self._tell_waiting(peer)

    async def _pause(self, peer: PeerId, seconds: float) -> None:
        """Wait, but not if somebody needs a path now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake[peer].wait()
        self._wake[peer].clear()

    def _tell_waiting(self, peer: PeerId) -> None:
        for future in self._waiting.get(peer, ()):
            if not future.done():
                future.set_result(None)

    def _end(self, peer: PeerId) -> None:
        self._running.pop(peer, None)
        self._wake.pop(peer, None)

    def _ended(self, peer: PeerId, task: asyncio.Task[None]) -> None:
        if self._running.get(peer) is not task:  # it has found something, and the next one may run already
            return
        self._end(peer)
        self._tell_waiting(peer)
