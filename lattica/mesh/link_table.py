"""Our links to peers, and the control connections over which they are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from typing import TypeVar
from weakref import WeakValueDictionary

from lattica.background import background_tasks, cancelled
from lattica.errors import NetworkError, PeerUnreachableError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.address_book import MAX_BOOK, AddressBook
from lattica.mesh.links import Link, Links
from lattica.mesh.paths import Candidate, control_order
from lattica.mesh.ports import PeerFinder
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)

LINK_TIMEOUT_S = 10.0
"""Seconds that a connected peer has to answer a link request."""
FIND_AFTER_S = 1.0
"""Seconds that the addresses which we know have to answer before the peer is looked for as well."""

T = TypeVar("T")


class LinkTable:
    """Connects to peers and asks them for links; at most one request to a peer at a time.

    ``attempts`` in its methods gets, while they run, what is being tried and how it failed.

    Attributes:
        book: Addresses that we were told.
        finder: Finds addresses of peers that we know only by ID.
    """

    def __init__(self, links: Links, swarm: Swarm, own: Callable[[], Collection[Candidate]]) -> None:
        self.book = AddressBook()
        self.finder: PeerFinder | None = None
        self._links = links
        self._swarm = swarm
        self._own = own
        self._table: dict[PeerId, Link] = {}
        self._locks: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()

    def get(self, peer: PeerId) -> Link | None:
        """The link that we have, fresh or not."""
        return self._table.get(peer)

    def forget(self, peer: PeerId | None = None) -> None:
        """Drop the link to one peer, or all."""
        if peer is None:
            self._table.clear()
        else:
            self._table.pop(peer, None)

    async def renew(self, peer: PeerId, attempts: dict[str, str], stale: Link | None) -> Link:
        """A link newer than ``stale``; raises `PeerUnreachableError`."""
        lock = self._locks.setdefault(peer, asyncio.Lock())
        attempts["link"] = "another attempt is asking for it"
        async with lock:
            del attempts["link"]
            current = self._table.get(peer)
            if current is not None and current is not stale and current.is_fresh(time.monotonic()):
                return current
            link = await self._request(peer, attempts)
            self._table[peer] = link
            forget_oldest(self._table)
            return link

    async def _request(self, peer: PeerId, attempts: dict[str, str]) -> Link:
        """Connect and ask for a link; once more if the connection that we had turns out to be lost."""
        for last in (False, True):
            await self.connect(peer, attempts)
            attempts["link"] = "not granted yet"
            try:
                async with asyncio.timeout(LINK_TIMEOUT_S):
                    link = await self._links.request(peer)
            except TimeoutError:
                attempts["link"] = f"no answer within {LINK_TIMEOUT_S:.0f} s"
                await self.disconnect(peer)
                break
            except NetworkError as error:
                attempts["link"] = str(error)
                if last or not isinstance(error, StreamError):
                    break
                await self.disconnect(peer)
            else:
                del attempts["link"]
                logger.debug("link made peer=%s relays=%d", peer, len(link.relays))
                return link
        raise PeerUnreachableError(peer, attempts)

    async def disconnect(self, peer: PeerId) -> None:
        """Give up a connection that may be lost without having noticed, so that the next attempt dials."""
        with contextlib.suppress(StreamError):  # the swarm is closing
            await self._swarm.disconnect(peer)

    async def connect(self, peer: PeerId, attempts: dict[str, str]) -> None:
        """Have a control connection, at the addresses that we know or those that the finder finds.

        The finder is asked when the known ones have failed, or have not answered for `FIND_AFTER_S`: then the peer has
        probably moved.

        Raises:
            PeerUnreachableError: With everything that was tried.
        """
        known = self._known_addresses(peer)
        async with background_tasks() as tasks:
            dialling = tasks.start(self._dial(peer, known, attempts))  # done at once if there is a connection
            await asyncio.wait([dialling], timeout=FIND_AFTER_S)
            if dialling.done() and dialling.result():
                return
            tried = {address.text for address in known}
            for thorough in (False, True):
                finding = tasks.start(self._find(peer, attempts, thorough=thorough))
                await asyncio.wait([dialling, finding], return_when=asyncio.FIRST_COMPLETED)
                if not finding.done() and dialling.result():
                    attempts.pop("dht", None)
                    return
                found = await finding
                fresh = [address for address in found if address.text not in tried]
                if not fresh and await dialling:
                    return
                again = [] if dialling.done() else known
                await cancelled(dialling)  # it holds the peer's turn to be dialled
                if fresh and await self._dial(peer, [*fresh, *again], attempts):
                    return
                if not found:
                    break
                tried |= {address.text for address in fresh}
        raise PeerUnreachableError(peer, attempts)

    async def _find(self, peer: PeerId, attempts: dict[str, str], *, thorough: bool) -> list[PeerAddress]:
        """Addresses that the finder finds; none if it fails, and ``attempts`` says why."""
        if self.finder is None:
            return []
        attempts["dht"] = "no answer yet"
        try:
            found = list(await self.finder.find_peer(peer, thorough=thorough))
        except PeerUnreachableError as error:
            attempts["dht"] = "; ".join(error.attempts.values()) or "nobody knows the peer"
            return []
        except NetworkError as error:
            attempts["dht"] = str(error)
            return []
        del attempts["dht"]
        logger.debug("peer found peer=%s addresses=%d", peer, len(found))
        self.book.add(peer, found)
        return found

    def _known_addresses(self, peer: PeerId) -> list[PeerAddress]:
        info = self._swarm.peer_info(peer)
        known = self.book.of(peer) + list(info.addresses if info else ())
        return list({address.text: address for address in known}.values())

    async def _dial(self, peer: PeerId, addresses: list[PeerAddress], attempts: dict[str, str]) -> bool:
        attempts.update({address.text: "no answer yet" for address in addresses})
        try:
            await self._swarm.connect(peer, control_order(addresses, self._own()))
        except PeerUnreachableError as error:
            attempts.update(error.attempts)
            return False
        except StreamError as error:
            attempts["swarm"] = str(error)
            return False
        logger.debug("control connection peer=%s", peer)
        for address in addresses:
            attempts.pop(address.text, None)
        return True


def forget_oldest(by_peer: dict[PeerId, T]) -> None:
    """Keep a table by peer within `MAX_BOOK`."""
    while len(by_peer) > MAX_BOOK:
        del by_peer[next(iter(by_peer))]
