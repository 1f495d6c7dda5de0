"""Callers and replicas in simulated time: who gets how many calls."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from lattica.identity import PeerId
from lattica.rpc.replicas import Outcome, ReplicaTable


@dataclass
class SimReplica:
    """A replica that runs some calls at once and queues the others.

    Attributes:
        seconds: Of one call.
        slots: Calls that it runs at once.
        dead: Whether calls to it fail, after `fail_after` seconds.
    """

    seconds: float
    slots: int = 1
    dead: bool = False
    fail_after: float = 0.05
    free_at: list[float] = field(default_factory=list)

    def serve(self, now: float) -> tuple[float, Outcome]:
        """When a call that comes now ends, and how."""
        if self.dead:
            return now + self.fail_after, Outcome.FAILED
        while len(self.free_at) < self.slots:
            self.free_at.append(0.0)
        begins = max(now, heapq.heappop(self.free_at))
        heapq.heappush(self.free_at, begins + self.seconds)
        return begins + self.seconds, Outcome.OK


class Simulation:
    """Callers that call again as soon as they are answered.

    Attributes:
        now: Simulated seconds.
        calls: Calls that each replica got.
    """

    def __init__(self, table: ReplicaTable, replicas: Mapping[PeerId, SimReplica], seed: int = 1) -> None:
        self.table = table
        self.replicas = dict(replicas)
        self.now = 0.0
        self.calls: Counter[PeerId] = Counter()
        self._rng = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, PeerId | None, float, Outcome]] = []

    def run(self, *, callers: int = 0, until: float) -> Counter[PeerId]:
        """Let time pass, with so many callers more; the calls that each replica got meanwhile."""
        before = self.calls.copy()
        for _ in range(callers):
            self._wait(self.now + self._rng.random() * 0.01, None, 0.0, Outcome.OK)
        while self._events and self._events[0][0] <= until:
            self.now, _, peer, started, outcome = heapq.heappop(self._events)
            if peer is not None:
                self.table.finished(peer, self.now, self.now - started, outcome)
            self._call()
        self.now = until
        return self.calls - before

    def _call(self) -> None:
        peer = self.table.choose(self.now)
        if peer is None:
            self._wait(self.now + 0.1, None, 0.0, Outcome.OK)
            return
        self.calls[peer] += 1
        self.table.started(peer)
        ends, outcome = self.replicas[peer].serve(self.now)
        self._wait(ends, peer, self.now, outcome)

    def _wait(self, until: float, peer: PeerId | None, started: float, outcome: Outcome) -> None:
        heapq.heappush(self._events, (until, next(self._order), peer, started, outcome))
