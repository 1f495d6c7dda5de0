"""Being a relay for others: libp2p's circuits and our own splices, while we can be dialled ourselves."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field, replace
from typing import Literal

from lattica.background import Background
from lattica.errors import NetworkError, StreamError
from lattica.identity import IdentityKey, PeerAddress
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.reachability import Reachability
from lattica.mesh.relay_limits import SpliceLimits
from lattica.mesh.relay_metrics import METRICS
from lattica.mesh.relay_server import RelayServer
from lattica.swarm import RelayLimits, Swarm

logger = logging.getLogger(__name__)

RelayPolicy = Literal["auto", "on", "off"]
"""Whether to be a relay: ``auto`` is one unless a NAT or firewall is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How a node is a relay.

    Attributes:
        policy: Whether it is one.
        splices: What it gives away of joined sockets.
        circuits: The same of libp2p circuits.
    """

    policy: RelayPolicy = "auto"
    splices: SpliceLimits = field(default_factory=SpliceLimits)
    circuits: RelayLimits = field(default_factory=RelayLimits)

    @classmethod
    def of(cls, policy: RelayPolicy, rate: int) -> RelaySettings:
        """Settings with a limit of ``rate`` bytes/s in all, and for one peer; 0 is none."""
        splices = replace(SpliceLimits(), bytes_s=rate or None, target_bytes_s=rate or None)
        return cls(policy=policy, splices=splices)


class RelayRole:
    """Begins and ceases to be a relay as we learn how we can be reached."""

    def __init__(
        self, key: IdentityKey, swarm: Swarm, table: PipeTable, settings: RelaySettings, tasks: Background
    ) -> None:
        self._swarm = swarm
        self._settings = settings
        self._tasks = tasks
        self._server = RelayServer(key, swarm, table, tasks, limits=settings.splices, metrics=METRICS)
        self._serving = False

    @property
    def relayed(self) -> int:
        """Circuits and pipes that we carry for others at present."""
        return self._swarm.relay_counters().circuits + self._server.counts().pipes

    async def start(self, state: Reachability) -> None:
        """Begin, if we are to."""
        await self._apply(state)

    def changed(self, state: Reachability) -> None:
        """We have learnt how we can be reached."""
        self._tasks.start_unless_ending(self._apply(state))

    async def accept(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Route of the listener: somebody wants to be joined with somebody else."""
        if not self._serving:
            sock.close()
            raise NetworkError("we are no relay")
        await self._server.accept(sock, remote)

    async def _apply(self, state: Reachability) -> None:
        """Serve as the policy says. What is joined goes on when we cease: it works, whatever we believe."""
        policy = self._settings.policy
        serve = policy == "on" or (policy == "auto" and state is not Reachability.PRIVATE)
        if serve is self._serving:
            return
        self._serving = serve
        logger.info("relay for others serving=%s", serve)
        try:
            if serve:
                self._server.serve()
                await self._swarm.serve_relay(self._settings.circuits)
            else:
                self._server.stop_serving()
                await self._swarm.stop_relay()
        except StreamError:
            logger.debug("the swarm is closing: nobody is told whether we are a relay")

    def close(self) -> None:
        """Close what we have joined."""
        self._server.close()
