"""How many bytes of large arguments a node has in progress, of all callers and of each. No I/O, no clock.

Arguments are in progress from their first piece until their method has ended.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lattica.identity import PeerId

MEMORY_SHARE = 2
"""The part of this machine's memory that large arguments may take by default: a half."""
PEER_SHARE = 4
"""The part of that which the largest caller has to leave to the others: a quarter."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class IntakeFullError(Exception):
    """There is no room for these arguments now; nothing has been allocated for them."""


class Intake:
    """Admits large arguments.

    Args:
        limit: Bytes in all.

    Attributes:
        taken: Bytes in progress.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.peer_limit = limit - limit // PEER_SHARE
        self.taken = 0
        self._of_peer: dict[PeerId, int] = {}

    def claim(self, peer: PeerId) -> Claim:
        """What a call of this peer takes; nothing yet."""
        return Claim(self, peer)

    def of_peer(self, peer: PeerId) -> int:
        """Bytes of a peer's arguments in progress."""
        return self._of_peer.get(peer, 0)

    def take(self, peer: PeerId, size: int) -> None:
        """Admit so many bytes; raises `IntakeFullError`."""
        of_peer = self._of_peer.get(peer, 0) + size
        if of_peer > self.peer_limit:
            raise IntakeFullError(f"{of_peer} bytes of your arguments at one time, {self.peer_limit} allowed")
        if self.taken + size > self.limit:
            raise IntakeFullError(f"{size} bytes of arguments, for which the peer has no room now")
        self.taken += size
        self._of_peer[peer] = of_peer

    def give(self, peer: PeerId, size: int) -> None:
        """They are not in progress any more."""
        self.taken -= size
        left = self._of_peer.get(peer, 0) - size
        if left > 0:
            self._of_peer[peer] = left
        else:
            self._of_peer.pop(peer, None)


class Claim:
    """What one call has taken; released once, however often it is asked for."""

    __slots__ = ("_intake", "_peer", "_size")

    def __init__(self, intake: Intake, peer: PeerId, size: int = 0) -> None:
        self._intake = intake
        self._peer = peer
        self._size = size

    def take(self, size: int) -> None:
        """Admit so many bytes more; raises `IntakeFullError`."""
        self._intake.take(self._peer, size)
        self._size += size

    def release(self) -> None:
        """Give back what it has taken."""
        if self._size:
            self._intake.give(self._peer, self._size)
            self._size = 0

    def handed_over(self) -> Claim:
        """The same for another owner; this one has taken nothing from then on."""
        other = Claim(self._intake, self._peer, self._size)
        self._size = 0
        return other


def default_limit() -> int:
    """Half of the memory that this process may have."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return memory // MEMORY_SHARE
