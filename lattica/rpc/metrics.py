"""What calls export to Prometheus; bounded labels, never a peer ID or a method. Of services: `service_metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from lattica.rpc.service_metrics import ServiceMetrics

Side = Literal["client", "server"]

_SECOND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
UNCOUNTED = "/lattica.v1.Rpc/"
"""Methods that carry calls of plain Python services; those are counted one by one, by who takes them out."""


class RpcMetrics:
    """The metrics of calls.

    All methods are cheap, and do not depend on how many calls they are told of at once: a batch is one call of them.

    Args:
        registry: Where they are exported; without one they are counted but not exported.

    Attributes:
        services: Those of calls by name.
        total: Calls that have ended, by ``side`` (client, server), ``kind`` (the four of gRPC, or another that whoever
            counts names), ``outcome`` (a gRPC status in lower case; ``unreachable``; ``failed`` for a plain function
            that raised, at the server) and ``path`` (kind of the path of the session at its start; ``unknown`` at the
            server, which several may lead to).
        duration: How long calls took, finding the peer included, by ``side`` and ``kind``.
        size: Bytes of messages that are the only one of their direction in a call (those of streams are not
            counted), by ``side`` and ``direction`` (sent, received).
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = registry if registry is not None else CollectorRegistry()
        labels = ("side", "kind", "outcome", "path")
        self.total = Counter("lattica_rpc_calls_total", "Calls that have ended", labels, registry=where)
        self.duration = Histogram(
            "lattica_rpc_call_seconds",
            "Time a call took, finding the peer included",
            ("side", "kind"),
            buckets=_SECOND_BUCKETS,
            registry=where,
        )
        self.size = Counter(
            "lattica_rpc_bytes_total", "Bytes of messages outside streams", ("side", "direction"), registry=where
        )
        self.services = ServiceMetrics(where)
        self._calls: dict[tuple[str, str, str, str], Counter] = {}
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._bytes: dict[tuple[str, str], Counter] = {}

    def calls(self, side: Side, kind: str, outcome: str, path: str, n: int = 1) -> None:
        """So many calls have ended alike; ``outcome`` and ``path`` are one of a few words, ``path`` may be empty."""
        key = (side, kind, outcome, path or "unknown")
        child = self._calls.get(key)
        if child is None:
            child = self._calls[key] = self.total.labels(*key)
        child.inc(n)

    def seconds(self, side: Side, kind: str, seconds: float) -> None:
        """How long a call took. Of a batch it is enough to tell one."""
        child = self._seconds.get((side, kind))
        if child is None:
            child = self._seconds[side, kind] = self.duration.labels(side, kind)
        child.observe(seconds)

    def bytes(self, side: Side, direction: Literal["sent", "received"], n: int) -> None:
        """So many bytes of messages went that way."""
        child = self._bytes.get((side, direction))
        if child is None:
            child = self._bytes[side, direction] = self.size.labels(side, direction)
        child.inc(n)

    def ended(self, side: Side, kind: str, outcome: str, path: str, started: float) -> None:
        """One call has ended that began at a moment of `time.monotonic`."""
        self.calls(side, kind, outcome, path)
        self.seconds(side, kind, time.monotonic() - started)

    def counting_serializer(self, side: Side, serialize: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        """The same serializer (``None``: of bytes), counting the bytes it sends."""

        def counted(message: Any) -> Any:
            raw = message if serialize is None else serialize(message)
            self.bytes(side, "sent", len(raw))
            return raw

        return counted

    def counting_deserializer(self, side: Side, deserialize: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        """The same deserializer (``None``: to bytes), counting the bytes it receives."""

        def counted(raw: Any) -> Any:
            self.bytes(side, "received", len(raw))
            return raw if deserialize is None else deserialize(raw)

        return counted


METRICS = RpcMetrics(REGISTRY)
"""Those of all nodes of this process, in prometheus_client's default registry."""
