"""What calls of services by name export to Prometheus; so many names of services are told apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

MAX_SERVICES = 100
"""Names with labels of their own; what is called by further ones is counted together. A program may make names of what
its users type."""
OTHER = "(other)"
"""The label of those; no service can have that name."""


class ServiceMetrics:
    """The metrics of services by name, of all nodes of the process.

    Args:
        registry: Where they are exported.

    Attributes:
        total: Calls that have ended, by ``service`` and ``outcome``, in the words of `lattica.rpc.outcomes`: one for
            each call of a stub, however many replicas it went to.
        moves: Times that a call went on to another replica, by ``service`` and ``reason``: how the attempt before it
            ended.
        hedges: Calls of which a second attempt was made beside the first, by ``service`` and ``answered_by``:
            ``first``, ``second``, ``nobody``.
        known: Replicas with a lease that holds, by ``service``, while the name is watched.
        healthy: Those of them that have answered us and whose breaker is closed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.total = Counter(
            "lattica_rpc_service_calls_total",
            "Calls by name that have ended",
            ("service", "outcome"),
            registry=registry,
        )
        self.moves = Counter(
            "lattica_rpc_service_moves_total", "Calls that went on to another replica", ("service", "reason"),
            registry=registry,
        )  # fmt: skip
        self.hedges = Counter(
            "lattica_rpc_service_hedges_total", "Calls of which a second attempt was made", ("service", "answered_by"),
            registry=registry,
        )  # fmt: skip
        self.known = Gauge(
            "lattica_rpc_service_replicas_known", "Replicas whose lease holds", ("service",), registry=registry
        )
        self.healthy = Gauge(
            "lattica_rpc_service_replicas_healthy", "Replicas that answer", ("service",), registry=registry
        )
        self._names: set[str] = set()
        self._lock = threading.Lock()  # nodes may run in several threads

    def of(self, name: str) -> ServiceCounts:
        """Those of one name, for one event loop."""
        with self._lock:
            if name not in self._names:
                if len(self._names) >= MAX_SERVICES:
                    return ServiceCounts(self, OTHER)
                self._names.add(name)
        return ServiceCounts(self, name)


class ServiceCounts:
    """Counts the calls of one name.

    Prometheus is told of all that end in one turn of the event loop at once: its counters cost more than the rest.
    """

    __slots__ = ("_ended", "_healthy", "_known", "_label", "_metrics", "_of_outcome")

    def __init__(self, metrics: ServiceMetrics, label: str) -> None:
        self._metrics = metrics
        self._label = label
        self._ended: dict[str, int] = {}
        self._of_outcome: dict[str, Callable[[float], None]] = {}
        self._known = self._healthy = 0

    def ended(self, outcome: str) -> None:
        """A call has ended."""
        ended = self._ended
        if not ended:
            asyncio.get_running_loop().call_soon(self._tell)
        ended[outcome] = ended.get(outcome, 0) + 1

    def _tell(self) -> None:
        ended, self._ended = self._ended, {}
        for outcome, n in ended.items():
            count = self._of_outcome.get(outcome)
            if count is None:
                count = self._of_outcome[outcome] = self._metrics.total.labels(self._label, outcome).inc
            count(n)

    def moved(self, reason: str) -> None:
        """A call goes on to another replica; ``reason`` is how the attempt before has ended."""
        self._metrics.moves.labels(self._label, reason).inc()

    def hedged(self, answered_by: str) -> None:
        """A call has ended of which two attempts were made; ``answered_by``: ``first``, ``second`` or ``nobody``."""
        self._metrics.hedges.labels(self._label, answered_by).inc()

    def replicas(self, *, known: int, healthy: int) -> None:
        """So many replicas there are now; those of other nodes of the process are added."""
        if known != self._known:
            self._metrics.known.labels(self._label).inc(known - self._known)
        if healthy != self._healthy:
            self._metrics.healthy.labels(self._label).inc(healthy - self._healthy)
        self._known, self._healthy = known, healthy
