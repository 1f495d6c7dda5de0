"""Addresses of peers, from whoever told us."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lattica.identity import PeerAddress, PeerId

MAX_BOOK = 10_000
"""Peers whose addresses, and links, are remembered."""
MAX_BOOK_ADDRESSES = 32
"""Addresses remembered of one peer; new ones displace old ones."""


class AddressBook:
    """Bounded, most recently told first."""

    def __init__(self) -> None:
        self._book: OrderedDict[PeerId, dict[str, PeerAddress]] = OrderedDict()

    def add(self, peer: PeerId, addresses: Sequence[PeerAddress]) -> None:
        """Remember addresses."""
        known = self._book.setdefault(peer, {})
        self._book.move_to_end(peer)
        for address in addresses:
            known.pop(address.text, None)
            known[address.text] = address
        for oldest in list(known)[:-MAX_BOOK_ADDRESSES]:
            del known[oldest]
        while len(self._book) > MAX_BOOK:
            self._book.popitem(last=False)

    def of(self, peer: PeerId) -> list[PeerAddress]:
        """What we know, newest first."""
        return list(self._book.get(peer, {}).values())[::-1]

    def forget(self, peer: PeerId) -> None:
        """Drop what we know of a peer."""
        self._book.pop(peer, None)
