"""What the DHT exports to Prometheus; bounded labels, never a peer ID or a key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sized
from functools import partial
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_ROUND_BUCKETS = (1, 2, 3, 4, 5, 6, 8, 12)
_SECOND_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class DhtMetrics:
    """The metrics of the DHT nodes that share them.

    Args:
        registry: Where they are exported; without one they are counted but not exported.

    Attributes:
        requests: Requests of ours, by ``type`` (as on the wire) and ``outcome``: ok, timeout, unreachable, malformed.
        request_seconds: How long those took that were answered, dialling included, by ``type``.
        served: Requests of others, by ``type`` and ``outcome``: ok, refused, malformed; type ``unknown`` if it
            could not be read.
        lookups: Lookups, by ``kind``: find_peer, find_providers, provide, refresh; and ``outcome``: ok, timeout.
        lookup_seconds: How long lookups took, by ``kind``.
        lookup_rounds: Requests in a row that lookups needed, by ``kind``.
        table_peers: Contacts in the routing table.
        provider_records: Provider records stored for others.
        published_keys: Keys that we provide.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = registry if registry is not None else CollectorRegistry()
        self.requests = Counter(
            "lattica_dht_requests_total", "Requests sent to other nodes", ("type", "outcome"), registry=where
        )
        self.request_seconds = Histogram(
            "lattica_dht_request_seconds",
            "Time to an answer, dialling included",
            ("type",),
            buckets=_SECOND_BUCKETS,
            registry=where,
        )
        self.served = Counter(
            "lattica_dht_served_requests_total", "Requests from other nodes", ("type", "outcome"), registry=where
        )
        self.lookups = Counter("lattica_dht_lookups_total", "Iterative lookups", ("kind", "outcome"), registry=where)
        self.lookup_seconds = Histogram(
            "lattica_dht_lookup_seconds", "Time a lookup took", ("kind",), buckets=_SECOND_BUCKETS, registry=where
        )
        self.lookup_rounds = Histogram(
            "lattica_dht_lookup_rounds", "Requests in a row", ("kind",), buckets=_ROUND_BUCKETS, registry=where
        )
        self.table_peers = Gauge("lattica_dht_table_peers", "Contacts in the routing table", registry=where)
        self.provider_records = Gauge(
            "lattica_dht_provider_records", "Provider records stored for others", registry=where
        )
        self.published_keys = Gauge("lattica_dht_published_keys", "Keys provided by this node", registry=where)
        self._sizes: list[tuple[Sized, Sized, Sized]] = []
        for at, gauge in enumerate((self.table_peers, self.provider_records, self.published_keys)):
            gauge.set_function(partial(self._total, at))

    def _total(self, at: int) -> float:
        return sum(len(sizes[at]) for sizes in self._sizes)

    @contextlib.contextmanager
    def counting(self, table: Sized, records: Sized, keys: Sized) -> Iterator[None]:
        """Export how large these are, added to those of other nodes of the process, while the block lasts."""
        sizes = (table, records, keys)
        self._sizes.append(sizes)
        try:
            yield
        finally:
            self._sizes = [other for other in self._sizes if other is not sizes]


METRICS: Final = DhtMetrics(REGISTRY)
"""Those of the process's nodes."""
