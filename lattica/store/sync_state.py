"""What a replica knows of another one, and what follows: what to tell it, what to ask it for. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from lattica.store.chain import Chain
from lattica.store.entry import ChainId
from lattica.store.frontier import Frontier, Head
from lattica.store.ledger import Ledger
from lattica.store.sync_wire import NOTHING, SHORT_MARK, Locator, Offer


def offer_of(head: Head) -> Offer:
    """How a head is told."""
    return Offer(head.seq, head.hash[:SHORT_MARK])


def locator_of(chain: Chain) -> Locator:
    """Some of the chain's entries: the last one, and then with gaps that double."""
    found = []
    at, step = len(chain) - 1, 1
    while at >= 0:
        seq = chain.seq_at(at)
        found.append(Offer(seq, (chain.mark(seq) or b"")[:SHORT_MARK]))
        at -= step
        step *= 2
    return found


def last_common(chain: Chain, locator: Locator) -> int:
    """Number of the last entry of the locator that the chain has too; 0 without one."""
    for offer in sorted(locator, reverse=True):
        mark = chain.mark(offer.seq)
        if mark is not None and mark[:SHORT_MARK] == offer.mark:
            return offer.seq
    return 0


class LinkState:
    """What one peer has said that it has, and what it has been told.

    Attributes:
        fetching: Chains that it was asked for, and has not answered yet.
    """

    def __init__(self) -> None:
        self.fetching: frozenset[ChainId] = frozenset()
        self._told: dict[ChainId, Offer] = {}
        self._offers: dict[ChainId, Offer] = {}
        self._futile: dict[ChainId, tuple[Offer, Offer]] = {}
        self._proofs_told: dict[ChainId, int] = {}

    # what the peer says

    def hear(self, heads: Mapping[ChainId, Offer]) -> None:
        """Note what it has."""
        self._offers.update(heads)

    def got(self, chains: Iterable[tuple[ChainId, Offer]]) -> None:
        """Note entries that it has sent: it need not be told of them."""
        for chain, offer in chains:
            if offer.seq > self._offers.get(chain, NOTHING).seq:
                self._offers[chain] = offer

    def offered(self, chain: ChainId) -> Offer:
        """The last entry that it says that it has."""
        return self._offers.get(chain, NOTHING)

    # what we tell it

    def news(self, frontier: Frontier) -> dict[ChainId, Offer]:
        """Heads that it has not been told of, nor has told us of; they count as told then."""
        found = {}
        for chain, head in frontier.heads.items():
            offer = offer_of(head)
            if self._told.get(chain) != offer:
                self._told[chain] = offer
                if self._offers.get(chain) != offer:
                    found[chain] = offer
        if len(self._told) > len(frontier.heads):
            for chain in self._told.keys() - frontier.heads.keys():
                del self._told[chain]
                found[chain] = NOTHING
        return found

    def new_proofs(self, frontier: Frontier) -> list[ChainId]:
        """Chains whose frauds it has not been told of; they count as told then."""
        found = [chain for chain, seq in frontier.frozen.items() if self._proofs_told.get(chain) != seq]
        self._proofs_told.update((chain, frontier.frozen[chain]) for chain in found)
        return found

    # what we ask it for

    def to_fetch(self, ledger: Ledger, busy: Collection[ChainId]) -> dict[ChainId, Locator]:
        """Chains that it has more of than we have, unless they are fetched elsewhere. It is being asked then."""
        if self.fetching:
            return {}
        found = {}
        for chain, offer in self._offers.items():
            if chain in busy or not _lacks(ledger, chain, offer):
                continue
            known = ledger.chain(chain)
            if self._futile.get(chain) != (offer, _head(known)):
                found[chain] = locator_of(known)
        self.fetching = frozenset(found)
        return found

    def answered(self, ledger: Ledger) -> bool:
        """Note that its answer has ended; whether it has sent anything of use.

        What is lacking still, it could not send, or it does not count here. It is not asked for that again until either
        side has something new in that chain.
        """
        useful = False
        for chain in self.fetching:
            known, offer = ledger.chain(chain), self._offers.get(chain, NOTHING)
            if _lacks(ledger, chain, offer):
                self._futile[chain] = (offer, _head(known))
            else:
                useful = True
                self._futile.pop(chain, None)
        self.fetching = frozenset()
        return useful


def _head(chain: Chain) -> Offer:
    return Offer(chain.head, chain.head_hash[:SHORT_MARK]) if chain.head else NOTHING


def _lacks(ledger: Ledger, chain: ChainId, offer: Offer) -> bool:
    """Whether the other one has something of the chain that counts and is not here, as far as can be told."""
    known = ledger.chain(chain)
    fraud = ledger.frozen.get(chain)
    if fraud is not None and offer.seq >= fraud.seq:
        return known.head < fraud.seq - 1
    if offer.seq != known.head:
        return offer.seq > known.head
    return offer != _head(known)
