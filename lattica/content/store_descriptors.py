"""Open files that several threads use and that nobody closes under another's hands.

The number of a closed file is given to the next one that is opened; a late write would go there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final

MAX_CACHED: Final = 64
"""Files kept open while nobody uses them. A process may usually have 1,024."""


@dataclass(slots=True, eq=False)
class _OpenFile:
    descriptor: int
    users: int = 0
    forgotten: bool = False


class DescriptorCache:
    """The files used last, kept open."""

    def __init__(self, size: int = MAX_CACHED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._files: OrderedDict[Hashable, _OpenFile] = OrderedDict()

    @contextlib.contextmanager
    def use(self, key: Hashable, opener: Callable[[], int]) -> Iterator[int]:
        """The descriptor of the file that ``key`` stands for, valid within the block; opened if need be."""
        with self._lock:
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = _OpenFile(opener())
            self._files.move_to_end(key)
            file.users += 1
            if len(self._files) > self._size:
                self._forget(next(iter(self._files)))
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1
                if file.forgotten and not file.users:
                    os.close(file.descriptor)

    def discard(self, key: Hashable) -> None:
        """Forget a file, because it is gone or another one now. Whoever uses it may go on."""
        with self._lock:
            if key in self._files:
                self._forget(key)

    def close(self) -> None:
        """Forget all files."""
        with self._lock:
            for key in list(self._files):
                self._forget(key)

    def _forget(self, key: Hashable) -> None:
        file = self._files.pop(key)
        file.forgotten = True
        if not file.users:
            os.close(file.descriptor)
