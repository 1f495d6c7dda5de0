"""What the replicas of a name may cost us, and for how long things hold. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from typing import Final

# One record.

LEASE_S: Final = 30.0
"""Lease of our own records: a replica that dies without a word is nobody's candidate after that time."""
MAX_LEASE_S: Final = 120.0
"""Longest lease taken from others."""
MAX_SKEW_S: Final = 120.0
"""How far the clock of a replica may be off for others to pass its records on. What it says itself counts whatever its
clock. Also how long a hostile peer can keep up the record of a dead replica beyond its lease."""
INSTANCE_BYTES: Final = 8
"""Length of an instance: collisions among the restarts of one node do not happen."""
MAX_CAPACITY: Final = 1 << 16
"""Highest capacity taken from a record; more is a mistake or a lie."""
MAX_LOAD: Final = 1e6
"""Highest load taken from a record."""
MAX_RECORD_BYTES: Final = 1024
"""Longest signed record: the longest name, and 200 bytes around it, with room for fields to come."""

# One answer.

MAX_OTHERS: Final = 32
"""Records of other replicas in one answer. Checking the signatures of so many takes about 5 ms."""
MAX_REQUEST_BYTES: Final = 2048
"""Longest request: a name and a record."""
MAX_ANSWER_BYTES: Final = (MAX_OTHERS + 1) * (MAX_RECORD_BYTES + 16)
"""Longest answer that is parsed."""
RESIGN_PART: Final = 1 / 30
"""A record of our own is signed anew for whoever asks if more than this part of its lease is over, one second: load
stays fresh, signing stays cheap."""
WORTH_CHECKING: Final = 0.1
"""Part of a lease by which a record that others pass on has to prolong what is known, or its signature is not checked:
where forty replicas tell of each other, nearly all is known already."""
MAX_ASKERS: Final = 256
"""Peers that lately asked for a name we offer, and hear our goodbye; the longest-unheard are forgotten."""
FAREWELL_TIMEOUT_S: Final = 1.0
"""Seconds for all goodbyes together, when a name is withdrawn or the node stops."""
FAREWELL_CONCURRENCY: Final = 32
"""Goodbyes under way at a time."""

# One name.

MAX_REPLICAS: Final = 64
"""Replicas of one name that are kept; the DHT keeps no more providers of a key either."""
MAX_HEARSAY: Final = 32
"""Of those, replicas of which only others told: what strangers make up leaves room for what is real."""
MAX_HEARSAY_PER_SOURCE: Final = 16
"""Of those, replicas that one peer told of."""
MAX_GOODBYES: Final = 256
"""Goodbyes remembered per name, so that older records that still go round do not bring the replica back."""
MAX_CANDIDATES: Final = 256
"""Peers remembered that might offer a name; those that failed most often make room."""

# Asking.

ASK_TIMEOUT_S: Final = 10.0
"""Seconds for one question, finding the peer included."""
MAX_ASKING: Final = 16
"""Questions under way at a time, per name."""
RENEW_EARLY: Final = (0.4, 0.65)
"""Shares of a lease, one drawn at random between them, that are left when a replica is asked again. Time for two
failures; and random, so that the answer of one can spare the questions to others."""
MIN_ASK_INTERVAL_S: Final = 0.2
"""Seconds between two questions to one replica, however short its leases."""
ASK_RETRY_MIN_S: Final = 1.0
ASK_RETRY_MAX_S: Final = 60.0
"""Bounds of the pause before a candidate that failed, or does not offer the name, is asked again. The DHT forgets
providers after two days only, so that there may be many of those."""
SEARCH_RETRY_MIN_S: Final = 1.0
SEARCH_RETRY_MAX_S: Final = 15.0
"""Bounds of the pause between searches of the DHT while nobody is found."""
SEARCH_INTERVAL_S: Final = 60.0
"""Seconds between searches of the DHT while there are replicas: what is new is mostly heard from the others."""
SEARCH_TIMEOUT_S: Final = 60.0
"""Seconds for one search of the DHT."""
SETTLE_TIMEOUT_S: Final = 2.0
"""Seconds that a call with a key waits at most until all replicas are known, since keys move when one is added."""
IDLE_S: Final = 120.0
"""Seconds after its last use at which a name is no longer watched."""
MAX_ATTEMPTS_SHOWN: Final = 5
"""Peers that the error of a fruitless search names."""

# Choosing.

BUSY_PAUSE_S: Final = 0.25
"""Seconds for which a replica that refused a call is avoided, if there is another."""
LATENCY_WEIGHT: Final = 0.2
"""Weight of the newest latency in the average: it follows within a dozen calls."""
LATENCY_HALF_LIFE_S: Final = 10.0
"""Seconds without a call after which a replica's latency counts half: what was slow once is tried again."""
LATENCY_GRACE_S: Final = 1.0
"""Seconds without a call before that begins: in a steady flow of calls, latency means what was measured."""
MAX_STICKY_CACHED: Final = 4096
"""Keys whose replica is remembered rather than computed."""
