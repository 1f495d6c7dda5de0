"""`node.content`: publish and fetch, with the node's store, channels and DHT."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from lattica.content import (
    BlockStore,
    Cid,
    ContentRouting,
    Fetcher,
    FetchProgress,
    FetchResult,
    HashFunction,
    Patience,
    PeerChannels,
    Published,
    publish_path,
)
from lattica.errors import NetworkError

logger = logging.getLogger(__name__)

ANNOUNCE_S = 1.0
"""Seconds that a fetch waits at its end for its announcement; after that the DHT goes on with it by itself."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all (0: not known yet); from any thread."""


class NodeContent:
    """Content of one node; `lattica.open_node` makes it as ``node.content``."""

    def __init__(self, store: BlockStore, channels: PeerChannels, routing: ContentRouting) -> None:
        self._store = store
        self._routing = routing
        self._fetcher = Fetcher(store, channels, routing, patience=Patience(announce=ANNOUNCE_S))

    async def publish(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        hash: HashFunction = HashFunction.BLAKE3,  # noqa: A002 - the multiformats' term
        progress: ProgressCallback | None = None,
    ) -> Published:
        """Copy a file or folder into the store and tell the network that we provide it.

        Returns when it is stored and announced to the peers that could be reached; the announcement is repeated while
        the node runs. Cancellation leaves nothing in the store.

        Args:
            path: What to publish. It may change or go afterwards.
            name: What to call it; its own name by default.
            hash: Makes the content IDs. SHA-256 suits IPFS tools, BLAKE3 is several times faster.
            progress: Told about each step.

        Raises:
            SourceError: It cannot be read, or is neither file nor folder.
            SourceChangedError: It changed meanwhile.
            StoreError: The store is full or read-only.
        """
        cancelled = threading.Event()

        def report(done: int, total: int) -> None:
            if progress is not None:
                progress("store", done, total)

        work = asyncio.ensure_future(
            asyncio.to_thread(
                publish_path, self._store, Path(path), name=name, hash=hash, progress=report, cancelled=cancelled.is_set
            )
        )
        try:
            published = await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([work])
            raise
        await self._announce(published.cid)
        return published

    async def fetch(
        self,
        cid: Cid | str,
        destination: Path | str,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> FetchResult:
        """Get content from whoever provides it, verified, into a file or folder.

        An interrupted fetch goes on where it stopped when it is repeated; what was fetched is provided to others.

        Args:
            cid: The root content ID.
            destination: Where to put it; for a single file also a folder to put it into.
            overwrite: Replace what is there.
            progress: Told about each step.

        Raises:
            MalformedCidError: ``cid`` is none.
            ContentNotFoundError: Nobody provides it, or nobody who does can serve it.
            IntegrityError: Providers sent wrong bytes, and nobody had the right ones.
            ManifestError: What it points to is not acceptable.
            SourceError: ``destination`` exists, or cannot be written.
            StoreError: The store is full or read-only; what was fetched stays for the next attempt.
        """
        root = Cid.parse(cid) if isinstance(cid, str) else cid

        def report(step: FetchProgress) -> None:
            if progress is not None:
                progress(step.phase, step.done_bytes, step.total_bytes)

        return await self._fetcher.fetch(root, Path(destination), overwrite=overwrite, progress=report)

    def roots(self) -> list[Cid]:
        """The root content IDs that the store holds completely."""
        return self._store.roots()

    async def announce_all(self) -> None:
        """Tell the network of everything in the store; it is repeated while the node runs."""
        for root in await asyncio.to_thread(self._store.roots):
            await self._announce(root)

    async def _announce(self, cid: Cid) -> None:
        try:
            told = await self._routing.provide(cid.multihash)
        except NetworkError as error:
            logger.warning("announcement failed cid=%s reason=%s", cid, error)
        else:
            logger.info("announced cid=%s peers=%d", cid, told)
