"""One replica of a namespace in memory: the entries that count, and the document that they make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pycrdt import Doc, TransactionEvent

from lattica.identity import IdentityKey
from lattica.store.burial import as_placed
from lattica.store.canonical import STATE_LIMITS
from lattica.store.chain import client_id
from lattica.store.control import Action, encode_action, kind_of
from lattica.store.entry import (
    DEP_BYTES,
    MARK_BYTES,
    MAX_DEPS,
    OVERHEAD,
    Body,
    ChainId,
    Dep,
    Entry,
    Kind,
    Lane,
    sign_entry,
)
from lattica.store.graves import Content, GraveBook, Graves, whole_document
from lattica.store.ledger import Base, Fraud, Ledger, Verdict
from lattica.store.namespace import Genesis
from lattica.store.roots import TextRoots
from lattica.store.state import Folded
from lattica.store.yupdate import read_update
from lattica.store.yupdate_places import ItemParents

_EMPTY_UPDATE = b"\0\0"


@contextlib.contextmanager
def observed(ydoc: Doc[Any], updates: list[bytes]) -> Iterator[None]:
    """Note the update of a transaction in this block, unless it is empty."""

    def note(event: TransactionEvent) -> None:
        if event.update != _EMPTY_UPDATE:
            updates.append(event.update)

    subscription = ydoc.observe(note)
    try:
        yield
    finally:
        ydoc.unobserve(subscription)


class Before(NamedTuple):
    """What a replica has held; it must not be changed.

    Attributes:
        document: The document.
        items: Where its items are.
    """

    document: Doc[Any]
    items: ItemParents


class Replica:
    """The entries that count, and their document.

    Attributes:
        ledger: The entries.
        own: Our peer ID.
        ydoc: The document, writing as our client ID. Replaced when we resume after entries that do not count any more.
        tops: The highest numbers that we have used ourselves, also of entries that do not count.
        snapshotted: How many of the entries the snapshot on disk holds that this was made from; 0 if from none.
    """

    def __init__(
        self,
        genesis: Genesis,
        own: bytes,
        frozen: Mapping[ChainId, Fraud] | None = None,
        base: Base | None = None,
    ) -> None:
        self.ledger = Ledger(genesis, frozen, base)
        self.own = own
        self.tops = dict.fromkeys(Lane, 0)
        self.snapshotted = 0
        self.ydoc: Doc[Any] = Doc(client_id=self._client())
        self._graves: Graves | None = None
        self._book: GraveBook | None = None
        if base is not None:
            self.ydoc.apply_update(base.state.update)

    @property
    def genesis(self) -> Genesis:
        """The namespace's."""
        return self.ledger.genesis

    def _client(self) -> int:
        chain = self.ledger.chain(ChainId(self.own, Lane.DATA))
        top = max(chain.head, self.tops[Lane.DATA])
        if chain.epochs and top == chain.head:
            return chain.epochs[-1].client
        return client_id(self.genesis.namespace, self.own, top + 1)

    def counts(self, entry: Entry) -> bool:
        """Whether the entry is one of those that count."""
        return self.ledger.chain(entry.chain).mark(entry.body.seq) == entry.mark

    def add(self, entry: Entry) -> Verdict:
        """Add an entry whose signature is good; as `Ledger.add`."""
        verdict = self.ledger.add(entry)
        if verdict is Verdict.ADDED and entry.body.kind is Kind.UPDATE:
            if self._book is not None and self._book.concerns(self.ledger.update):
                self.unbury()
            self.ydoc.apply_update(as_placed(entry.body.payload, self.ledger.displaced))
            if entry.body.author == self.own:
                self.renew_client()
        return verdict

    def add_own(self, entry: Entry) -> Verdict:
        """Add an entry that the document has made itself."""
        verdict = self.ledger.add(entry)
        if verdict in (Verdict.ADDED, Verdict.CUTS):
            self.tops[entry.body.lane] = entry.body.seq
        return verdict

    def used(self, lane: Lane, seq: int) -> None:
        """Take note of a number that an entry of ours has, though it may not count."""
        if seq > self.tops[lane]:
            self.tops[lane] = seq
            self.renew_client()

    def renew_client(self) -> None:
        """Let the document write as the client ID that our next entry has."""
        client = self._client()
        if self.ydoc.client_id != client:
            renewed: Doc[Any] = Doc(client_id=client)
            renewed.apply_update(self.ydoc.get_update())
            self.ydoc = renewed

    def fold(self, seq: int, folded: Folded, items: ItemParents) -> None:
        """Put a checkpoint's state in the place of what it covers, all of which is here.

        Args:
            seq: Number of the checkpoint.
            folded: Its state, to whose document `add_beyond` has added what is beyond it.
            items: Where the items of that document are.
        """
        self.ledger.forget(seq, folded.folds, items)
        self.ydoc, self._graves, self._book = folded.document, None, None
        self.renew_client()

    # what the document holds

    def content(self) -> Content:
        """All that the document holds, for a thread or a snapshot."""
        return Content(self.ydoc.get_update(), self._graves)

    def take_content(self, content: Content) -> None:
        """Fill the document, which must be empty."""
        self.ydoc.apply_update(content.update)
        self._graves = content.graves
        self._book = None if content.graves is None else GraveBook(content.graves)

    def bury(self, content: Content) -> None:
        """Keep out of the document what is in graves; what was taken from here before, and then buried, says what."""
        if content.graves is None or content.graves is self._graves:
            return
        book = GraveBook(content.graves)
        renewed: Doc[Any] = Doc(client_id=self.ydoc.client_id)
        renewed.apply_update(content.update)
        news = self.ydoc.get_update(renewed.get_state())
        if not book.concerns(read_update(news, limits=STATE_LIMITS)):
            renewed.apply_update(news)
            self.ydoc, self._graves, self._book = renewed, content.graves, book

    def unbury(self) -> None:
        """Make the document whole. Half a second for a million values that were replaced."""
        self.ydoc = whole_document(self.content(), self.ydoc.client_id)
        self._graves = self._book = None

    # our own entries

    def write(self, key: IdentityKey, update: bytes, time: int) -> Entry:
        """An entry of ours with what the document has written; not added yet."""
        return self._sign(key, Lane.DATA, Kind.UPDATE, update, time, self._fitting(self._news(Lane.DATA), update))

    def join(self, key: IdentityKey, capability: bytes, time: int) -> Entry:
        """An entry of ours that presents a capability; not added yet."""
        return self._sign(key, Lane.DATA, Kind.JOIN, capability, time, ())

    def control(self, key: IdentityKey, action: Action, time: int) -> Entry:
        """An entry of ours that grants, revokes or folds; not added yet."""
        kind = kind_of(action)
        owner = ChainId(self.genesis.owner.raw, Lane.CONTROL)
        news = [dep for dep in self._news(Lane.CONTROL) if (dep.author, dep.lane) == owner]
        return self._sign(key, Lane.CONTROL, kind, encode_action(action), time, news)

    def _sign(self, key: IdentityKey, lane: Lane, kind: Kind, payload: bytes, time: int, deps: Sequence[Dep]) -> Entry:
        chain = self.ledger.chain(ChainId(self.own, lane))
        body = Body(
            author=self.own,
            lane=lane,
            kind=kind,
            seq=max(chain.head, self.tops[lane]) + 1,
            after=chain.head,
            prev=chain.head_hash,
            time=max(time, chain.time + 1),
            deps=tuple(deps),
            payload=payload,
        )
        return sign_entry(key, self.genesis.namespace, body)

    def _fitting(self, control: list[Dep], update: bytes) -> list[Dep]:
        """What the update refers to, and as much of what is new of rights as fits; the rest can be said later."""
        own = ChainId(self.own, Lane.DATA)
        seen = self.ledger.chain(own).seen
        needed = self.ledger.needed(update, own)
        deps = [self._dep(chain, seq) for chain, seq in needed.items() if seq > seen.get(chain, 0)]
        room = min((self.genesis.limits.entry - OVERHEAD - len(update)) // DEP_BYTES, MAX_DEPS) - len(deps)
        return [*control[: max(room, 0)], *deps]

    def _news(self, lane: Lane) -> list[Dep]:
        """The control chains, as far as our entries in a lane do not say yet that we have seen them."""
        own = ChainId(self.own, lane)
        seen = self.ledger.chain(own).seen
        heads = {chain: found.head for chain, found in self.ledger.chains.items() if chain.lane == Lane.CONTROL}
        if lane is Lane.DATA:
            heads.update(self._folded())
        return [self._dep(chain, seq) for chain, seq in heads.items() if chain != own and seq > seen.get(chain, 0)]

    def _folded(self) -> dict[ChainId, int]:
        """How far we have followed the owner: not to a checkpoint that we have not folded, unless rights depend on it.

        By that others know that we know what of ours had no effect, and need not tell it any more.
        """
        unfolded, owner = self.ledger.unfolded, self.genesis.owner.raw
        if not unfolded:
            return {}
        granted = (right.seq for right in self.ledger.rights_of(self.own) if right.granter == owner)
        if max(granted, default=0) > unfolded:
            return {}
        chain = ChainId(owner, Lane.CONTROL)
        return {chain: self.ledger.chain(chain).before(unfolded)}

    def _dep(self, chain: ChainId, seq: int) -> Dep:
        mark = self.ledger.chains[chain].mark(seq)
        return Dep(chain.author, Lane(chain.lane), seq, mark or bytes(MARK_BYTES))


def add_beyond(folded: Folded, beyond: Iterable[Entry]) -> ItemParents:
    """Add what is beyond a checkpoint to the document of its state. For a thread: takes 30 us for each.

    Args:
        folded: The state; its document is changed.
        beyond: The entries of data that count and are beyond it, in order.

    Returns:
        Where the items of the document are then.

    Raises:
        EntryRefusedError: One of the entries does not fit; the document is of no use any more.
    """
    items = ItemParents(TextRoots())
    items.load(folded.items)
    for entry in beyond:
        if entry.body.kind is Kind.UPDATE:
            placement = items.place(read_update(entry.body.payload))
            items.add(placement)
            folded.document.apply_update(as_placed(entry.body.payload, placement.displaced))
    return items
