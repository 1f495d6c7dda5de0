"""Counters of the content room, in prometheus_client's default registry."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

CHUNKS_SERVED: Final = Counter("lattica_content_served_chunks_total", "Chunks sent to peers.")
BYTES_SERVED: Final = Counter("lattica_content_served_bytes_total", "Bytes of chunks sent to peers.")
CHUNKS_NOT_FOUND: Final = Counter("lattica_content_not_found_chunks_total", "Chunks that peers asked for in vain.")
CALLS_REFUSED: Final = Counter(
    "lattica_content_refused_calls_total",
    "Calls of peers that were ended for what they did.",
    ["reason"],  # a gRPC status, lower case
)
CHUNKS_FETCHED: Final = Counter("lattica_content_fetched_chunks_total", "Chunks fetched from peers and verified.")
BYTES_FETCHED: Final = Counter("lattica_content_fetched_bytes_total", "Bytes of chunks fetched and verified.")
BYTES_WASTED: Final = Counter(
    "lattica_content_wasted_bytes_total", "Bytes of chunks that came when another provider had delivered them."
)
CHUNKS_WRONG: Final = Counter("lattica_content_wrong_chunks_total", "Chunks whose bytes did not match their digest.")
STALLS: Final = Counter("lattica_content_stalls_total", "Times that a silent provider was overtaken.")
PROVIDERS_BANNED: Final = Counter(
    "lattica_content_banned_providers_total", "Providers that a fetch dropped for wrong bytes or a broken protocol."
)
FETCHES: Final = Counter(
    "lattica_content_fetches_total",
    "Fetches that ended.",
    ["outcome"],  # "ok", "error", "cancelled"
)
