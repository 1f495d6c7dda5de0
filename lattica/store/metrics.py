"""Counters of the store room, in prometheus_client's default registry."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

ENTRIES_WRITTEN: Final = Counter("lattica_store_written_entries_total", "Entries that this node has written.")
ENTRIES_TAKEN: Final = Counter("lattica_store_received_entries_total", "Entries of others that were new and good.")
ENTRIES_KNOWN: Final = Counter(
    "lattica_store_useless_entries_total", "Entries from peers that were known, did not count, or could not be placed."
)
ENTRIES_SENT: Final = Counter("lattica_store_sent_entries_total", "Entries sent to peers.")
REPLAYS: Final = Counter("lattica_store_replays_total", "Documents made anew, since something counted no more.")
REPLAYS_POSTPONED: Final = Counter(
    "lattica_store_postponed_replays_total", "Times that replays had to wait, since they took too much time."
)
FRAUDS: Final = Counter("lattica_store_frauds_total", "Proven frauds of authors.")
PEERS_REFUSED: Final = Counter("lattica_store_refused_peers_total", "Streams ended since the peer broke the rules.")
BYTES_SENT: Final = Counter("lattica_store_sent_bytes_total", "Bytes of frames sent to peers.")
FOLDS: Final = Counter("lattica_store_folds_total", "Checkpoints whose state was put in the place of entries.")
FOLDS_REFUSED: Final = Counter("lattica_store_refused_folds_total", "Checkpoints that were not what the entries say.")
PRESENCES_DROPPED: Final = Counter("lattica_store_dropped_presences_total", "Records of who is present not taken.")
