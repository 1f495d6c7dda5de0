"""What a replica knows of another one, and what follows: what to tell it, what to ask it for. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lattica.store.chain import Chain
from lattica.store.entry import ChainId, Lane
from lattica.store.frontier import Frontier, Head
from lattica.store.ledger import Fraud, Ledger
from lattica.store.sync_wire import MAX_PROOFS, MAX_WANTED, NOTHING, SHORT_MARK, Locator, Offer

NEWS_HEADS = 1 << 12
"""Heads that are told in one frame: some 300 KB. With a question and a proof of the largest entries they fit."""
NEWS_PROOF_BYTES = 64 << 10
"""Bytes of proofs in a frame, unless the first has more."""


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


FUTILE_PAUSE_S = 0.1
"""Seconds before a peer is asked again for what it could not give, or we could not place; doubles each time."""
LONGEST_FUTILE_PAUSE_S = 60.0
MAX_RETOLD = 8
"""Times that one proof is told again to a peer that goes on offering what it proves void."""


@dataclass(slots=True)
class _Futile:
    """A question whose answer has not brought a chain to where the peer says it is.

    Attributes:
        head: Ours of the chain, then.
        offer: The peer's.
        revision: Of the ledger, then: whatever comes in may be what was missing.
        without: What was lacking too and not asked for, since it was fetched elsewhere: it may be what was missing.
        times: How often in a row.
        retry_at: When to ask again at the earliest, if there is something new.
    """

    head: Offer
    offer: Offer
    revision: int
    without: frozenset[ChainId]
    times: int
    retry_at: float


class LinkState:
    """What one peer has said that it has, and what it has been told; ``now`` is in seconds of a monotonic clock.

    Attributes:
        fetching: Chains that it was asked for, and has not answered yet.
        fetching_state: Number of the checkpoint whose state it was asked for, and has not answered yet; 0: none.
        leaves_out: Whether it has chains of strangers that are not taken in here.
        is_behind: Whether there is more to tell it than `news` and `new_proofs` gave for one frame.
    """

    def __init__(self) -> None:
        self.fetching: frozenset[ChainId] = frozenset()
        self._asked_for: dict[ChainId, Offer] = {}
        self.fetching_state = 0
        self._base = 0
        self._base_told = 0
        self._state_pause = FUTILE_PAUSE_S
        self._state_at = 0.0
        self._without: frozenset[ChainId] = frozenset()
        self.is_behind = False
        self.leaves_out = False
        self._full_told = False
        self._told: dict[ChainId, Offer] = {}
        self._offers: dict[ChainId, Offer] = {}
        self._futile: dict[ChainId, _Futile] = {}
        self._proofs_told: dict[ChainId, int] = {}
        self._retold: Counter[ChainId] = Counter()

    @property
    def is_asking(self) -> bool:
        """Whether it has not answered yet."""
        return bool(self.fetching or self.fetching_state)

    # what the peer says

    def hear(self, heads: Mapping[ChainId, Offer], base: int = 0) -> None:
        """Note what it has, and the checkpoint whose state it keeps in place of entries."""
        self._offers.update(heads)
        for chain, told in [*self._proofs_told.items()]:
            if chain in heads and heads[chain].seq >= told and self._retold[chain] < MAX_RETOLD:
                self._retold[chain] += 1
                del self._proofs_told[chain]
        self._base = max(base, self._base)

    def got(self, chains: Iterable[tuple[ChainId, Offer]]) -> None:
        """Note entries that it has sent: it need not be told of them."""
        for chain, offer in chains:
            if offer.seq > self._offers.get(chain, NOTHING).seq:
                self._offers[chain] = offer

    def offered(self, chain: ChainId) -> Offer:
        """The last entry that it says that it has."""
        return self._offers.get(chain, NOTHING)

    def is_ahead(self, ledger: Ledger, chain: ChainId) -> bool:
        """Whether it has something of the chain that is not here."""
        return _lacks(ledger, chain, self.offered(chain))

    # what we tell it

    def news(self, frontier: Frontier) -> dict[ChainId, Offer]:
        """Heads that it has not been told of, nor has told us of, for one frame; they count as told then."""
        found: dict[ChainId, Offer] = {}
        self.is_behind = False
        for chain, head in frontier.heads.items():
            offer = offer_of(head)
            if self._told.get(chain) != offer:
                if len(found) >= NEWS_HEADS:
                    self.is_behind = True
                    return found
                self._told[chain] = offer
                if self._offers.get(chain) != offer:
                    found[chain] = offer
        if len(self._told) > len(frontier.heads):
            for chain in self._told.keys() - frontier.heads.keys():
                del self._told[chain]
                found[chain] = NOTHING
        return found

    def new_base(self, base: int) -> int:
        """The checkpoint whose state we keep, if it has not been told, or else 0; it counts as told then."""
        if base == self._base_told:
            return 0
        self._base_told = base
        return base

    def new_full(self, *, is_full: bool) -> bool:
        """Whether it is to be told that strangers are left out here; that counts as told then."""
        is_news = is_full and not self._full_told
        self._full_told |= is_news
        return is_news

    def new_proofs(self, frontier: Frontier, frauds: Mapping[ChainId, Fraud]) -> list[Fraud]:
        """Of ``frauds`` those that it has not been told of, for one frame; they count as told then."""
        found: list[Fraud] = []
        size = 0
        for chain, seq in frontier.frozen.items():
            if self._proofs_told.get(chain) == seq:
                continue
            fraud = frauds[chain]
            size += len(fraud.one) + len(fraud.other)
            if len(found) >= MAX_PROOFS or (found and size > NEWS_PROOF_BYTES):
                self.is_behind = True
                break
            self._proofs_told[chain] = seq
            found.append(fraud)
        return found

    def served(self, chains: Iterable[ChainId]) -> None:
        """Note that it was sent these: their proofs are told again, since it may have had no use for them before."""
        for chain in chains:
            self._proofs_told.pop(chain, None)

    # what we ask it for

    def to_fetch(self, ledger: Ledger, busy: Collection[ChainId], now: float) -> dict[ChainId, Locator]:
        """Chains that it has more of than we have, unless they are fetched elsewhere. It is being asked then."""
        if self.is_asking:
            return {}
        found = {}
        folded = self._needs_state(ledger)  # then it has no data that could be placed here
        lacking = {
            chain: offer
            for chain, offer in self._offers.items()
            if _lacks(ledger, chain, offer) and not (folded and chain.lane == Lane.DATA)
        }
        strangers = [chain for chain in lacking if chain.lane == Lane.DATA and not ledger.crowd.takes(chain.author)]
        self.leaves_out = bool(strangers)
        for chain in strangers:
            del lacking[chain]
        self._without = frozenset(lacking) & frozenset(busy)
        for chain, offer in lacking.items():
            if chain not in self._without and not self._is_futile(chain, offer, ledger, now):
                found[chain] = locator_of(ledger.chain(chain))
                if len(found) >= MAX_WANTED:
                    break
        self.fetching = frozenset(found)
        self._asked_for = {chain: lacking[chain] for chain in found}
        return found

    def state_to_fetch(self, ledger: Ledger, now: float) -> int:
        """Number of the checkpoint whose state has to be had before anything else, or 0. It is being asked then."""
        if self.is_asking or now < self._state_at or not self._needs_state(ledger):
            return 0
        if self._base in ledger.rights.checkpoints:
            self.fetching_state = self._base
        return self.fetching_state

    def got_state(self, now: float, *, useful: bool) -> None:
        """Note that it has sent a state, or what was none any more."""
        self.fetching_state = 0
        if not useful:
            self._state_at = now + self._state_pause
            self._state_pause = min(2 * self._state_pause, LONGEST_FUTILE_PAUSE_S)

    def _needs_state(self, ledger: Ledger) -> bool:
        """Whether it has dropped entries that are not here."""
        if self._base <= ledger.base:
            return False
        checkpoint = ledger.rights.checkpoints.get(self._base)
        return checkpoint is None or not ledger.reaches(checkpoint)

    def _is_futile(self, chain: ChainId, offer: Offer, ledger: Ledger, now: float) -> bool:
        futile = self._futile.get(chain)
        if futile is None or futile.offer != offer or futile.head != _head(ledger.chain(chain)):
            return False
        if futile.without - self._without:
            return False
        return ledger.revision == futile.revision or now < futile.retry_at

    def answered(self, ledger: Ledger, now: float) -> None:
        """Note that its answer has ended.

        What is lacking still, it could not send, or it builds on what is not here, or it does not count here. It is
        asked for that again when there is something new, here or there; more and more rarely if that does not help.
        What it has offered since it was asked is new: it may not have been in the answer.
        """
        for chain in self.fetching:
            head, offer = _head(ledger.chain(chain)), self._asked_for[chain]
            before = self._futile.pop(chain, None)
            if not _lacks(ledger, chain, self._offers.get(chain, NOTHING)):
                continue
            times = before.times + 1 if before is not None and before.head == head else 0
            pause = min(FUTILE_PAUSE_S * 2.0 ** min(times, 16), LONGEST_FUTILE_PAUSE_S)
            self._futile[chain] = _Futile(head, offer, ledger.revision, self._without, times, now + pause)
        self.fetching = frozenset()


def _head(chain: Chain) -> Offer:
    return Offer(chain.head, chain.head_hash[:SHORT_MARK]) if chain.head else NOTHING


def _lacks(ledger: Ledger, chain: ChainId, offer: Offer) -> bool:
    """Whether the other one has something of the chain that counts and is not here, as far as can be told."""
    known = ledger.chain(chain)
    frozen_from = ledger.frozen_from(chain)
    if offer.seq >= frozen_from:
        return known.head < frozen_from - 1
    if offer.seq != known.head:
        return offer.seq > known.head
    return offer != _head(known)
