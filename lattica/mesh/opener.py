"""Opens pipes: everything that may lead to a peer at once, cheapest first, and what is better afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from lattica.background import Background
from lattica.errors import PeerUnreachableError
from lattica.identity import PeerId
from lattica.mesh.link_table import LinkTable
from lattica.mesh.links import Link
from lattica.mesh.pipes import OpenPipe, close_pipe
from lattica.mesh.race import race
from lattica.mesh.searches import Searches
from lattica.mesh.ways import Verdict, Ways

RENEW_STAGGER_S = 1.0
"""Seconds after which an old link's addresses have had their chance, and the peer is looked for anew as well."""
DIRECT_HEAD_START_S = 0.3
"""Seconds that dialling has before punching and a relay are tried too: most peers that can be dialled answer in it."""
LAN_HEAD_START_S = 0.05
"""The same for a peer that has relays: it believes that it cannot be dialled, but it may be in our own network."""
RELAY_HEAD_START_S = 0.5
"""Seconds that the relays have before the control connection is used, which is slower by far."""


class Opener:
    """Opens pipes to peers over the best way that works at once; better ones are searched for in the background.

    Args:
        ways: How a peer may be reached over a link.
        table: Links.
        wanted: Whether a peer's search should go on.
        found: Called when a better pipe than those in use is ready: `open` gives it away.
        failed: Called when an attempt to find a better one has failed, with what was tried.
        tasks: Run the searches.
    """

    def __init__(
        self,
        ways: Ways,
        table: LinkTable,
        *,
        wanted: Callable[[PeerId], bool],
        found: Callable[[OpenPipe], None],
        failed: Callable[[PeerId, Mapping[str, str]], None],
        tasks: Background,
    ) -> None:
        self.searches = Searches(self._improve, wanted=wanted, found=found, failed=failed, tasks=tasks)
        self._ways = ways
        self._table = table

    async def open(self, peer: PeerId, attempts: dict[str, str]) -> OpenPipe:
        """A new pipe; ``attempts`` gets what is being tried and how it failed. Raises `PeerUnreachableError`."""
        pipe = self.searches.take_nowait(peer) or await self._open(peer, attempts)
        if pipe is None:
            raise PeerUnreachableError(peer, attempts)
        self._ways.remember(pipe)
        if not pipe.path.kind.is_direct:
            self.searches.start(peer)
        return pipe

    async def _open(self, peer: PeerId, attempts: dict[str, str]) -> OpenPipe | None:
        link, now = self._table.get(peer), time.monotonic()
        if link is None or now >= link.expires_at:
            return await self._anew(peer, link, attempts)
        # If it does not answer there it has moved, or is another process by now, or is gone: ask it again.
        ways = [partial(self._over, link, attempts), partial(self._anew, peer, link, attempts)]
        if not link.is_fresh(now):
            ways.reverse()
        return await race(ways, stagger=RENEW_STAGGER_S, discard=close_pipe)

    async def _anew(self, peer: PeerId, stale: Link | None, attempts: dict[str, str]) -> OpenPipe | None:
        """With a link newer than ``stale``."""
        try:
            link = await self._table.renew(peer, attempts, stale)
        except PeerUnreachableError:  # told in ``attempts``, too
            return None
        return await self._over(link, attempts)

    async def _over(self, link: Link, attempts: dict[str, str]) -> OpenPipe | None:
        """Over a link: dialled; with a little patience punched, or through a relay; at last through libp2p."""
        verdict = Verdict()
        patience = 0.0
        if self._ways.addresses(link):
            patience = LAN_HEAD_START_S if link.relays else DIRECT_HEAD_START_S
        ways: Sequence[Callable[[], Awaitable[OpenPipe | None]]] = (
            partial(self._searched, link.peer_id, patience, attempts, verdict),
            partial(self._ways.dial, link, attempts, verdict),
            partial(self._ways.relay, link, attempts, verdict),
            partial(self._ways.circuit, link, attempts, verdict),
        )
        return await race(ways, stagger=(0.0, patience, RELAY_HEAD_START_S, 0.0), discard=close_pipe)

    async def _searched(
        self, peer: PeerId, patience: float, attempts: dict[str, str], verdict: Verdict
    ) -> OpenPipe | None:
        await asyncio.sleep(patience)
        if verdict.refused:
            return None
        pipe = await self.searches.next_pipe(peer)
        if pipe is None:
            attempts.update(self.searches.failures(peer))
        return pipe

    async def _improve(self, peer: PeerId, attempts: dict[str, str]) -> OpenPipe | None:
        """One attempt of a search: dial and punch."""
        link = self._table.get(peer)
        if link is None or time.monotonic() >= link.expires_at:
            link = await self._table.renew(peer, attempts, link)
        ways = [partial(self._ways.dial, link, attempts, Verdict()), partial(self._ways.punch, link, attempts)]
        return await race(ways, stagger=0.0, discard=close_pipe)
