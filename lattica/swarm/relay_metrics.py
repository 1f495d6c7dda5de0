"""What a relay exports to Prometheus about circuits; bounded labels, never a peer ID."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from lattica.shared_gauge import SharedGauge
from lattica.swarm.relay_table import RelayCounters


class CircuitMetrics:
    """The metrics of all relays of a process.

    Args:
        registry: Where they are exported.

    Attributes:
        reservations: Peers with a reservation.
        circuits: Circuits that are open or being opened.
        granted: Reservations granted, renewals among them.
        opened: Circuits that were opened.
        bytes: Bytes that circuits carried, both directions.
        refused: Requests refused, by ``reason``: the protocol's status in lower case.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reservations = Gauge(
            "lattica_swarm_relay_reservations", "Peers with a reservation at our relay", registry=registry
        )
        self.circuits = Gauge(
            "lattica_swarm_relay_circuits", "Circuits that are open or being opened", registry=registry
        )
        self.granted = Counter(
            "lattica_swarm_relay_reservations_granted_total", "Reservations granted or renewed", registry=registry
        )
        self.opened = Counter(
            "lattica_swarm_relay_circuits_opened_total", "Circuits that were opened", registry=registry
        )
        self.bytes = Counter("lattica_swarm_relay_bytes_total", "Bytes that circuits carried", registry=registry)
        self.refused = Counter(
            "lattica_swarm_relay_refused_requests_total", "Requests to our relay", ("reason",), registry=registry
        )


METRICS = CircuitMetrics(REGISTRY)
"""Those of all nodes of this process, in prometheus_client's default registry."""


class CircuitAccount:
    """Tells the metrics what becomes of one relay's counters."""

    def __init__(self, counters: RelayCounters, metrics: CircuitMetrics = METRICS) -> None:
        self._counters = counters
        self._told = RelayCounters()
        self._metrics = metrics
        self._reservations = SharedGauge(metrics.reservations)
        self._circuits = SharedGauge(metrics.circuits)

    def carried(self, size: int) -> None:
        """So many bytes more have gone through a circuit."""
        self._counters.bytes_total += size
        self._metrics.bytes.inc(size)

    def tell(self) -> None:
        """To be called after whatever has changed the other counters."""
        now, before = self._counters.snapshot(), self._told
        self._told = now
        self._reservations.set(now.reservations)
        self._circuits.set(now.circuits)
        self._metrics.granted.inc(now.reservations_total - before.reservations_total)
        self._metrics.opened.inc(now.circuits_total - before.circuits_total)
        for reason, count in (now.refused_total - before.refused_total).items():
            self._metrics.refused.labels(reason).inc(count)
