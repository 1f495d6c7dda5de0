"""The ways to a peer over a link: dialled, punched, through a relay, through the control connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from lattica.errors import NetworkError, PeerUnreachableError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.link_table import LinkTable, forget_oldest
from lattica.mesh.links import Link, RelayOffer
from lattica.mesh.paths import PathKind, dial_order, is_local
from lattica.mesh.pipes import DIAL_STAGGER_S, OpenPipe, close_pipe, describe, dial_first, prove_pipe
from lattica.mesh.preface import LinkRefusedError
from lattica.mesh.race import race
from lattica.mesh.relay_client import dial_through_again
from lattica.swarm import Direction, Swarm

logger = logging.getLogger(__name__)

PIPE_PROTOCOL = "/lattica/pipe/1.0.0"
"""A pipe's bytes on a stream of a control connection."""


@dataclass(slots=True)
class Verdict:
    """What is known of a peer while several ways to it are tried.

    Attributes:
        refused: Whether it has answered, and takes no pipe: then no other way helps.
    """

    refused: bool = False


class Puncher(Protocol):
    """Punches holes; `lattica.mesh.punching`."""

    async def punch(self, link: Link, attempts: dict[str, str]) -> OpenPipe | None:
        """A pipe through the NATs; ``None`` if that failed, and ``attempts`` says why."""


class Ways:
    """Tries one way at a time; each returns ``None`` if it leads nowhere, and ``attempts`` says why.

    Args:
        swarm: Our control connections.
        table: Our links.
        puncher: Punches.
        public_hosts: IP addresses from which others see us come.
    """

    def __init__(
        self, swarm: Swarm, table: LinkTable, puncher: Puncher, public_hosts: Callable[[], Collection[str]]
    ) -> None:
        self._swarm = swarm
        self._table = table
        self._puncher = puncher
        self._public_hosts = public_hosts
        self._proven: dict[PeerId, PeerAddress] = {}

    def remember(self, pipe: OpenPipe) -> None:
        """Dial first, the next time, where a peer has answered."""
        if pipe.path.kind in {PathKind.LAN, PathKind.DIRECT}:
            self._proven[pipe.path.peer_id] = pipe.path.remote
            forget_oldest(self._proven)

    def addresses(self, link: Link) -> list[PeerAddress]:
        """Where the link's server may be dialled, most promising first."""
        peer = link.peer_id
        connections = [info for info in self._swarm.connections() if info.peer_id == peer and info.relay is None]
        proven = [self._proven[peer]] if peer in self._proven else []
        proven += [info.remote for info in connections if info.direction is Direction.OUTBOUND]
        same_host = any(is_local(address.host) for address in [*proven, *(info.remote for info in connections)])
        return dial_order(proven, link.candidates, same_host=same_host, same_site=self._same_site(link))

    def _same_site(self, link: Link) -> bool:
        """Whether its private addresses may be ours: unless both sides know that they come from different places."""
        ours = set(self._public_hosts())
        return not ours or not link.public_hosts or bool(ours & link.public_hosts)

    async def dial(self, link: Link, attempts: dict[str, str], verdict: Verdict) -> OpenPipe | None:
        """Over TCP, to where the peer listens."""
        try:
            return await dial_first(link, self.addresses(link), attempts)
        except LinkRefusedError:  # told in ``attempts``
            verdict.refused = True
            return None

    async def relay(self, link: Link, attempts: dict[str, str], verdict: Verdict) -> OpenPipe | None:
        """Through one of the relays that the peer has named."""
        offers = [offer for offer in link.relays if time.monotonic() < offer.expires_at]
        ways = [partial(self._relay, link, offer, attempts, verdict) for offer in offers]
        return await race(ways, stagger=DIAL_STAGGER_S, discard=close_pipe)

    async def _relay(
        self, link: Link, offer: RelayOffer, attempts: dict[str, str], verdict: Verdict
    ) -> OpenPipe | None:
        async def attempt() -> OpenPipe:
            sock = await dial_through_again(offer.address, offer.token)
            logger.debug("joined by relay peer=%s relay=%s", link.peer_id, offer.address.text)
            return await prove_pipe(link, sock, PathKind.RELAYED, offer.address)

        return await _told(attempts, f"relay {offer.address.text}", attempt, verdict)

    async def circuit(self, link: Link, attempts: dict[str, str], verdict: Verdict) -> OpenPipe | None:
        """On a stream of the control connection, wherever that leads: slow, but there."""

        async def attempt() -> OpenPipe:
            await self._table.connect(link.peer_id, {})
            sock = await self._swarm.open_socket(link.peer_id, PIPE_PROTOCOL)
            return await prove_pipe(link, sock, PathKind.CIRCUIT, self._control_address(link.peer_id))

        return await _told(attempts, "circuit", attempt, verdict)

    def _control_address(self, peer: PeerId) -> PeerAddress:
        remotes = [info.remote for info in self._swarm.connections() if info.peer_id == peer]
        return remotes[-1] if remotes else PeerAddress.tcp("0.0.0.0", 0, peer)

    async def punch(self, link: Link, attempts: dict[str, str]) -> OpenPipe | None:
        """Through the NATs."""
        return await self._puncher.punch(link, attempts)


async def _told(
    attempts: dict[str, str], what: str, attempt: Callable[[], Awaitable[OpenPipe]], verdict: Verdict
) -> OpenPipe | None:
    """The result of ``attempt``, or ``None``; ``attempts`` gets the reason under ``what``."""
    attempts[what] = "no answer yet"
    try:
        pipe = await attempt()
    except PeerUnreachableError as error:
        attempts[what] = "; ".join(error.attempts.values()) or "not connected"
    except (NetworkError, OSError) as error:
        verdict.refused = verdict.refused or isinstance(error, LinkRefusedError)
        attempts[what] = describe(error)
    else:
        attempts.pop(what, None)
        return pipe
    return None
