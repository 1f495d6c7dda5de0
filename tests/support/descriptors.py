"""What this process holds open."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from pathlib import Path

from waiting import until


def open_descriptors() -> list[str]:
    """What each file descriptor leads to, in no order; those of forgotten objects are closed first."""
    gc.collect()
    targets = []
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            targets.append(str(link.readlink()))
    return targets


def count_descriptors(kind: str = "") -> int:
    """How many there are; of one kind: ``socket``, ``pipe``, ``anon_inode``."""
    return sum(target.startswith(kind) for target in open_descriptors())


def descriptors(kind: str = "") -> Counter[str]:
    """Where those of one kind lead."""
    return Counter(target for target in open_descriptors() if target.startswith(kind))


def opened_since(before: Counter[str], kind: str = "") -> list[str]:
    """What is open now and was not ``before``. What others had open then, they may have closed meanwhile."""
    return sorted((descriptors(kind) - before).elements())


async def wait_closed_since(before: Counter[str], kind: str = "") -> None:
    """Wait until nothing is open that was not ``before``."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: not opened_since(before, kind))
    assert opened_since(before, kind) == []
