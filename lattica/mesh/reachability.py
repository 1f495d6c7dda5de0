"""Whether others can dial us, as far as we can tell. Pure: observations in, a verdict out.

A NAT shows in the address from which peers see us; a firewall, or none, when one of them dials us back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from lattica.identity import PeerId
from lattica.mesh.paths import is_global, is_local

MAX_OBSERVERS = 16
"""Peers whose observations count; newer ones displace older ones."""
ENOUGH_DIALBACKS = 3
"""Peers that we ask to dial us before we believe that nobody can."""


class Reachability(Enum):
    """What we believe of ourselves."""

    UNKNOWN = "unknown"
    """Nobody has told us yet."""
    PUBLIC = "public"
    """Whoever reaches our network can dial us."""
    PRIVATE = "private"
    """A NAT or a firewall is in the way; we need relays, and are none."""


@dataclass(frozen=True, slots=True)
class _Observation:
    host: str
    is_ours: bool
    dialled: bool | None = None


class ReachabilityMachine:
    """What peers that we dialled have seen of us.

    Args:
        announced: Whether the operator says that we can be reached; then we believe it.

    Attributes:
        was_dialled: Whether a stranger has dialled us at a global address of ours.
    """

    def __init__(self, *, announced: bool) -> None:
        self.was_dialled = False
        self._announced = announced
        self._seen: OrderedDict[PeerId, _Observation] = OrderedDict()

    @property
    def state(self) -> Reachability:
        """The verdict; observations of the wider network count for more than those of a private one."""
        if self._announced or self.was_dialled:
            return Reachability.PUBLIC
        seen = [one for one in self._seen.values() if is_global(one.host)] or list(self._seen.values())
        translated = sum(not one.is_ours for one in seen)
        if translated * 2 > len(seen):
            return Reachability.PRIVATE
        results = [one.dialled for one in seen if one.dialled is not None]
        if any(results):
            return Reachability.PUBLIC
        return Reachability.PRIVATE if results else Reachability.UNKNOWN

    @property
    def public_hosts(self) -> frozenset[str]:
        """Global addresses from which others see us come."""
        return frozenset(one.host for one in self._seen.values() if is_global(one.host))

    def observed(self, peer: PeerId, host: str, own: Collection[str]) -> bool:
        """A peer that we dialled sees us come from ``host``; true if it should now be asked to dial us back.

        Args:
            peer: The observer.
            host: What it sees.
            own: Our interfaces' addresses.
        """
        before = self._seen.pop(peer, None)
        seen = _Observation(host, host in own or is_local(host))
        if before is not None and before.host == host:
            seen = before
        self._seen[peer] = seen
        while len(self._seen) > MAX_OBSERVERS:
            self._seen.popitem(last=False)
        asked = sum(one.dialled is not None for one in self._seen.values() if one.host == host)
        proven = any(one.dialled for one in self._seen.values() if one.host == host)
        return seen.is_ours and seen.dialled is None and not proven and asked < ENOUGH_DIALBACKS

    def dialled_back(self, peer: PeerId, *, success: bool) -> None:
        """What came of asking ``peer``."""
        if peer in self._seen:
            self._seen[peer] = replace(self._seen[peer], dialled=success)

    def dialled_by_stranger(self, host: str) -> None:
        """Somebody whom we did not ask has dialled us at ``host``, an address of ours."""
        self.was_dialled = self.was_dialled or is_global(host)

    def network_changed(self) -> None:
        """Forget what was seen: our addresses are others now."""
        self._seen.clear()
        self.was_dialled = False
