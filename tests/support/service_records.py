"""Service records of made-up replicas, for tests of what becomes of them."""

from __future__ import annotations

from lattica.identity import IdentityKey, PeerId
from lattica.rpc.replicas.record import ServiceRecord, seal_record

NAME = "llm/layers-0-7"
WALL = 1_750_000_000.0
"""What the clocks say, in seconds since 1970."""


def key(number: int) -> IdentityKey:
    """The key of a made-up peer."""
    return IdentityKey.from_seed(number.to_bytes(32))


def peer(number: int) -> PeerId:
    """Its peer ID."""
    return key(number).peer_id


def record(
    number: int = 1,
    *,
    name: str = NAME,
    instance: int = 1,
    sequence: int = 1,
    issued_at: float = WALL,
    lease: float = 30.0,
    capacity: int = 1,
    load: float = 0.0,
) -> ServiceRecord:
    """A signed record of a made-up peer."""
    return seal_record(
        key(number), name=name, instance=instance.to_bytes(8), sequence=sequence, issued_at_ms=int(issued_at * 1000),
        lease_ms=int(lease * 1000), capacity=capacity, load=load,
    )  # fmt: skip
