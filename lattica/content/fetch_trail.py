"""What follows behind the chunks of a fetch: to the disk, and to where the files are wanted.

Otherwise both would wait for the last chunk: for 90 MB on links of 500 Mbit/s a quarter of the time all over again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

from lattica.content.manifest import Chunk, FileEntry
from lattica.content.store import PartialBlob
from lattica.content.store_growing import GrowingCopy
from lattica.content.transfer_threads import run_to_end
from lattica.errors import StoreError

STEP_BYTES = 8 << 20
"""Bytes that have come before the disk is made to write them; smaller steps cost more, larger ones leave more to the
end."""
STEP_S = 0.1
"""Seconds between two looks."""
MIN_FOLLOWED = 2 * STEP_BYTES
"""Bytes of the smallest file that is copied while it comes."""
MAX_FOLLOWED = 32
"""Files that are copied while they come, at a time; each has an open file."""


class Trail:
    """Follows one fetch; `close` it.

    Args:
        plan: What goes where.
    """

    def __init__(self, plan: Mapping[Path, FileEntry]) -> None:
        self._destinations: dict[bytes, list[Path]] = {}
        for path, entry in plan.items():
            if entry.size >= MIN_FOLLOWED:
                self._destinations.setdefault(entry.digest, []).append(path)
        self._copies: dict[Path, GrowingCopy] = {}
        self._failure: StoreError | None = None
        self._lock = threading.Lock()  # guards what follows
        self._fresh: dict[PartialBlob, list[Chunk]] = {}
        self._fresh_bytes = 0

    def note(self, blob: PartialBlob, chunk: Chunk) -> None:
        """A chunk was written; may be called from any thread."""
        with self._lock:
            self._fresh.setdefault(blob, []).append(chunk)
            self._fresh_bytes += chunk.length

    async def follow(self) -> None:
        """Run until cancelled, or until the disk fails; then `check` says so."""
        try:
            while True:
                await asyncio.sleep(STEP_S)
                if self._fresh_bytes >= STEP_BYTES:
                    await run_to_end(self._step)
        except StoreError as error:
            self._failure = error

    def check(self) -> None:
        """Raise the `StoreError` that has ended `follow`: the system tells of a failed write only once."""
        if self._failure is not None:
            raise self._failure

    def copy_of(self, path: Path) -> GrowingCopy | None:
        """The copy that was begun for a destination."""
        return self._copies.get(path)

    def restart(self) -> None:
        """Forget the copies: what they were made of has turned out to be wrong."""
        self.close()
        self._copies.clear()

    def close(self) -> None:
        """Throw away the copies that have not been given a name."""
        for copy in self._copies.values():
            copy.close()

    def _step(self) -> None:
        with self._lock:
            fresh, self._fresh, self._fresh_bytes = self._fresh, {}, 0
        for blob, chunks in fresh.items():
            blob.flush(chunks, self._copies_of(blob.entry))

    def _copies_of(self, entry: FileEntry) -> list[GrowingCopy]:
        paths = self._destinations.get(entry.digest, ())
        for path in paths:
            if path not in self._copies and len(self._copies) < MAX_FOLLOWED:
                self._copies[path] = GrowingCopy(path)
        return [self._copies[path] for path in paths if path in self._copies]
