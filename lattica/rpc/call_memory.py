"""What a server remembers of one caller's calls, so that none with `ONCE` runs twice. No I/O, no clock.

A call is remembered from its beginning until its caller says that it has the answer. So much may be remembered, and a
caller that has gone is forgotten some time later; whoever asks again for what was forgotten is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from lattica.rpc.batch_wire import MAX_SMALL, Failure
from lattica.rpc.codec import Encoded
from lattica.rpc.shares import PeerLoad

RESULT_MEMORY_S = 120.0
"""Seconds for which a caller that has no stream to us is remembered."""
RUN_ON_S = 30.0
"""Seconds for which its calls run on before they are cancelled."""
MAX_REMEMBERED = 65_536
"""Unacknowledged calls of one caller; a caller that acknowledges nothing is refused further ones."""
MAX_REMEMBERED_BYTES = 64 << 20
"""Bytes of small results kept for one caller, and of large ones; the oldest are forgotten first, the newest is kept
whatever its size. Large ones wait `FETCH_WAIT_S` before that, for the caller may be fetching the others."""
FETCH_WAIT_S = 30.0
"""Seconds that a call whose large result finds no room holds it back before others are forgotten for it."""
MAX_SETTLED = 16_384
"""Numbers kept of calls that must not be begun any more; as many as a caller has unanswered when it loses a stream."""
MAX_CALLERS_OF_PEER = 16
"""Instances of callers remembered for one peer; the one that has been gone longest is forgotten first."""


@dataclass(slots=True, eq=False)
class Entry:
    """A call that runs, or whose answer has not been acknowledged.

    Attributes:
        id: Its number.
        stream: Where its answer goes.
        once: Whether it must not run twice.
        task: Runs it; ``None`` when it has ended.
        answer: Its result or failure; ``None`` while it runs, or when forgotten.
        size: Bytes of the answer.
        expired: Whether its deadline has passed.
        cancelled: Whether its caller has gone.
        deadline: In seconds of the monotonic clock; ``None`` without one.
        again: Whether it was sent more than once.
    """

    id: int
    stream: Any
    once: bool
    deadline: float | None = None
    task: asyncio.Task[Any] | None = None
    answer: bytes | Encoded | Failure | None = None
    size: int = 0
    expired: bool = False
    cancelled: bool = False
    again: bool = False


class _Kept:
    """Answers of one sort.

    Attributes:
        entries: Their calls, the oldest first, and some whose answers have been forgotten since.
        bytes: Of the answers.
    """

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.bytes = 0

    def forget(self, entry: Entry) -> None:
        """Keep only that it ran."""
        self.bytes -= entry.size
        entry.answer, entry.size = None, 0

    def trim(self) -> None:
        """Forget the oldest until the rest is within its limit."""
        while self.bytes > MAX_REMEMBERED_BYTES and len(self.entries) > 1:
            self.forget(self.entries.popleft())


class CallMemory:
    """The calls of one instance of a caller.

    Args:
        name: Drawn for it: a caller that names it asks for this memory and no other.
        load: What the caller's peer has under way.

    Attributes:
        entries: By number.
        settled: Numbers that must not be begun any more, the oldest first: cancelled before they came, or acknowledged
            and sent more than once, so that one of the messages may still be on its way.
        streams: Its streams, the newest last.
        attempts: Calls of their own that wait for an entry here.
        freed: Set when a large result is not kept any more.
        gone_since: When the last of its streams and attempts ended; ``None`` while there is one.
    """

    def __init__(self, name: bytes = b"", load: PeerLoad | None = None) -> None:
        self.name = name
        self.load = load or PeerLoad()
        self.entries: dict[int, Entry] = {}
        self.settled: dict[int, None] = {}
        self.streams: list[Any] = []
        self.attempts = 0
        self.gone_since: float | None = None
        self.freed = asyncio.Event()
        self._small = _Kept()
        self._large = _Kept()

    @property
    def is_full(self) -> bool:
        """Whether it may begin no more calls."""
        return len(self.entries) >= MAX_REMEMBERED

    def answered(self, entry: Entry, answer: bytes | Encoded | Failure, size: int, *, keep: bool) -> None:
        """A call has ended; its answer is kept until it is acknowledged if it was to run once, or has to be fetched."""
        entry.task = None
        if entry.cancelled or not (keep or entry.once):
            self.entries.pop(entry.id, None)
            if entry.again and entry.cancelled:
                self.settle(entry.id)
            return
        entry.answer, entry.size = answer, size
        kept = self._large if size > MAX_SMALL else self._small
        kept.entries.append(entry)
        kept.bytes += size
        if kept.bytes > MAX_REMEMBERED_BYTES:
            kept.trim()

    def has_room(self, size: int) -> bool:
        """Whether a result can be kept without forgetting another."""
        return size <= MAX_SMALL or not self._large.bytes or self._large.bytes + size <= MAX_REMEMBERED_BYTES

    def acknowledged(self, numbers: list[int]) -> None:
        """The caller has these answers."""
        for number in numbers:
            entry = self.entries.get(number)
            if entry is None or entry.task is not None:
                continue
            del self.entries[number]
            if entry.size > MAX_SMALL:
                self._large.forget(entry)
                self.freed.set()
            else:
                self._small.forget(entry)
            if entry.again:
                self.settle(number)
        for kept in (self._small, self._large):
            if len(kept.entries) > 2 * len(self.entries) + 64:
                kept.entries = deque(entry for entry in kept.entries if entry.id in self.entries)

    def settle(self, number: int) -> None:
        """See that a call is not begun any more."""
        self.settled[number] = None
        if len(self.settled) > MAX_SETTLED:
            del self.settled[next(iter(self.settled))]

    def running(self) -> list[Entry]:
        """Calls under way."""
        return [entry for entry in self.entries.values() if entry.task is not None]
