"""The numbers of this room: Kademlia's parameters, and what a remote peer may make us read, hold or wait for.

Sources: "spec" is https://github.com/libp2p/specs/blob/master/kad-dht/README.md (r2), "go" is go-libp2p-kad-dht as of
2026, "paper" is Maymounkov and Mazières, Kademlia (2002). Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from typing import Final

# Kademlia's own parameters.

K: Final = 20
"""Replication and bucket size (spec)."""
ALPHA: Final = 3
"""Requests a lookup has under way (spec)."""

# One message.

MAX_REQUEST_BYTES: Final = 16 * 1024
"""Longest request read from a peer. The longest honest one is an ADD_PROVIDER: a key and one peer record (8 KiB in go).
rust-libp2p reads at most 16 KiB of any kad message."""
MAX_RESPONSE_BYTES: Final = 1024 * 1024
"""Longest response read from a peer we asked. go allows 4 MiB; parsing 4 MiB of empty records takes 100 ms and 130 MB
here, 1 MiB a quarter of that, and 1 MiB still holds three thousand ordinary provider records."""
MAX_KEY_BYTES: Final = 80
"""Longest key (go refuses longer ones). A 64-byte digest makes a multihash of 66 to 68 bytes."""
MAX_CLOSER_PEERS: Final = 2 * K
"""More closer peers than this in one response break the protocol. Spec: k; go answers k + 1 and cuts off at 2 k."""
MAX_PROVIDERS_PER_RESPONSE: Final = 1024
"""Provider records read out of one response; the rest is ignored (go does not limit what it sends)."""
MAX_ADDRESSES_PER_PEER: Final = 16
"""Addresses kept of one peer record; the rest is ignored. go trims records to 8 KiB, i.e. to the same size."""
MAX_ADDRESS_BYTES: Final = 512
"""Longest binary multiaddr kept: a DNS name of 253 bytes (RFC 1035) and a circuit with two certificate hashes fit."""

# One lookup.

MAX_LOOKUP_QUERIES: Final = 256
"""Peers that one lookup asks. With a fifth of 10,000 nodes gone, lookups ask 78 at most (benchmarks/dht_sim.py)."""
MAX_LOOKUP_CANDIDATES: Final = 512
"""Peers that one lookup remembers; the farthest not yet asked are forgotten."""
MAX_STALLED: Final = 2 * ALPHA
"""Slow requests that a lookup leaves under way besides its `ALPHA` active ones."""
MAX_ATTEMPTS_PER_PEER: Final = 2
"""How often one lookup asks one peer: again if it failed and somebody then names an address that was not tried."""
MAX_FAILED_REFERRALS: Final = 6
"""When so many peers that one responder named have failed, and four fifths of those tried, its others are ignored."""

# Waiting.

REQUEST_TIMEOUT: Final = 10.0
"""For one request, dialling included (go: dhtReadMessageTimeout)."""
STALL_TIMEOUT: Final = 2.0
"""After this a request no longer holds one of a lookup's places ("removed from consideration until and unless they do
respond", paper 2.3). Above the round trip of a relayed dial, well below `REQUEST_TIMEOUT`."""
LOOKUP_TIMEOUT: Final = 60.0
"""For a whole lookup: it ends with what it has. A dozen honest rounds fit even if each of them stalls."""
MAX_CONCURRENT_REQUESTS: Final = 64
"""Requests of ours under way at once, over all lookups: bounds what responses can hold in memory (64 MiB)."""

# Routing table.

REFRESH_INTERVAL: Final = 600.0
"""A bucket in which nothing was looked up for so long is refreshed (go; the spec's default is 300)."""
MAX_REFRESH_DEPTH: Final = 15
"""Deepest bucket that gets a lookup of its own: its target costs 2^16 hashes (go: maxCplForRefresh)."""
MIN_REFRESH_INTERVAL: Final = 5.0
"""First pause between refreshes while the table is short; each doubles, up to `REFRESH_INTERVAL`."""
LIVENESS_GRACE: Final = 60.0
"""A contact heard from within this time is not checked again to make room for a new one."""
MAX_PENDING_CHECKS: Final = 128
"""Contacts waiting to be checked; further ones are dropped, and come up again at the next refresh."""
MAX_TABLE_FAILURES: Final = 3
"""Consecutive spaced failures after which a contact goes even if nobody is there to replace it (paper: 5)."""
BACKOFF_BASE: Final = 20.0
"""How long a peer that failed once is left alone; each further failure makes it `BACKOFF_FACTOR` times longer."""
BACKOFF_FACTOR: Final = 4.0
BACKOFF_MAX: Final = 3600.0
"""Longest time for which a peer is left alone; for one that broke the protocol at once, even if it comes back."""
MAX_TRACKED_FAILURES: Final = 4096
"""Failed peers remembered; the longest-unseen are forgotten."""

# Provider records.

PROVIDER_RECORD_TTL: Final = 48 * 3600.0
"""A provider record expires after this (spec, IPFS network)."""
PROVIDER_REPUBLISH_INTERVAL: Final = 22 * 3600.0
"""A provider stores its records again after this (spec, IPFS network)."""
PROVIDER_ADDRESS_TTL: Final = 24 * 3600.0
"""A provider's addresses are handed out for so long (go); then its peer ID alone."""
PROVIDER_SWEEP_INTERVAL: Final = 3600.0
"""Between two sweeps of expired records (go). Reads never return an expired one."""
MAX_PROVIDER_RECORDS: Final = 100_000
"""Provider records stored; beyond it those farthest from our own key go first. About 40 MB."""
MAX_PROVIDERS_PER_KEY: Final = 64
"""Providers stored for one key; the one that expires first makes room. Bounds a response to 700 KB."""
MAX_KEYS_PER_PROVIDER: Final = 16_384
"""Keys that one peer can have stored here."""
MAX_PROVIDERS_WITH_ADDRESSES: Final = 8192
"""Providers whose addresses are kept; the longest-unheard are forgotten. At most 64 MB if each sends 8 KiB."""

# Publishing.

PUBLISH_RETRY_MIN: Final = 5.0
"""First pause after nobody took a record; each doubles, up to `PUBLISH_RETRY_MAX`."""
PUBLISH_RETRY_MAX: Final = 300.0
"""Longest pause between attempts (go: retryInterval)."""
PUBLISH_MIN_INTERVAL: Final = 15.0
"""A key that somebody took is not stored again sooner, however often addresses change or peers appear."""
PUBLISH_JITTER: Final = 0.1
"""A republish comes up to this fraction early, at random, so that keys published together drift apart."""
PUBLISH_CONCURRENCY: Final = 8
"""Keys that are published at once in the background."""
ADDRESS_CHECK_INTERVAL: Final = 10.0
"""How often the publisher looks whether our own addresses changed."""
