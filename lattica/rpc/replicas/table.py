"""Which replica of a name the next call goes to. Pure: `now` in, randomness injected.

Without a key: the better of two at random, by expected wait (Mitzenmacher, The Power of Two Choices in Randomized Load
Balancing, 2001). With a key: rendezvous hashing (Thaler and Ravishankar, 1998), weighted by capacity, so that all
callers agree on a key's replica without talking, and only those keys move whose replica comes or goes.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lattica.identity import PeerId
from lattica.rpc.replicas.book import Admission, RecordBook
from lattica.rpc.replicas.limits import MAX_REPLICAS, MAX_STICKY_CACHED
from lattica.rpc.replicas.record import ServiceRecord
from lattica.rpc.replicas.replica import Outcome, Replica

_MAX_CACHED_KEY = 256
"""Bytes of a key whose replica is remembered."""
_REBUILD_S = 1.0
"""Seconds after which what choices are made from is computed anew, whatever has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica, to be shown.

    Attributes:
        peer_id: Who.
        state: ``closed`` (it is called), ``open`` (left alone), ``half-open`` (being tried).
        is_confirmed: Whether it has answered us itself; else others told of it.
        expires_in: Seconds that its record still holds.
        in_flight: Calls of ours under way.
        latency: Average seconds of a call; ``None`` before the first.
        capacity: Calls that it runs at once, it says.
        load: Calls of others there, it says.
    """

    peer_id: PeerId
    state: str
    is_confirmed: bool
    expires_in: float
    in_flight: int
    latency: float | None
    capacity: int
    load: float


class ReplicaTable:
    """The replicas of one name: their records, their health, and the choice among them.

    Args:
        name: The service's.
        local: Ourselves; never chosen.
        rng: Source of choices and jitter.
    """

    def __init__(self, name: str, local: PeerId, rng: random.Random, *, max_replicas: int = MAX_REPLICAS) -> None:
        self.book = RecordBook(name, local, max_replicas=max_replicas)
        self._rng = rng
        self._replicas: dict[PeerId, Replica] = {}
        self._tiers: tuple[list[Replica], list[Replica]] = ([], [])  # called: those confirmed; those heard of
        self._prior: float | None = None  # the best latency of all, which new replicas are assumed to have
        self._stale_at = float("-inf")
        self._homes: dict[bytes, Replica] = {}
        self._homes_of: list[tuple[PeerId, int]] = []

    def __len__(self) -> int:
        return len(self._replicas)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._replicas

    @property
    def healthy(self) -> int:
        """Replicas that have answered us and are called."""
        return sum(one.is_confirmed and one.breaker.is_closed for one in self._replicas.values())

    # Records

    def admit_own(self, record: ServiceRecord, asked_at: float) -> Admission:
        """Take a record from the replica itself; see `RecordBook`."""
        return self._admitted(record, self.book.admit_own(record, asked_at))

    def admit_hearsay(
        self, record: ServiceRecord, source: PeerId, *, remaining: float, now: float, wall: float
    ) -> Admission:
        """Take a record that somebody passes on; see `RecordBook`."""
        admission = self.book.admit_hearsay(record, source, remaining=remaining, now=now, wall=wall)
        return self._admitted(record, admission)

    def drop(self, peer: PeerId) -> None:
        """Forget a replica: it says that it does not offer the name."""
        self.book.drop(peer)
        if self._replicas.pop(peer, None) is not None:
            self._stale_at = float("-inf")

    def expire(self, now: float) -> bool:
        """Drop replicas whose lease is over; whether there were any."""
        gone = self.book.expire(now)
        for peer in gone:
            del self._replicas[peer]
            self._stale_at = float("-inf")
        return bool(gone)

    def _admitted(self, record: ServiceRecord, admission: Admission) -> Admission:
        if not admission.is_news:
            return admission
        self._stale_at = float("-inf")
        entry = self.book.get(record.peer_id)
        if entry is None:
            self._replicas.pop(record.peer_id, None)
            return admission
        replica = self._replicas.get(record.peer_id)
        if replica is None:
            replica = self._replicas[record.peer_id] = Replica.of(record.peer_id, self._rng)
            if len(self._replicas) > len(self.book):  # the book made room
                self._replicas = {peer: one for peer, one in self._replicas.items() if self.book.get(peer)}
        replica.capacity, replica.is_confirmed = record.capacity, entry.is_confirmed
        replica.reported(record.load)
        return admission

    # Choosing

    def choose(self, now: float, *, key: str | bytes | None = None, exclude: Collection[PeerId] = ()) -> PeerId | None:
        """The replica for the next call; ``None`` if there is none that may be called now.

        Replicas that others told of are chosen only when none that has answered us is there, and one that failed when
        nobody else is: if it is due for a probe, this call is the probe.

        Args:
            now: Monotonic seconds.
            key: Calls with the same key go to the same replica while it is healthy.
            exclude: Not these: the call has been there.
        """
        if now >= self._stale_at:
            self._rebuild(now)
        for tier in self._tiers:
            pool = [one for one in tier if one.peer_id not in exclude] if exclude else tier
            if pool:
                chosen = self._better_of_two(pool, now) if key is None else self._home(key, pool, cached=pool is tier)
                return chosen.peer_id
        return self._last_resort(now, exclude)

    def started(self, peer: PeerId) -> None:
        """A call goes to a replica."""
        if (replica := self._replicas.get(peer)) is not None:
            replica.in_flight += 1

    def finished(self, peer: PeerId, now: float, seconds: float | None, outcome: Outcome) -> None:
        """A call that `started` has ended, after ``seconds``; ``None`` if they do not tell how fast the replica is."""
        replica = self._replicas.get(peer)
        if replica is None:
            return
        replica.in_flight = max(0, replica.in_flight - 1)  # it may have left and come back meanwhile
        self._judged(replica, now, seconds, outcome)
        if outcome is Outcome.OK and seconds is not None:
            self._prior = seconds if self._prior is None else min(self._prior, seconds)

    def reported_load(self, peer: PeerId, load: float) -> None:
        """A replica said, by whatever way, how many calls run or wait there."""
        if (replica := self._replicas.get(peer)) is not None:
            replica.reported(load)

    def _judged(self, replica: Replica, now: float, seconds: float | None, outcome: Outcome) -> None:
        was_closed = replica.breaker.is_closed
        replica.ended(now, seconds, outcome)
        if replica.breaker.is_closed is not was_closed:
            self._stale_at = float("-inf")

    def _rebuild(self, now: float) -> None:
        self.expire(now)
        well = [one for one in self._replicas.values() if one.breaker.is_closed]
        self._tiers = ([one for one in well if one.is_confirmed], [one for one in well if not one.is_confirmed])
        latencies = [latency for one in well if (latency := one.current_latency(now)) is not None]
        self._prior = min(latencies, default=None)
        expiry = self.book.next_expiry()
        self._stale_at = min(now + _REBUILD_S, now + _REBUILD_S if expiry is None else expiry)
        homes_of = [(one.peer_id, one.capacity) for one in self._tiers[0] or self._tiers[1]]
        if homes_of != self._homes_of:
            self._homes_of = homes_of
            self._homes.clear()

    def _better_of_two(self, pool: Sequence[Replica], now: float) -> Replica:
        chosen = self._draw(pool, now)
        if chosen.busy_until > now:
            idle = [one for one in pool if one.busy_until <= now]
            return self._draw(idle, now) if idle else chosen
        return chosen

    def _draw(self, pool: Sequence[Replica], now: float) -> Replica:
        if len(pool) == 1:
            return pool[0]
        first = int(self._rng.random() * len(pool))
        second = int(self._rng.random() * (len(pool) - 1))
        one, other = pool[first], pool[second + (second >= first)]
        if (one.busy_until > now) is not (other.busy_until > now):
            return other if one.busy_until > now else one
        prior = 1.0 if self._prior is None else self._prior
        return one if one.expected_wait(now, prior) <= other.expected_wait(now, prior) else other

    def _home(self, key: str | bytes, pool: Sequence[Replica], *, cached: bool) -> Replica:
        raw = key.encode() if isinstance(key, str) else key
        home = self._homes.get(raw) if cached else None
        if home is None:
            home = max(pool, key=lambda one: _rank(raw, one))
            if cached and len(raw) <= _MAX_CACHED_KEY:
                if len(self._homes) >= MAX_STICKY_CACHED:
                    self._homes.clear()
                self._homes[raw] = home
        return home

    def is_available(self, now: float, exclude: Collection[PeerId] = ()) -> bool:
        """Whether `choose` would choose."""
        return any(
            entry.expires_at > now and one.breaker.can_try(now)
            for entry in self.book
            if (one := self._replicas[entry.record.peer_id]).peer_id not in exclude
        )

    def _last_resort(self, now: float, exclude: Collection[PeerId]) -> PeerId | None:
        due = [
            one
            for one in self._replicas.values()
            if not one.breaker.is_closed and one.peer_id not in exclude and one.breaker.can_try(now)
        ]
        if not due:
            return None
        longest = min(due, key=lambda one: one.breaker.failures)
        longest.breaker.try_call(now)
        return longest.peer_id

    # Probes: whether a replica that failed is back, without risking a call

    def due_probes(self, now: float) -> list[PeerId]:
        """Replicas whose pause is over and that nobody tries yet."""
        return [
            one.peer_id
            for one in self._replicas.values()
            if not one.breaker.is_closed and one.breaker.can_try(now)
        ]  # fmt: skip

    def next_probe(self) -> float | None:
        """When the next pause of a replica that failed is over, or was."""
        return min((at for one in self._replicas.values() if (at := one.breaker.retry_at) is not None), default=None)

    def probing(self, peer: PeerId, now: float) -> None:
        """A replica is being asked: if it failed, that is its probe."""
        if (replica := self._replicas.get(peer)) is not None:
            replica.breaker.try_call(now)

    def probed(self, peer: PeerId, now: float, *, answered: bool) -> None:
        """Whether a replica that was asked has answered."""
        if (replica := self._replicas.get(peer)) is not None:
            was_closed = replica.breaker.is_closed
            if answered:
                replica.breaker.succeeded()
            else:
                replica.breaker.failed(now)
            if replica.breaker.is_closed is not was_closed:
                self._stale_at = float("-inf")

    def status(self, now: float) -> list[ReplicaStatus]:
        """All replicas, to be shown."""
        return [
            ReplicaStatus(
                peer_id=entry.record.peer_id,
                state=replica.breaker.state(now).value,
                is_confirmed=entry.is_confirmed,
                expires_in=max(0.0, entry.expires_at - now),
                in_flight=replica.in_flight,
                latency=replica.latency,
                capacity=replica.capacity,
                load=replica.foreign_load,
            )
            for entry in self.book
            if (replica := self._replicas.get(entry.record.peer_id)) is not None
        ]


def _rank(key: bytes, replica: Replica) -> float:
    digest = hashlib.blake2b(key, digest_size=8, key=replica.peer_id.raw).digest()
    uniform = (int.from_bytes(digest) + 1) / (1 << 64)  # above 0, at most 1
    return -replica.capacity / math.log(uniform) if uniform < 1 else math.inf
