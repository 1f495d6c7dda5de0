"""One fetch, step by step: manifest, chunks, digests, copies at the destination."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from lattica.background import Background, background_tasks, cancelled
from lattica.content.cid import Cid
from lattica.content.fetch_destination import exported_path, plan_export
from lattica.content.fetch_manifest import ManifestRace
from lattica.content.fetch_report import FetchProgress, FetchResult, Patience, Phase, ProgressCallback, SourceReport
from lattica.content.fetch_search import ProviderSearch
from lattica.content.fetch_trail import Trail
from lattica.content.manifest import Manifest
from lattica.content.ports import ContentRouting, PeerChannels
from lattica.content.store import BlockStore, PartialBlob
from lattica.content.transfer import Transfer
from lattica.content.transfer_pieces import Pieces
from lattica.content.transfer_threads import run_to_end
from lattica.errors import IntegrityError, ManifestError, NetworkError
from lattica.identity import PeerId

logger = logging.getLogger(__name__)

SEAL_ATTEMPTS = 3
"""Times that files are put together before chunks which the disk has spoilt fail the fetch."""


class FetchJob:
    """A fetch while it runs; `lattica.content.Fetcher` makes one for each. To be run once."""

    def __init__(
        self,
        cid: Cid,
        store: BlockStore,
        channels: PeerChannels,
        routing: ContentRouting,
        patience: Patience,
        report: ProgressCallback,
    ) -> None:
        self._cid = cid
        self._store = store
        self._channels = channels
        self._routing = routing
        self._patience = patience
        self._report = report
        self._search = ProviderSearch(routing, cid.multihash)
        self._searching: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._wrong: set[PeerId] = set()
        self._manifest: Manifest | None = None
        self._blobs: dict[bytes, PartialBlob] = {}  # by digest
        self._sources: tuple[SourceReport, ...] = ()
        self._phases: dict[Phase, float] = {}  # when each began

    async def run(self, destination: Path, *, overwrite: bool, started: float) -> FetchResult:
        """See `Fetcher.fetch`; `started` is when it was called."""
        async with background_tasks() as tasks:
            manifest = await self._get_manifest(tasks)
            plan = await run_to_end(plan_export, manifest, destination, overwrite=overwrite)
            trail = Trail(plan)
            try:
                reused = await self._complete_files(manifest, trail, tasks)
                self._progress("write")
                for path, entry in plan.items():
                    copy = trail.copy_of(path)
                    await run_to_end(self._store.export, entry, path, overwrite=overwrite, growing=copy)
            finally:
                await run_to_end(trail.close)
            ended = time.monotonic()
            seconds = ended - started
            logger.info(
                "fetched cid=%s bytes=%d seconds=%.3f %s", self._cid, manifest.size, seconds, self._times(ended)
            )
            if self._announcing is not None:
                self._progress("announce")
                await asyncio.wait([self._announcing], timeout=self._patience.announce)
        path = exported_path(manifest, plan, destination)
        return FetchResult(self._cid, path, manifest.size, seconds, reused, self._sources)

    # Steps

    async def _get_manifest(self, tasks: Background) -> Manifest:
        """The manifest, from the store or else from a provider; in the store afterwards."""
        self._progress("find")
        data = await run_to_end(self._store.get_manifest, self._cid)
        if data is not None:
            manifest = await run_to_end(Manifest.decode, self._cid, data)
            await run_to_end(self._check_space, manifest)
        else:
            self._search_from_now(tasks)
            race = ManifestRace(self._cid, self._channels, self._search)
            manifest, data = await race.run(self._patience, lambda: self._progress("manifest"))
            self._wrong |= race.wrong
            await run_to_end(self._check_space, manifest)
            await run_to_end(self._store.put_manifest, self._cid, data)
        self._manifest = manifest
        return manifest

    def _check_space(self, manifest: Manifest) -> None:
        self._store.check_space(self._store.missing_bytes(manifest))

    async def _complete_files(self, manifest: Manifest, trail: Trail, tasks: Background) -> int:
        """Have every file whole in the store; returns how many bytes of them were there already."""
        try:
            await run_to_end(self._open_blobs, manifest)
            reused = self._done_bytes()
            for attempt in range(1, SEAL_ATTEMPTS + 1):
                pieces = await run_to_end(Pieces, self._blobs.values(), manifest.hash, trail.note)
                if pieces:
                    await self._transfer(pieces, trail, tasks)
                self._progress("verify")
                if await self._seal_blobs(is_last_attempt=attempt == SEAL_ATTEMPTS):
                    break
                await run_to_end(trail.restart)
        finally:
            await run_to_end(self._close_blobs)
        return reused

    def _open_blobs(self, manifest: Manifest) -> None:
        """Open the files, and fill those that are not whole with what others have; blocks on the disk.

        Also those that are whole: this manifest may cut them into other chunks, which are to be served as well.
        """
        for entry in manifest.files:
            if entry.digest not in self._blobs:
                blob = self._blobs[entry.digest] = self._store.open_blob(entry, manifest.hash)
                blob.reuse_local()

    def _close_blobs(self) -> None:
        blobs, self._blobs = self._blobs, {}
        with contextlib.ExitStack() as stack:
            for blob in blobs.values():
                stack.callback(blob.close)

    async def _transfer(self, pieces: Pieces, trail: Trail, tasks: Background) -> None:
        self._search_from_now(tasks)
        self._search.repeat()
        transfer = Transfer(
            self._cid,
            pieces,
            self._channels,
            self._search,
            excluded=self._wrong,
            patience=self._patience,
            progress=lambda providers: self._progress("chunks", providers),
        )
        if self._announcing is None:
            self._announcing = tasks.start(self._announce(transfer.started))
        following = tasks.start(trail.follow())
        try:
            await transfer.run()
        finally:
            self._sources = transfer.reports()
            await cancelled(following)
        trail.check()

    async def _seal_blobs(self, *, is_last_attempt: bool) -> bool:
        """Check the files' digests; whether all are right. If not, chunks that the disk spoilt are missing again."""
        are_right = True
        for blob in self._blobs.values():
            try:
                await run_to_end(blob.seal)
            except IntegrityError as error:
                if not blob.done_bytes:  # every chunk was right
                    reason = f"the chunks of {blob.entry.path} do not make the file that it names"
                    raise ManifestError(self._cid, reason) from error
                if is_last_attempt:
                    raise
                logger.warning("chunks spoilt on disk cid=%s file=%s", self._cid, blob.entry.path)
                are_right = False
        return are_right

    # Beside the steps

    def _search_from_now(self, tasks: Background) -> None:
        if self._searching is None:
            self._searching = tasks.start(self._search.run())

    async def _announce(self, started: asyncio.Event) -> None:
        """Tell others that we provide the content, from our first chunk on."""
        await started.wait()
        try:
            told = await self._routing.provide(self._cid.multihash)
        except NetworkError as error:
            logger.warning("announcement failed cid=%s reason=%s", self._cid, error)
        else:
            logger.info("announced cid=%s peers=%d", self._cid, told)

    def _times(self, ended: float) -> str:
        """How long each phase took, for the log."""
        starts = [*self._phases.values(), ended]
        return " ".join(f"{name}_s={starts[i + 1] - starts[i]:.3f}" for i, name in enumerate(self._phases))

    def _progress(self, phase: Phase, providers: int = 0) -> None:
        self._phases.setdefault(phase, time.monotonic())
        total = self._manifest.size if self._manifest else 0
        self._report(FetchProgress(phase, self._done_bytes(), total, providers))

    def _done_bytes(self) -> int:
        if self._manifest is None:
            return 0
        return sum(
            self._blobs[entry.digest].done_bytes if entry.digest in self._blobs else entry.size
            for entry in self._manifest.files
        )
