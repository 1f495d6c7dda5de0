"""A copy of a file of the store that grows while the file itself still arrives."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lattica.content.store_export import Draft, copy_range, share_blocks


class GrowingCopy:
    """The copy at one destination, without a name until `BlockStore.export` gives it one. Used by one thread at a time.

    It exists where that saves time and leaves no litter: not where the file system copies in no time, and not where
    files without a name cannot be. Until it has a name nothing is seen of it, and after kill -9 nothing is left.

    Args:
        destination: Where it will be.

    Attributes:
        draft: The copy; ``None`` if there is none, or not any more.
    """

    def __init__(self, destination: Path) -> None:
        self.draft: Draft | None = None
        self._directory = next(path for path in destination.absolute().parents if path.is_dir())
        self._is_begun = False
        self._copied: set[int] = set()  # offsets

    def add(self, source: int, places: Iterable[tuple[int, int]]) -> None:
        """Copy what has come, and begin to write it to the disk; gives up, without a word, if that fails.

        Args:
            source: The file that grows.
            places: Offset and length of what is not copied yet, or is already.
        """
        try:
            if not self._is_begun:
                self._is_begun = True
                self._begin(source)
            if self.draft is not None:
                self._copy(source, self.draft.descriptor, places)
                os.fdatasync(self.draft.descriptor)
        except (OSError, EOFError):  # whoever copies at the end finds out, and says so
            self.close()

    def complete(self, source: int, places: Iterable[tuple[int, int]]) -> Draft | None:
        """The copy with everything in it; ``None`` if there is none. Its last bytes are not on the disk yet."""
        if self.draft is not None:
            try:
                self._copy(source, self.draft.descriptor, places)
            except (OSError, EOFError):
                self.close()
        return self.draft

    def close(self) -> None:
        """Throw it away, unless it has a name by now; may be called again."""
        draft, self.draft = self.draft, None
        if draft is not None:
            draft.close()

    def _begin(self, source: int) -> None:
        draft = Draft(self._directory)
        if draft.name is not None or share_blocks(source, draft.descriptor):
            draft.close()
        else:
            self.draft = draft

    def _copy(self, source: int, target: int, places: Iterable[tuple[int, int]]) -> None:
        start = end = 0
        fresh = sorted((offset, length) for offset, length in places if offset not in self._copied)
        for offset, length in fresh:
            if offset != end:
                copy_range(source, target, start, end)
                start = offset
            end = offset + length
        copy_range(source, target, start, end)
        self._copied.update(offset for offset, _ in fresh)
