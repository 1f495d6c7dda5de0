"""What relays and their clients export to Prometheus; bounded labels, never a peer ID."""

from __future__ import annotations

from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class RelayMetrics:
    """The metrics of the relays of a process, as far as they join sockets; circuits are counted in `lattica.swarm`.

    Args:
        registry: Where they are exported; without one they are counted but not exported.

    Attributes:
        leases: Requests for a lease, by ``outcome``: granted, refused, malformed.
        held_leases: Leases given out and not over yet.
        prefaces: Connections to its port, by ``kind`` (dial, accept) and ``outcome``: joined, client_left, malformed,
            or the status that was answered (`RelayStatus`), in lower case.
        pipes: Pipes that are joined.
        waiting: Clients that wait for their target.
        bytes: Bytes of pipes that have ended, by ``direction``: to_target, to_client.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = registry if registry is not None else CollectorRegistry()
        self.leases = Counter(
            "lattica_mesh_relay_lease_requests_total", "Requests for a lease", ("outcome",), registry=where
        )
        self.held_leases = Gauge("lattica_mesh_relay_leases", "Leases given out and not over yet", registry=where)
        self.prefaces = Counter(
            "lattica_mesh_relay_prefaces_total", "Connections to the relay", ("kind", "outcome"), registry=where
        )
        self.pipes = Gauge("lattica_mesh_relay_pipes", "Pipes that are joined", registry=where)
        self.waiting = Gauge("lattica_mesh_relay_waiting", "Clients that wait for their target", registry=where)
        self.bytes = Counter(
            "lattica_mesh_relay_bytes_total", "Bytes of pipes that have ended", ("direction",), registry=where
        )


METRICS: Final = RelayMetrics(REGISTRY)
"""Those of all nodes of this process, in prometheus_client's default registry."""
RESERVATIONS: Final = Gauge("lattica_mesh_reservations", "Reservations that we hold at relays")
"""Of all nodes of this process that cannot be dialled."""
