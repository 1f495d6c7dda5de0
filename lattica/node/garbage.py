"""How often Python looks for cyclic garbage while nodes run."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


class CollectorPace:
    """The process's threshold for collections, raised while nodes run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # nodes may run in several threads
        self._running = 0
        self._before: int | None = None
        self._raised = 0

    @contextlib.contextmanager
    def rarer(self, threshold: int) -> Iterator[None]:
        """Have the collector look after ``threshold`` new objects instead of CPython's 700, until the block ends.

        A thousand calls under way are some ten thousand objects that are young and alive: at CPython's threshold the
        collector goes over them again and again, at times over the whole program, and finds nothing.

        The threshold is the process's, so it is only ever raised: a program that has a higher one keeps it, and so does
        one that has switched the collector off. When the last node has ended it is what it was, unless the program has
        changed it meanwhile.

        Args:
            threshold: Container objects made, less those freed, between two looks; 0 leaves it as it is.
        """
        self._begin(threshold)
        try:
            yield
        finally:
            self._end()

    def _begin(self, threshold: int) -> None:
        with self._lock:
            self._running += 1
            current, *others = gc.get_threshold()
            if 0 < current < threshold:
                if self._before is None:
                    self._before = current
                self._raised = threshold
                gc.set_threshold(threshold, *others)

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running or self._before is None:
                return
            current, *others = gc.get_threshold()
            if current == self._raised:
                gc.set_threshold(self._before, *others)
            self._before = None


COLLECTOR = CollectorPace()
"""That of this process."""
