"""Which chunk is asked of which provider next.

A pure machine: events and the time in, actions out; no clock, no I/O. Chunks are numbers, in the order of the files.
The ideas are BitTorrent's (Cohen, "Incentives build robustness in BitTorrent", 2003: request pipelining, end-game) with
work stealing in place of its random choice, as chunks of one tensor belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter

from lattica.content.fetch_regions import Regions
from lattica.content.provider_state import ProviderState
from lattica.content.provider_wire import MAX_IN_FLIGHT
from lattica.identity import PeerId

MAX_OUTSTANDING = MAX_IN_FLIGHT
"""Chunks that one provider may owe: what it accepts."""
MAX_IN_FLIGHT_BYTES = 64 << 20
"""Bytes that all providers together may owe: what a fetch takes in memory at worst."""
MAX_COPIES = 2
"""Providers that are expected to deliver the same chunk at a time. Proven ones may be as many besides unproven ones."""
RETRY_MISSING_S = 2.0
"""Seconds until a provider is asked again for a chunk that it did not have: it may be fetching it itself."""
DROP_SILENT_S = 20.0
"""Seconds of silence after which a provider that owes chunks is dropped; a chunk of 1 MiB at 0.4 Mbit/s."""
STUCK_S = 20.0
"""Seconds without a new chunk, and with none expected, after which the fetch is stuck."""
ENDGAME_GAIN_S = 0.05
"""Seconds that asking a second provider for a chunk must gain, at least."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask the provider for these chunks."""

    provider: PeerId
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overtake:
    """Nothing to do, but good to know: the provider is silent, others are asked for what it owes."""

    provider: PeerId


