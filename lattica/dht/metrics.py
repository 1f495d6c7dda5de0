"""What the DHT exports to Prometheus; bounded labels, never a peer ID or a key."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_ROUND_BUCKETS = (1, 2, 3, 4, 5, 6, 8, 12)
_SECOND_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class DhtMetrics:
    """The metrics of one DHT node.

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
