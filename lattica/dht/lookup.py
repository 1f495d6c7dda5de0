"""The iterative lookup: who is nearest to a key, found by asking ever nearer peers.

A pure machine: events in, `Query` actions out; no clock, no I/O. Source: Maymounkov and Mazières, Kademlia (2002), 2.3,
and https://github.com/libp2p/specs/blob/master/kad-dht/README.md#peer-routing.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice, zip_longest

from lattica.dht.keyspace import Key, key_of
from lattica.dht.limits import (
    ALPHA,
    MAX_ATTEMPTS_PER_PEER,
    MAX_FAILED_REFERRALS,
    MAX_LOOKUP_CANDIDATES,
    MAX_LOOKUP_QUERIES,
    MAX_STALLED,
    K,
)
from lattica.dht.messages import bounded_addresses
from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId


@dataclass(frozen=True, slots=True)
class Query:
    """Ask this peer, then report `Lookup.response` or `Lookup.failure`, and `Lookup.timeout` if it is slow.

    Attributes:
        peer: Whom to ask.
        round: How many requests in a row led to it: 1 for a peer of our own table.
    """

    peer: PeerInfo
    round: int


class _State(Enum):
    HEARD = auto()
    PAUSED = auto()  # failed lately: asked only if nobody else is left
    WAITING = auto()
    STALLED = auto()
    ANSWERED = auto()
    FAILED = auto()
    IGNORED = auto()  # named only by peers whose other referrals failed


_UNASKED = frozenset((_State.HEARD, _State.PAUSED, _State.IGNORED))
_RELEVANT = frozenset((_State.HEARD, _State.WAITING, _State.ANSWERED))


@dataclass(slots=True, order=True)
class _Candidate:
    distance: int
    peer: PeerInfo = field(compare=False)
    round: int = field(compare=False)
    state: _State = field(compare=False)
    attempts: int = field(compare=False, default=0)
    referrers: set[PeerId] = field(compare=False, default_factory=set)

    @property
    def may_retry(self) -> bool:
        """Whether it failed, and perhaps only because of the addresses that it was tried at."""
        return self.state is _State.FAILED and self.attempts < MAX_ATTEMPTS_PER_PEER


@dataclass(slots=True)
class _Referrals:
    """How the peers that one responder named turned out."""

    answered: int = 0
    failed: int = 0

    @property
    def discredited(self) -> bool:
        return self.failed >= MAX_FAILED_REFERRALS and self.failed >= 4 * self.answered


class Lookup:
    """One search for the `k` peers nearest to a key.

    It ends when the `beta` nearest peers that have not failed have answered, or nobody is left to ask (spec), or after
    `max_queries`. A slow peer stops holding one of the `alpha` places and counts again if it answers after all
    (paper); if it is the one that is looked for, nobody waits for it.

    What a hostile responder can do is bounded: of each response the `k` nearest peers count, candidates and queries
    have a limit, and peers named only by responders whose referrals do not answer are ignored.

    Attributes:
        target: The key looked for.
        rounds: How many requests in a row the longest chain of answers took.
        queries: How many requests there were.
        failures: The peers that failed, and why.
        done: Whether the search is over; events are ignored from then on.
    """

    def __init__(
        self,
        target: Key,
        seeds: Iterable[PeerInfo],
        *,
        local: PeerId,
        k: int = K,
        alpha: int = ALPHA,
        beta: int = K,
        max_queries: int = MAX_LOOKUP_QUERIES,
        is_paused: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self.target = target
        self.rounds = 0
        self.queries = 0
        self.failures: dict[PeerId, str] = {}
        self.done = False
        self._local = local
        self._k, self._alpha, self._beta, self._max_queries = k, alpha, beta, max_queries
        self._is_paused = is_paused
        self._candidates: dict[PeerId, _Candidate] = {}
        self._by_distance: list[_Candidate] = []
        self._count: Counter[_State] = Counter()
        self._referrals: dict[PeerId, _Referrals] = {}
        for seed in seeds:
            self._hear(seed, 1, None)

    def start(self) -> list[Query]:
        """The first queries; none if there is nobody to ask, and then the lookup is done."""
        return self._next()

    def response(self, peer_id: PeerId, closer: Iterable[PeerInfo]) -> list[Query]:
        """Take the peers that `peer_id` named; returns whom to ask next."""
        candidate = self._awaited(peer_id)
        if candidate is None:
            return []
        self._move(candidate, _State.ANSWERED)
        self.rounds = max(self.rounds, candidate.round)
        for referrer in candidate.referrers:
            self._referrals[referrer].answered += 1
        named = {peer.peer_id: peer for peer in closer if peer.addresses and peer.peer_id != self._local}
        nearest = sorted(named.values(), key=lambda peer: key_of(peer.peer_id.raw) ^ self.target)
        for peer in nearest[: self._k]:
            self._hear(peer, candidate.round + 1, peer_id)
        return self._next()

    def failure(self, peer_id: PeerId, reason: str) -> list[Query]:
        """Note that `peer_id` cannot be reached or answered nonsense; returns whom to ask next."""
        candidate = self._awaited(peer_id)
        if candidate is None:
            return []
        self._move(candidate, _State.FAILED)
        self.failures[peer_id] = reason
        for referrer in candidate.referrers:
            self._referrals[referrer].failed += 1
        if any(self._referrals[referrer].discredited for referrer in candidate.referrers):
            self._ignore_discredited()
        return self._next()

    def timeout(self, peer_id: PeerId) -> list[Query]:
        """Note that `peer_id` is slow: others get its place, its answer still counts; returns whom to ask next."""
        candidate = self._candidates.get(peer_id)
        if self.done or candidate is None or candidate.state is not _State.WAITING:
            return []
        self._move(candidate, _State.STALLED)
        return self._next()

    def stop(self) -> None:
        """End the search with what it has."""
        self.done = True

    def closest(self) -> list[PeerInfo]:
        """The `k` nearest peers that answered, nearest first."""
        answered = (c.peer for c in self._by_distance if c.state is _State.ANSWERED)
        return list(islice(answered, self._k))

    def _awaited(self, peer_id: PeerId) -> _Candidate | None:
        candidate = self._candidates.get(peer_id)
        if self.done or candidate is None or candidate.state not in (_State.WAITING, _State.STALLED):
            return None
        return candidate

    def _hear(self, peer: PeerInfo, round_: int, referrer: PeerId | None) -> None:
        if peer.peer_id == self._local:
            return
        candidate = self._candidates.get(peer.peer_id)
        if candidate is None:
            candidate = self._add(peer, round_)
        else:
            candidate.round = min(candidate.round, round_)
            is_news = not set(peer.addresses).issubset(candidate.peer.addresses)
            if is_news and (candidate.state in _UNASKED or candidate.may_retry):
                candidate.peer = _merged(candidate.peer, peer)
            if candidate.state is _State.IGNORED or (is_news and candidate.may_retry):
                self._move(candidate, _State.HEARD)
                self.failures.pop(peer.peer_id, None)
        if referrer is not None:
            candidate.referrers.add(referrer)
            self._referrals.setdefault(referrer, _Referrals())

    def _add(self, peer: PeerInfo, round_: int) -> _Candidate:
        key = key_of(peer.peer_id.raw)
        paused = key != self.target and self._is_paused(peer.peer_id)
        candidate = _Candidate(key ^ self.target, peer, round_, _State.PAUSED if paused else _State.HEARD)
        self._candidates[peer.peer_id] = candidate
        self._count[candidate.state] += 1
        insort(self._by_distance, candidate)
        farthest = self._by_distance[-1]
        if len(self._by_distance) > MAX_LOOKUP_CANDIDATES and farthest.state in (_State.HEARD, _State.PAUSED):
            self._by_distance.pop()
            self._count[farthest.state] -= 1
            del self._candidates[farthest.peer.peer_id]
        return candidate

    def _move(self, candidate: _Candidate, state: _State) -> None:
        self._count[candidate.state] -= 1
        self._count[state] += 1
        candidate.state = state

    def _ignore_discredited(self) -> None:
        discredited = {referrer for referrer, referrals in self._referrals.items() if referrals.discredited}
        for candidate in self._by_distance:
            if candidate.state is _State.HEARD and candidate.referrers and candidate.referrers <= discredited:
                self._move(candidate, _State.IGNORED)

    def _next(self) -> list[Query]:
        """Fill the free places, nearest first; settle whether the search is over."""
        queries: list[Query] = []
        while not self._is_over() and self._has_place():
            candidate = self._nearest_to_ask()
            if candidate is None:
                break
            self._move(candidate, _State.WAITING)
            candidate.attempts += 1
            self.queries += 1
            queries.append(Query(candidate.peer, candidate.round))
        self.done = self.done or self._is_over()
        return queries

    def _sought_is_stalled(self) -> bool:
        """Whether the peer that is looked for itself does not answer: mostly it has moved, and others know where to."""
        nearest = next(iter(self._by_distance), None)
        return nearest is not None and nearest.distance == 0 and nearest.state is _State.STALLED

    def _has_place(self) -> bool:
        waiting = self._count[_State.WAITING]
        return waiting < self._alpha and waiting + self._count[_State.STALLED] < self._alpha + MAX_STALLED

    def _nearest_to_ask(self) -> _Candidate | None:
        if self.queries >= self._max_queries:
            return None
        wanted = _State.HEARD
        if not (self._count[_State.HEARD] or self._count[_State.WAITING] or self._count[_State.ANSWERED]):
            wanted = _State.PAUSED
        if not self._count[wanted]:
            return None
        return next(candidate for candidate in self._by_distance if candidate.state is wanted)

    def _is_over(self) -> bool:
        nearest = list(islice((c for c in self._by_distance if c.state in _RELEVANT), self._beta))
        if len(nearest) == self._beta and all(c.state is _State.ANSWERED for c in nearest):
            return True
        under_way = self._count[_State.WAITING] + self._count[_State.STALLED] - self._sought_is_stalled()
        return not under_way and self._nearest_to_ask() is None


def _merged(known: PeerInfo, named: PeerInfo) -> PeerInfo:
    """One responder may name wrong addresses; taking turns, they cannot crowd out the right ones of another."""
    both = zip_longest(named.addresses, known.addresses, fillvalue=b"")
    return PeerInfo(known.peer_id, bounded_addresses(address for pair in both for address in pair))
