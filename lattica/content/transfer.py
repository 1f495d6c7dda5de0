"""Moves the missing chunks of one fetch from its providers into the store, as the scheduler decides."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from lattica.background import Background, background_tasks, first_leaf
from lattica.content import metrics
from lattica.content.cid import Cid
from lattica.content.fetch_report import Patience, SourceReport
from lattica.content.fetch_search import ProviderSearch
from lattica.content.ports import PeerChannels
from lattica.content.provider_client import ChunkStream
from lattica.content.provider_wire import Answers
from lattica.content.scheduler import Action, Drop, FetchScheduler, Finished, Overtake, Request, Stuck
from lattica.content.transfer_pieces import Pieces
from lattica.content.transfer_session import ProviderSession
from lattica.content.transfer_threads import run_to_end
from lattica.errors import ContentNotFoundError, IntegrityError, NetworkError, RemoteProtocolError, StoreError
from lattica.identity import PeerId

logger = logging.getLogger(__name__)

MAX_PROVIDERS = 16
"""Providers that one fetch uses at a time; others wait until one of them has failed."""
TICK_S = 0.25
"""Seconds between looks for stalls."""
MAX_WRITES = 2
"""Threads of one fetch that verify and write."""
RETRIES = 4
"""Times in a row that a provider's stream may fail before it is left alone until a later search finds it again."""
RETRY_MIN_S = 0.25
"""Seconds before the stream is opened anew; doubled each time."""


@dataclass(slots=True)
class _Source:
    """What a provider has done so far."""

    path_kind: str = ""
    bytes: int = 0
    chunks: int = 0
    dropped: str = ""