@dataclass(frozen=True, slots=True)
class Drop:
    """End the stream to the provider; the scheduler has forgotten it."""

    provider: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Every chunk is here. Said once."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """No new chunk came for a while and nobody is expected to send one. Said at each tick while it is so."""


Action = Request | Overtake | Drop | Finished | Stuck


class FetchScheduler:
    """Spreads the chunks of one fetch over its providers.

    Each provider has a window of bytes that follows its rate. A provider that is silent for some seconds is overtaken:
    others are asked for what it owes. When no chunk is left to ask for, idle providers are asked for what slower ones
    would deliver last; the first answer counts. A provider that lacks a chunk is asked for it again later.

    Every event costs O(1), amortised, apart from a few scans of the providers; in the end-game also of one window.

    Args:
        lengths: Bytes of each chunk; at most 1 MiB each.
        now: Seconds, monotonic, as for every event.
        start: Chunk to begin with. Fetchers that choose it at random have more to give each other.
        stuck_s: See `Stuck`.

    Attributes:
        remaining: How many chunks are still to come.
    """

    def __init__(self, lengths: Sequence[int], now: float, *, start: int = 0, stuck_s: float = STUCK_S) -> None:
        self.remaining = len(lengths)
        self._stuck_s = stuck_s
        self._lengths = lengths
        self._regions = Regions(len(lengths), start)
        self._done = bytearray(len(lengths))
        self._copies = bytearray(len(lengths))  # providers that owe the chunk
        self._proven_copies = bytearray(len(lengths))  # those of them that had delivered before
        self._returned: set[int] = set()  # asked before, owed by nobody
        self._providers: dict[PeerId, ProviderState] = {}
        self._hungry: set[PeerId] = set()  # found nothing to be asked for
        self._banned: set[PeerId] = set()
        self._expected = 0  # requests that count: the sum of `_copies`
        self._in_flight = 0
        self._progress_at = now

    # State, for the driver and for tests

    def is_needed(self, chunk: int) -> bool:
        """Whether the chunk is still to come; if not, an answer that carries it need not be looked at."""
        return not self._done[chunk]

    @property
    def expects_nothing(self) -> bool:
        """Whether no provider is expected to deliver anything: there is none, or they are silent or lack the rest."""
        return not self._expected

    def is_banned(self, peer: PeerId) -> bool:
        """Whether the provider is not to be used again."""
        return peer in self._banned

    # Events

    def provider_added(self, peer: PeerId, now: float) -> list[Action]:
        """Use a provider, unless it is banned."""
        if peer in self._providers or peer in self._banned:
            return []
        provider = ProviderState(peer, self._regions.join(), now)
        provider.offers.update(dict.fromkeys(sorted(self._returned)))
        self._providers[peer] = provider
        return self._feed([provider], now)

    def provider_failed(self, peer: PeerId, now: float) -> list[Action]:
        """Forget a provider; it may be added again."""
        self._remove(peer)
        return self._feed_hungry(now)

    def provider_banned(self, peer: PeerId, reason: str, now: float) -> list[Action]:
        """Drop a provider for good: it sent wrong bytes or broke the protocol."""
        self._banned.add(peer)
        if peer not in self._providers:
            return []
        self._remove(peer)
        return [Drop(peer, reason), *self._feed_hungry(now)]

    def heard(self, peer: PeerId, now: float) -> None:
        """Note that a provider has sent something that is still to be verified."""
        provider = self._providers.get(peer)
        if provider is not None:
            provider.heard_at = now
            provider.stalled = False

    def chunks_received(self, peer: PeerId, chunks: Iterable[int], now: float) -> list[Action]:
        """Take chunks that are verified and written, or that came when they were no longer needed."""
        self.heard(peer, now)
        provider = self._providers.get(peer)
        total = 0
        was_unfinished = self.remaining > 0
        for chunk in chunks:
            total += self._lengths[chunk]
            if provider is not None:
                self._answered(provider, chunk)
            if not self._done[chunk]:
                self._complete(chunk)
                self._progress_at = now
        if not self.remaining:
            return [Finished()] if was_unfinished else []
        if provider is None:
            return []
        provider.measure(total, now)
        return self._feed([provider], now)

    def chunks_missing(self, peer: PeerId, chunks: Iterable[int], now: float) -> list[Action]:
        """Note that a provider does not have some chunks."""
        self.heard(peer, now)
        provider = self._providers.get(peer)
        if provider is None or not self.remaining:
            return []
        for chunk in chunks:
            if not provider.owes(chunk):
                continue
            is_free = self._answered(provider, chunk)
            if not self._done[chunk]:
                provider.lacks.add(chunk)
                provider.retries.append((now + RETRY_MISSING_S, chunk))
            if is_free:
                self._give_back(chunk)
        self._hungry.add(peer)
        return self._feed_hungry(now)

    def tick(self, now: float) -> list[Action]:
        """Look for stalls, retries that are due, and a fetch that is stuck; to be called a few times a second."""
        if not self.remaining:
            return []
        actions: list[Action] = []
        for provider in list(self._providers.values()):
            silence = now - provider.heard_at if provider.in_flight else 0.0
            if silence >= DROP_SILENT_S:
                self._remove(provider.peer)
                actions.append(Drop(provider.peer, f"silent for {silence:.0f} s"))
            elif silence >= provider.stall_after and not provider.stalled:
                self._overtake(provider)
                actions.append(Overtake(provider.peer))
        actions += self._feed(self._providers.values(), now)
        if not self._expected and now - self._progress_at >= self._stuck_s:
            actions.append(Stuck())
        return actions

    # Books

    def _answered(self, provider: ProviderState, chunk: int) -> bool:
        """Take an answer off a provider's books; whether nobody else is expected to deliver the chunk."""
        before = provider.in_flight
        was_proven = provider.answer(chunk, self._lengths[chunk])
        self._in_flight -= before - provider.in_flight
        return was_proven is not None and self._uncount(chunk, was_proven)

    def _uncount(self, chunk: int, was_proven: bool) -> bool:
        """Expect a chunk of one provider less; whether nobody else is expected to deliver it."""
        self._expected -= 1
        self._copies[chunk] -= 1
        self._proven_copies[chunk] -= was_proven
        return not self._copies[chunk]

    def _complete(self, chunk: int) -> None:
        self._done[chunk] = 1
        self.remaining -= 1
        self._returned.discard(chunk)
        if self._copies[chunk]:
            for other in self._providers.values():
                if chunk in other.owed:
                    del other.owed[chunk]
                    other.late.add(chunk)
            self._expected -= self._copies[chunk]
            self._copies[chunk] = 0

    def _give_back(self, chunk: int) -> None:
        """Offer a chunk that nobody is expected to deliver to all who may have it."""
        self._returned.add(chunk)
        for provider in self._providers.values():
            if chunk not in provider.lacks and chunk not in provider.late:
                provider.offers[chunk] = None

    def _overtake(self, provider: ProviderState) -> None:
        provider.stalled = True
        self._hungry.discard(provider.peer)
        for chunk, was_proven in provider.overtake():
            if self._uncount(chunk, was_proven):
                self._give_back(chunk)

    def _remove(self, peer: PeerId) -> None:
        provider = self._providers.pop(peer, None)
        if provider is None:
            return
        self._overtake(provider)
        self._in_flight -= provider.in_flight
        self._regions.leave(provider.region)

    # Choice

    def _feed_hungry(self, now: float) -> list[Action]:
        return self._feed([self._providers[peer] for peer in self._hungry], now) if self._hungry else []

    def _feed(self, providers: Iterable[ProviderState], now: float) -> list[Action]:
        """Fill the windows of some providers, the fastest first."""
        actions: list[Action] = []
        for provider in sorted(providers, key=attrgetter("rate"), reverse=True):
            chunks = self._choose(provider, now)
            if chunks:
                actions.append(Request(provider.peer, tuple(chunks)))
        return actions

    def _choose(self, provider: ProviderState, now: float) -> list[int]:
        """Fill a provider's window, once a quarter of it is free: a message for one chunk costs as much as for many."""
        chunks: list[int] = []
        window = min(provider.window, MAX_IN_FLIGHT_BYTES // len(self._providers))
        if provider.stalled or provider.in_flight > window * 3 // 4 or provider.outstanding > MAX_OUTSTANDING * 3 // 4:
            return chunks
        self._revive(provider, now)
        while provider.outstanding < MAX_OUTSTANDING:
            chunk = self._next(provider, now)
            if chunk is None:
                self._hungry.add(provider.peer)
                return chunks
            length = self._lengths[chunk]
            if provider.in_flight + length > window or self._in_flight + length > MAX_IN_FLIGHT_BYTES:
                break
            self._ask(provider, chunk, now)
            chunks.append(chunk)
        self._hungry.discard(provider.peer)
        return chunks

    def _ask(self, provider: ProviderState, chunk: int, now: float) -> None:
        """Note a request for the chunk that `_next` named."""
        if chunk in self._returned:
            self._returned.discard(chunk)
            provider.offers.pop(chunk, None)
        elif not self._copies[chunk]:
            self._regions.take(provider.region)
        provider.ask(chunk, self._lengths[chunk], now)
        self._in_flight += self._lengths[chunk]
        self._expected += 1
        self._copies[chunk] += 1
        self._proven_copies[chunk] += provider.is_proven

    def _revive(self, provider: ProviderState, now: float) -> None:
        """Offer again what the provider lacked a while ago."""
        while provider.retries and provider.retries[0][0] <= now:
            _, chunk = provider.retries.popleft()
            provider.lacks.discard(chunk)
            if chunk in self._returned and chunk not in provider.late:
                provider.offers[chunk] = None

    def _next(self, provider: ProviderState, now: float) -> int | None:
        """The chunk to ask for next: one that came back, else the next of its region, else a slower provider's."""
        offers = provider.offers
        while offers:
            chunk = next(iter(offers))
            if chunk in self._returned:
                return chunk
            del offers[chunk]
        if provider.region or self._regions.fill(provider.region):
            return provider.region.low
        return self._slower_ones_last(provider, now)

    def _slower_ones_last(self, provider: ProviderState, now: float) -> int | None:
        """A chunk that a slower provider would deliver last, if `provider` should have it in half the time."""
        ours = provider.expected_seconds(now)
        others = ((other.expected_seconds(now), other) for other in self._providers.values() if other.owed)
        slower = [(theirs, other) for theirs, other in others if theirs > 2 * ours + ENDGAME_GAIN_S]
        for _, other in sorted(slower, key=itemgetter(0), reverse=True):
            # A new provider has to prove itself by a chunk, however many silent ones are expected to deliver that.
            is_test = not (provider.is_proven or provider.in_flight or other.is_proven)
            copies = self._proven_copies if provider.is_proven else self._copies
            for chunk in reversed(other.owed):
                is_free = is_test or copies[chunk] < MAX_COPIES
                if is_free and not provider.owes(chunk) and chunk not in provider.lacks:
                    return chunk
        return None
