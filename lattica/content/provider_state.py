"""What the scheduler knows of one provider: what it owes, how fast it is, what it lacks."""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from lattica.content.fetch_regions import Region
from lattica.content.manifest_limits import MAX_CHUNK
from lattica.identity import PeerId

MIN_WINDOW = 2 << 20
"""Bytes that a provider may owe, however slow it is: two of the largest chunks, so that it always has one to send."""
INITIAL_WINDOW = 4 << 20
"""Bytes that a provider may owe before its rate is known."""
MAX_WINDOW = 16 << 20
"""Bytes that a provider may owe at most: 50 MB/s at a round trip of 300 ms, and any local network."""
WINDOW_S = 1.0
"""Seconds of a provider's work that it may owe. Well above any round trip, or a far provider could not speed up."""
RATE_MEMORY_S = 2.0
"""Time constant with which a provider's rate forgets."""
ASSUMED_S = 0.5
"""Seconds that a provider which has delivered nothing yet is expected to take for what it owes."""
STALL_MIN_S = 4.0
"""Seconds of silence after which a provider that owes chunks is overtaken, at least."""
STALL_MAX_S = 15.0
"""The same, at most; reached by a provider of less than 0.28 MB/s."""


class ProviderState:
    """One provider in the scheduler's books.

    Attributes:
        peer: Who it is.
        region: The chunks that it is asked for next.
        owed: Chunks asked of it and expected from it, in the order of the requests; true if it was proven by then.
        late: Chunks asked of it and no longer expected: overtaken, or delivered by another. They are still in flight.
        in_flight: Bytes of `owed` and `late`.
        offers: Chunks that came back from others and that it may have, oldest first.
        lacks: Chunks that it said it does not have.
        retries: When to ask for each of `lacks` again, soonest first.
        window: Bytes that it may have in flight.
        heard_at: When it last sent something or began to owe.
        stalled: Whether it has been silent for too long.
    """

    __slots__ = (
        "_bytes",
        "_measured_at",
        "_seconds",
        "heard_at",
        "in_flight",
        "lacks",
        "late",
        "offers",
        "owed",
        "peer",
        "region",
        "retries",
        "stalled",
        "window",
    )

    def __init__(self, peer: PeerId, region: Region, now: float) -> None:
        self.peer = peer
        self.region = region
        self.owed: dict[int, bool] = {}
        self.late: set[int] = set()
        self.in_flight = 0
        self.offers: OrderedDict[int, None] = OrderedDict()
        self.lacks: set[int] = set()
        self.retries: deque[tuple[float, int]] = deque()
        self.window = INITIAL_WINDOW
        self.heard_at = now
        self.stalled = False
        self._measured_at = now
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def outstanding(self) -> int:
        """How many chunks it has been asked for and has not answered."""
        return len(self.owed) + len(self.late)

    @property
    def is_proven(self) -> bool:
        """Whether it has delivered anything."""
        return self._seconds > 0

    @property
    def rate(self) -> float:
        """Bytes per second while it owed something, lately; 0 if it has delivered nothing."""
        return self._bytes / self._seconds if self._seconds > 0 else 0.0

    @property
    def stall_after(self) -> float:
        """Seconds of silence that mean a stall: four times what its largest chunk should take."""
        rate = self.rate
        expected = 4 * MAX_CHUNK / rate if rate > 0 else STALL_MIN_S
        return min(STALL_MAX_S, max(STALL_MIN_S, expected))

    def owes(self, chunk: int) -> bool:
        """Whether it has been asked for the chunk and has not answered."""
        return chunk in self.owed or chunk in self.late

    def ask(self, chunk: int, length: int, now: float) -> None:
        """Note a request."""
        if not self.in_flight:
            self.heard_at = now
            self._measured_at = now
        self.owed[chunk] = self.is_proven
        self.in_flight += length

    def answer(self, chunk: int, length: int) -> bool | None:
        """Note that a request is answered; the chunk's value in `owed`, or ``None`` if it was not expected any more."""
        was_proven = self.owed.pop(chunk, None)
        if was_proven is not None:
            self.in_flight -= length
        elif chunk in self.late:
            self.late.discard(chunk)
            self.in_flight -= length
        return was_proven

    def overtake(self) -> list[tuple[int, bool]]:
        """Expect nothing more; what was in `owed`."""
        chunks = list(self.owed.items())
        self.late.update(self.owed)
        self.owed.clear()
        return chunks

    def measure(self, length: int, now: float) -> None:
        """Take verified bytes into the rate and set the window by it."""
        elapsed = max(0.0, now - self._measured_at)
        self._measured_at = now
        keep = math.exp(-elapsed / RATE_MEMORY_S)
        self._bytes = self._bytes * keep + length
        self._seconds = self._seconds * keep + elapsed
        if self._seconds > 0:
            self.window = int(min(MAX_WINDOW, max(MIN_WINDOW, self.rate * WINDOW_S)))

    def expected_seconds(self, now: float) -> float:
        """How long until the last of its chunks should be here, and one chunk more.

        Who has been silent for a while is expected to stay silent as long again.
        """
        silence = now - self.heard_at if self.in_flight else 0.0
        rate = self.rate
        return silence + ((self.in_flight + MAX_CHUNK) / rate if rate > 0 else ASSUMED_S)
