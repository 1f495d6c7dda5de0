"""One author's chain, as far as a replica has to remember it: a few bytes for each entry."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
from blake3 import blake3

from lattica.store.arrays import from_runs, pack, to_runs, unpack
from lattica.store.entry import MARK_BYTES, ChainId, Dep, Entry, Lane
from lattica.store.namespace import NamespaceId

MAX_EPOCHS = 1 << 14
"""Epochs of one chain: each costs every replica some 200 bytes and 40 us, for ever. An honest author begins one when it
has built on what a fraud or a revocation takes back."""

_CLIENT_BITS = 53
_STRETCH = 1 << 16


class Epoch(NamedTuple):
    """What an author wrote since it resumed, or began.

    Attributes:
        first: Number of the first entry.
        client: The Yjs client ID of its structs.
    """

    first: int
    client: int


class Fold(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is left of a chain's entries up to one of them, when these are dropped.

    Attributes:
        author: Whose chain of data it is.
        seq: Number of that entry.
        hash: Its hash.
        time: Its hybrid time.
        seen: Author, lane, and number of the last entry of each other chain that the author had seen; in order.
        epochs: First number, Yjs client ID and next clock of each epoch.
        capabilities: That the author has presented, in order.
    """

    author: bytes
    seq: int
    hash: bytes
    time: int
    seen: tuple[tuple[bytes, int, int], ...]
    epochs: tuple[tuple[int, int, int], ...]
    capabilities: tuple[bytes, ...]


class ChainDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A chain as a snapshot holds it; see `Chain`.

    Attributes:
        head_hash: Hash of its last entry.
        time: That entry's.
        seen: Number of another chain, in the order of the dump, and of the last entry of it that the author has seen.
        epochs: Of a data chain, in order.
        runs: The first number of each run of entries without gaps, and how many there are; at least one.
        marks: 16 bytes for each entry.
        clocks: 4 bytes for each entry, little endian.
        base: See `Chain`.
        covered: See `Chain`.
        capabilities: See `Chain`.
    """

    head_hash: bytes
    time: int
    seen: list[tuple[int, int]]
    epochs: list[Epoch]
    runs: list[tuple[int, int]]
    marks: bytes
    clocks: bytes
    base: int
    covered: dict[int, int]
    capabilities: list[bytes]


def client_id(namespace: NamespaceId, author: bytes, first: int) -> int:
    """The Yjs client ID of the author's entries from number ``first`` on, until it resumes: 53 bits, never 0.

    Two that are alike can be found by trying, and freeze their authors. So each try is made to take some 40 us: to find
    two of one's own takes an hour still, to find another author's takes thousands of years.
    """
    seed = b"lattica-store-client/1:" + namespace.raw + first.to_bytes(8) + author
    stretched = blake3(seed).digest(_STRETCH)
    return int.from_bytes(blake3(stretched).digest(8)) % ((1 << _CLIENT_BITS) - 1) + 1


def new_client(namespace: NamespaceId, entry: Entry) -> int:
    """The Yjs client ID with which an entry of data begins; 0 if it goes on with that of the one before it."""
    body = entry.body
    if body.lane is not Lane.DATA or body.seq == body.after + 1 > 1:
        return 0
    return client_id(namespace, body.author, body.seq)


class Chain:
    """The entries of one author that count, in one lane.

    Attributes:
        head: Number of the last one; 0 if there is none.
        head_hash: Its hash; the namespace's ID if there is none.
        time: Its hybrid time.
        seen: For each other chain the last entry that the author has seen.
        epochs: Of a data chain, in order.
        base: Number of the last entry that is covered by a checkpoint: those before it are not remembered. 0: none is.
        covered: For each client ID the clock that it had reached there.
        capabilities: That the author has presented, as sent.
    """

    def __init__(self, namespace: NamespaceId) -> None:
        self.head = 0
        self.head_hash = namespace.raw
        self._origin = namespace.raw[:MARK_BYTES]
        self.time = 0
        self.seen: dict[ChainId, int] = {}
        self.epochs: list[Epoch] = []
        self.base = 0
        self.covered: dict[int, int] = {}
        self.capabilities: list[bytes] = []
        self._numbers: dict[int, int] = {}
        self._seqs = array("Q")
        self._marks = bytearray()
        self._clocks = array("I")

    def __len__(self) -> int:
        return len(self._seqs)

    @classmethod
    def load(cls, namespace: NamespaceId, dump: ChainDump, chains: Sequence[ChainId]) -> Self:
        """The chain that was dumped among ``chains``."""
        chain = cls(namespace)
        chain.head_hash, chain.time = dump.head_hash, dump.time
        chain.seen = {chains[number]: seq for number, seq in dump.seen}
        for epoch in dump.epochs:
            chain.begin(epoch)
        chain._seqs, chain._clocks = from_runs(dump.runs), unpack("I", dump.clocks)
        chain._marks = bytearray(dump.marks)
        chain.head = chain._seqs[-1]
        chain.base, chain.covered, chain.capabilities = dump.base, dump.covered, dump.capabilities
        return chain

    def dump(self, numbers: Mapping[ChainId, int]) -> ChainDump:
        """All of it, for `load`, with the other chains by number. It must have entries."""
        seen = [(numbers[chain], seq) for chain, seq in self.seen.items()]
        runs, clocks = to_runs(self._seqs), pack(self._clocks)
        marks, epochs = bytes(self._marks), list(self.epochs)
        return ChainDump(
            self.head_hash, self.time, seen, epochs, runs, marks, clocks, self.base, dict(self.covered),
            list(self.capabilities),
        )  # fmt: skip

    @classmethod
    def unfold(cls, namespace: NamespaceId, fold: Fold) -> Self:
        """The chain that was folded, without its entries but the last."""
        chain = cls(namespace)
        chain.head, chain.head_hash, chain.time = fold.seq, fold.hash, fold.time
        chain.seen = {ChainId(author, lane): seq for author, lane, seq in fold.seen}
        for first, client, _ in fold.epochs:
            chain.begin(Epoch(first, client))
        chain._seqs.append(fold.seq)
        chain._marks += fold.hash[:MARK_BYTES]
        chain._clocks.append(fold.epochs[-1][2] if fold.epochs else 0)
        chain.base, chain.covered = fold.seq, {client: clock for _, client, clock in fold.epochs}
        chain.capabilities = list(fold.capabilities)
        return chain

    def fold(self, author: bytes) -> Fold:
        """What is left of it when all entries are dropped. It must have entries."""
        seen = sorted((chain.author, int(chain.lane), seq) for chain, seq in self.seen.items())
        epochs = [(epoch.first, epoch.client, self.clock_at(epoch.client, self.head)) for epoch in self.epochs]
        capabilities = tuple(self.capabilities)
        return Fold(author, self.head, self.head_hash, self.time, tuple(seen), tuple(epochs), capabilities)

    def forget(self, fold: Fold) -> None:
        """Remember no more of the entries up to the one of the fold than that says."""
        at = bisect_left(self._seqs, fold.seq)
        del self._seqs[:at], self._clocks[:at], self._marks[: at * MARK_BYTES]
        self.base, self.covered = fold.seq, {client: clock for _, client, clock in fold.epochs}

    @property
    def clock(self) -> int:
        """The next clock of the current epoch."""
        return self._clocks[-1] if self._clocks else 0

    def append(self, entry: Entry, clock: int = 0) -> None:
        """Add an entry at the end, after which its epoch's clock is ``clock``; dependencies become seen."""
        body = entry.body
        self._seqs.append(body.seq)
        self._marks += entry.mark
        self._clocks.append(clock)
        self.head, self.head_hash, self.time = body.seq, entry.hash, body.time
        self.seen = self.seen_with(body.deps)

    def begin(self, epoch: Epoch) -> None:
        """What is added from here on belongs to the epoch."""
        self._numbers[epoch.client] = len(self.epochs)
        self.epochs.append(epoch)

    def seen_with(self, deps: Sequence[Dep]) -> dict[ChainId, int]:
        """What the author has seen with these besides; the chain stays as it is."""
        if not deps:
            return self.seen
        seen = dict(self.seen)
        for dep in deps:
            chain = ChainId(dep.author, dep.lane)
            seen[chain] = max(dep.seq, seen.get(chain, 0))
        return seen

    def mark(self, seq: int) -> bytes | None:
        """How the entry of that number is named; ``None`` if there is none. What the first comes after is number 0."""
        if not seq:
            return self._origin
        at = seq - self._seqs[0] if self._seqs else 0
        if not 0 <= at < len(self._seqs) or self._seqs[at] != seq:
            at = bisect_left(self._seqs, seq)
            if at == len(self._seqs) or self._seqs[at] != seq:
                return None
        return bytes(self._marks[at * MARK_BYTES : (at + 1) * MARK_BYTES])

    def before(self, seq: int) -> int:
        """Number of the last entry before this number; 0 if there is none."""
        at = bisect_left(self._seqs, seq)
        return self._seqs[at - 1] if at else 0

    def seq_at(self, index: int) -> int:
        """Number of the entry at an index."""
        return self._seqs[index]

    def first_of(self, client: int) -> int:
        """Number of the first entry of a client's, which has begun here."""
        return self.epochs[self._numbers[client]].first

    def clock_at(self, client: int, seq: int) -> int:
        """The clock that the client had reached with the entry ``seq``; 0 if it had not begun.

        For an entry that is covered by a checkpoint it is the clock that the client had reached at the last such.
        """
        number = self._numbers.get(client)
        if seq <= self.base:
            return self.covered.get(client, 0)
        if number is None or self.epochs[number].first > seq:
            return 0
        end = self.epochs[number + 1].first if number + 1 < len(self.epochs) else self.head + 1
        last = min(seq, end - 1)
        if last <= self.base:
            return self.covered.get(client, 0)
        return self._clocks[bisect_right(self._seqs, last) - 1]

    def reaching(self, client: int, clock: int) -> int:
        """Number of the first entry, at or after the base, with which the client has reached a clock, as it has."""
        if clock <= self.covered.get(client, 0):
            return self.base
        number = self._numbers[client]
        start = bisect_left(self._seqs, max(self.epochs[number].first, self.base + 1))
        end = len(self._seqs)
        if number + 1 < len(self.epochs):
            end = bisect_left(self._seqs, self.epochs[number + 1].first)
        return self._seqs[bisect_left(self._clocks, clock, start, end)]
