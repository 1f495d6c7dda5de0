"""How replicas are offered and watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lattica.rpc.replicas.limits import IDLE_S, LEASE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """How replicas are offered and watched.

    Attributes:
        lease: Seconds that our own offers hold.
        idle: Seconds after its last use at which a name is no longer watched.
        farewell: Whether peers are told when a name is withdrawn or the node stops.
        clock: Monotonic seconds.
        wall: Seconds since 1970.
    """

    lease: float = LEASE_S
    idle: float = IDLE_S
    farewell: bool = True
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
