"""What is known of one replica's health and speed. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from enum import Enum

from lattica.identity import PeerId
from lattica.rpc.breaker import Breaker
from lattica.rpc.replicas.limits import BUSY_PAUSE_S, LATENCY_GRACE_S, LATENCY_HALF_LIFE_S, LATENCY_WEIGHT


class Outcome(Enum):
    """How a call ended, as far as it tells of the replica."""

    OK = "ok"
    """It answered."""
    REFUSED = "refused"
    """It is busy, and said so without doing anything."""
    FAILED = "failed"
    """It could not be reached, was lost, or does not serve what it offers."""
    ERROR = "error"
    """The handler raised: the replica is well."""
    ABANDONED = "abandoned"
    """Its caller gave up, or its deadline passed: no evidence, but that it took so long."""


@dataclass(slots=True, kw_only=True)
class Replica:
    """One replica as its callers see it.

    Attributes:
        peer_id: Who.
        breaker: Whether to call it.
        capacity: Calls that it runs at once.
        is_confirmed: Whether it has answered us itself.
        foreign_load: Calls of others that run or wait there, when it last said so.
        in_flight: Calls of ours under way.
        latency: Average seconds of a call; ``None`` before the first.
        measured_at: When `latency` was last fed.
        busy_until: Not to be chosen before, if there is another.
    """

    peer_id: PeerId
    breaker: Breaker
    capacity: int = 1
    is_confirmed: bool = False
    foreign_load: float = 0.0
    in_flight: int = 0
    latency: float | None = None
    measured_at: float = field(default=0.0)
    busy_until: float = field(default=float("-inf"))

    @classmethod
    def of(cls, peer: PeerId, rng: random.Random) -> Replica:
        """A replica of which nothing is known."""
        return cls(peer_id=peer, breaker=Breaker(rng))

    def reported(self, load: float) -> None:
        """It says how many calls run or wait there; ours among them, which we count ourselves."""
        self.foreign_load = max(0.0, load - self.in_flight)

    def current_latency(self, now: float) -> float | None:
        """The average, less the longer there was no call: what was slow once is tried again."""
        if self.latency is None:
            return None
        idle = now - self.measured_at - LATENCY_GRACE_S
        if self.in_flight or idle <= 0:
            return self.latency
        return self.latency * math.pow(0.5, min(idle / LATENCY_HALF_LIFE_S, 60.0))

    def expected_wait(self, now: float, prior: float) -> float:
        """Seconds that a call would take now; ``prior`` stands for a latency that is not known."""
        latency = self.current_latency(now)
        ahead = (self.in_flight + 1 + self.foreign_load) / self.capacity
        return ahead * (prior if latency is None else latency)

    def ended(self, now: float, seconds: float | None, outcome: Outcome) -> None:
        """A call of ours has ended after ``seconds``; ``None`` if they do not tell how fast it is."""
        match outcome:
            case Outcome.OK:
                self._measured(now, seconds)
                self.breaker.succeeded()
            case Outcome.ERROR:
                self._took_at_least(now, seconds)  # failing fast must not make it attractive
                self.breaker.succeeded()
            case Outcome.REFUSED:
                self.busy_until = now + BUSY_PAUSE_S
                self.breaker.succeeded()
            case Outcome.FAILED:
                self.breaker.failed(now)
            case Outcome.ABANDONED:
                self._took_at_least(now, seconds)
                self.breaker.abandoned()

    def _measured(self, now: float, seconds: float | None) -> None:
        if seconds is None:
            return
        if self.latency is None:
            self.latency = seconds
        else:
            weight, idle = LATENCY_WEIGHT, now - self.measured_at
            if idle > LATENCY_GRACE_S:
                weight = max(weight, 1 - 0.5 ** (idle / LATENCY_HALF_LIFE_S))
            self.latency += weight * (seconds - self.latency)
        self.measured_at = now

    def _took_at_least(self, now: float, seconds: float | None) -> None:
        if self.latency is not None and seconds is not None and seconds > self.latency:
            self._measured(now, seconds)