class Transfer:
    """Fetches pieces. Providers come from a search, join while it runs, fail and return.

    Args:
        root: What the pieces belong to.
        pieces: What to fetch.
        channels: To providers.
        search: Names providers.
        excluded: Providers that have sent wrong bytes before.
        patience: When to give up.
        progress: Called a few times a second with the number of providers in use.

    Attributes:
        started: Set when the first piece is there.
    """

    def __init__(
        self,
        root: Cid,
        pieces: Pieces,
        channels: PeerChannels,
        search: ProviderSearch,
        *,
        excluded: Iterable[PeerId] = (),
        patience: Patience,
        progress: Callable[[int], None],
    ) -> None:
        self.started = asyncio.Event()
        self._root = root
        self._pieces = pieces
        self._channels = channels
        self._search = search
        self._progress = progress
        self._scheduler = FetchScheduler(
            pieces.lengths,
            time.monotonic(),
            start=random.randrange(len(pieces)),  # noqa: S311 - spreads load, guards nothing
            stuck_s=patience.stuck,
        )
        self._wrong = set(excluded)
        self._sources: dict[PeerId, _Source] = {}
        self._sessions: dict[PeerId, ProviderSession] = {}
        self._in_use: set[PeerId] = set()
        self._waiting: dict[PeerId, None] = {}
        self._writes = asyncio.Semaphore(MAX_WRITES)
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Return when every piece is written. To be called once.

        Cancellation and errors leave what is written, and no thread or task at work.

        Raises:
            ContentNotFoundError: No provider was left that could serve the rest.
            IntegrityError: The same, and some had sent wrong bytes.
            StoreError: The disk failed.
        """
        try:
            async with background_tasks() as tasks:
                tasks.start(self._tick())
                tasks.start(self._use_all(tasks))
                await self._end
        finally:
            if not self._end.cancel() and not self._end.cancelled():
                self._end.exception()  # seen, whether or not it was raised here

    def reports(self) -> tuple[SourceReport, ...]:
        """What each provider did, the most useful first."""
        reports = [
            SourceReport(peer, self._channels.path_kind(peer) or s.path_kind, s.bytes, s.chunks, s.dropped)
            for peer, s in self._sources.items()
        ]
        return tuple(sorted(reports, key=lambda report: report.bytes, reverse=True))

    # Tasks

    async def _tick(self) -> None:
        while True:
            self._search.set_urgent(self._scheduler.expects_nothing)
            self._progress(len(self._sessions))
            await asyncio.sleep(TICK_S)
            self._apply(self._scheduler.tick(time.monotonic()))

    async def _use_all(self, tasks: Background) -> None:
        while True:
            self._waiting[await self._search.next_peer()] = None
            self._use_waiting(tasks)

    def _use_waiting(self, tasks: Background) -> None:
        """Begin with providers that wait, as far as there is room."""
        while self._waiting and len(self._in_use) < MAX_PROVIDERS:
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            if peer not in self._in_use and peer not in self._wrong and not self._scheduler.is_banned(peer):
                self._in_use.add(peer)
                tasks.start(self._use(peer, tasks))

    async def _use(self, peer: PeerId, tasks: Background) -> None:
        """Work with a provider, again and again if it fails, for as long as nobody better waits."""
        source = self._sources.setdefault(peer, _Source())
        failures = 0
        while failures < RETRIES:
            chunks_before = source.chunks
            source.dropped = await self._work_with(peer)
            failures = 1 if source.chunks > chunks_before else failures + 1
            if self._waiting or self._scheduler.is_banned(peer):
                break
            await asyncio.sleep(RETRY_MIN_S * 2**failures)
        self._in_use.discard(peer)
        self._use_waiting(tasks)

    async def _work_with(self, peer: PeerId) -> str:
        """Have one stream to a provider, until it ends; returns why it did."""
        reason = ""
        try:
            await self._stream(peer)
        except* RemoteProtocolError as group:
            reason = f"broke the protocol: {first_leaf(group).reason}"
            self._ban(peer, reason)
        except* NetworkError as group:
            reason = str(first_leaf(group))
        except* StoreError as group:
            self._fail(first_leaf(group))
        logger.info("provider left cid=%s peer=%s reason=%s", self._root, peer, reason)
        return reason

    async def _stream(self, peer: PeerId) -> None:
        session = ProviderSession(
            lambda: ChunkStream(self._channels.channel(peer), self._root),
            wait_moved=lambda: self._channels.wait_moved(peer),
            heard=partial(self._heard, peer),
            take=partial(self._take_answers, peer),
        )
        self._sessions[peer] = session
        self._apply(self._scheduler.provider_added(peer, time.monotonic()))
        try:
            await session.run()
        finally:
            del self._sessions[peer]
            self._apply(self._scheduler.provider_failed(peer, time.monotonic()))

    # Events

    def _heard(self, peer: PeerId) -> None:
        self._scheduler.heard(peer, time.monotonic())

    async def _take_answers(self, peer: PeerId, answers: Answers) -> None:
        """Verify and write what a provider sent, and tell the scheduler."""
        if answers.missing:
            self._apply(self._scheduler.chunks_missing(peer, answers.missing, time.monotonic()))
        if not answers.found:
            return
        needed = [(index, data) for index, data in answers.found if self._scheduler.is_needed(index)]
        written: list[int] = []
        if needed:
            async with self._writes:
                written = await run_to_end(self._pieces.write, needed)
        self._count(peer, [index for index in written if self._scheduler.is_needed(index)])
        late = [index for index, _ in answers.found if not self._scheduler.is_needed(index)]
        metrics.BYTES_WASTED.inc(sum(self._pieces.lengths[index] for index in late))
        self._apply(self._scheduler.chunks_received(peer, {*written, *late}, time.monotonic()))
        if len(written) < len(needed):
            metrics.CHUNKS_WRONG.inc()
            logger.warning("wrong bytes cid=%s peer=%s", self._root, peer)
            self._wrong.add(peer)
            self._ban(peer, "sent wrong bytes")

    def _count(self, peer: PeerId, fresh: list[int]) -> None:
        if not fresh:
            return
        size = sum(self._pieces.lengths[index] for index in fresh)
        source = self._sources[peer]
        source.bytes += size
        source.chunks += len(fresh)
        source.dropped = ""
        source.path_kind = source.path_kind or self._channels.path_kind(peer)
        metrics.CHUNKS_FETCHED.inc(len(fresh))
        metrics.BYTES_FETCHED.inc(size)
        self.started.set()

    def _ban(self, peer: PeerId, reason: str) -> None:
        metrics.PROVIDERS_BANNED.inc()
        self._apply(self._scheduler.provider_banned(peer, reason, time.monotonic()))

    # Actions

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Request(peer, chunks):
                    self._sessions[peer].ask_nowait([self._pieces.wanted(index) for index in chunks])
                case Overtake(peer):
                    metrics.STALLS.inc()
                    logger.info("provider stalled cid=%s peer=%s", self._root, peer)
                    self._sources[peer].dropped = "silent"
                    if self._waiting and not self._sources[peer].chunks:
                        self._sessions[peer].end("silent, and others waited")
                case Drop(peer, reason):
                    self._sessions[peer].end(reason)
                case Finished():
                    if not self._end.done():
                        self._end.set_result(None)
                case Stuck():
                    self._fail(self._stuck_error())

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _stuck_error(self) -> Exception:
        if self._wrong:
            return IntegrityError(self._root, tuple(sorted(map(str, self._wrong))))
        attempts = {str(peer): s.dropped or "does not have the rest" for peer, s in self._sources.items()}
        if self._search.failure:
            attempts["search"] = self._search.failure
        return ContentNotFoundError(self._root, attempts)
