"""Joining the network: connect to known peers, and again whenever nobody is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from lattica.background import background_tasks
from lattica.dht import Dht
from lattica.errors import AddressError, BootstrapError, ConfigError, PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)

BOOTSTRAP_TIMEOUT_S = 10.0
"""Seconds that the bootstrap peers have to answer."""
OTHERS_TIMEOUT_S = 1.0
"""Seconds that the others have when one has answered."""
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
"""Bounds of the pause between attempts when no peer is left."""
CHECK_S = 15.0
"""Seconds between looks at whether any peer is left."""


def parse_peer_addresses(texts: Sequence[str], setting: str) -> dict[PeerId, list[PeerAddress]]:
    """Multiaddrs by the peer that each names at its end.

    Raises:
        AddressError: One is malformed.
        ConfigError: One names no peer.
    """
    by_peer: dict[PeerId, list[PeerAddress]] = {}
    for text in texts:
        address = PeerAddress.parse(text)
        if address.peer_id is None:
            raise ConfigError(f"the {setting} address {text} names no peer; it has to end in /p2p/<peer ID>")
        if not address.is_tcp:
            raise AddressError(text, "only TCP addresses can be dialled: /ip4/192.0.2.1/tcp/4737/p2p/12D3Koo…")
        by_peer.setdefault(address.peer_id, []).append(address)
    return by_peer


class Bootstrapper:
    """Keeps a node in its network."""

    def __init__(self, swarm: Swarm, dht: Dht, peers: dict[PeerId, list[PeerAddress]]) -> None:
        self._swarm = swarm
        self._dht = dht
        self._peers = {peer: addresses for peer, addresses in peers.items() if peer != swarm.key.peer_id}

    async def join(self) -> None:
        """Connect to the bootstrap peers, all at once; one that answers is enough, and the others are not waited for.

        Raises:
            BootstrapError: None did within `BOOTSTRAP_TIMEOUT_S`.
        """
        if not self._peers:
            return
        attempts: dict[str, str] = {}

        async def connect(peer: PeerId, addresses: list[PeerAddress]) -> bool:
            try:
                async with asyncio.timeout(BOOTSTRAP_TIMEOUT_S):
                    await self._swarm.connect(peer, addresses)
            except PeerUnreachableError as error:
                attempts.update(error.attempts)
            except TimeoutError:
                attempts.update({a.text: f"no answer within {BOOTSTRAP_TIMEOUT_S:.0f} s" for a in addresses})
            else:
                return True
            return False

        reached = False
        async with background_tasks() as tasks:
            pending = {tasks.start(connect(peer, addresses)) for peer, addresses in self._peers.items()}
            while pending:
                patience = OTHERS_TIMEOUT_S if reached else None
                done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                reached = reached or any(task.result() for task in done)
        if not reached:
            raise BootstrapError(attempts)

    async def keep_joined(self) -> None:
        """Join again whenever there is neither a connection nor anybody in the routing table; runs until cancelled."""
        pause = RETRY_MIN_S
        while self._peers:
            await asyncio.sleep(CHECK_S if self._has_peers() else pause)
            if self._has_peers():
                pause = RETRY_MIN_S
                continue
            pause = min(2 * pause, RETRY_MAX_S)
            try:
                await self.join()
            except BootstrapError as error:
                logger.warning("bootstrap failed retry_s=%.0f reason=%s", pause, error)

    def _has_peers(self) -> bool:
        return bool(self._swarm.connections()) or self._dht.routing_table_size > 0
