"""Fetching: content by its root CID, from whoever provides it, verified, to a file or directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from lattica.content import metrics
from lattica.content.cid import Cid
from lattica.content.fetch_destination import check_destination
from lattica.content.fetch_job import FetchJob
from lattica.content.fetch_report import FetchProgress, FetchResult, Patience, ProgressCallback
from lattica.content.ports import ContentRouting, PeerChannels
from lattica.content.store import BlockStore
from lattica.content.transfer_threads import run_to_end


@dataclass(slots=True)
class _Turn:
    """Fetches of one root: one runs, the others wait for it and watch."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    watchers: list[ProgressCallback] = field(default_factory=list)

    def report(self, progress: FetchProgress) -> None:
        for watcher in self.watchers:
            watcher(progress)


class Fetcher:
    """Fetches content into a store, and from there to where it is wanted.

    Of several fetches of the same root at a time one runs; the others wait, are told of its progress, and then find
    everything in the store. If it fails or is cancelled, the next one goes on where it stopped.

    Args:
        store: Keeps what is fetched and serves it to others, from the first chunk on.
        channels: To providers.
        routing: Finds providers, and tells others that we are one.
        patience: When to give up.
    """

    def __init__(
        self,
        store: BlockStore,
        channels: PeerChannels,
        routing: ContentRouting,
        *,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._channels = channels
        self._routing = routing
        self._patience = patience or Patience()
        self._turns: dict[Cid, _Turn] = {}

    async def fetch(
        self,
        cid: Cid,
        destination: Path,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> FetchResult:
        """Get the content of a root CID.

        Errors and cancellation leave what was fetched in the store, from where the next fetch goes on, and nothing at
        the destination that was not complete. A thread that is copying a file is waited for.

        Args:
            cid: The root.
            destination: Path of the file to make, or a directory to put it into; for several files the directory,
                which is made if need be.
            overwrite: Replace files that are there.
            progress: Called a few times a second.

        Raises:
            ContentNotFoundError: Nobody provides it, or nobody who does could serve it, for as long as `Patience` says.
            IntegrityError: Some providers sent wrong bytes, and nobody had the right ones.
            ManifestError: What the CID points to is not acceptable.
            SourceError: The destination cannot be written, or exists and ``overwrite`` is false.
            StoreError: The store's disk is full or broken.
        """
        started = time.monotonic()
        await run_to_end(check_destination, destination, overwrite=overwrite)
        outcome = "error"
        try:
            async with self._turn(cid, progress or (lambda _: None)) as report:
                job = FetchJob(cid, self._store, self._channels, self._routing, self._patience, report)
                result = await job.run(destination, overwrite=overwrite, started=started)
            outcome = "ok"
            return result
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            metrics.FETCHES.labels(outcome).inc()

    @contextlib.asynccontextmanager
    async def _turn(self, cid: Cid, progress: ProgressCallback) -> AsyncIterator[ProgressCallback]:
        turn = self._turns.setdefault(cid, _Turn())
        turn.watchers.append(progress)
        try:
            async with turn.lock:
                yield turn.report
        finally:
            turn.watchers.remove(progress)
            if not turn.watchers:
                del self._turns[cid]
