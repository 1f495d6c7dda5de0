"""Answers to what a peer asks for: entries from the disk, in the order in which they came to be there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from lattica.errors import EntryRefusedError
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Record
from lattica.store.entry import MARK_BYTES, ChainId, Verifier, read_entry
from lattica.store.journal import Journal
from lattica.store.sync_state import last_common
from lattica.store.sync_wire import Locator

ANSWER_BYTES = 64 << 10
"""Bytes of entries in a frame, from which on it is sent. On the slowest links one takes less time than `SILENCE_S`."""
ANSWER_ENTRIES = 500
"""Entries in a frame, at most: the peer takes them in one step of some 20 ms."""
PAGE = 1000
"""Entries read at a time."""


async def answer(journal: Journal, disk: StoreDisk, wanted: Mapping[ChainId, Locator]) -> AsyncIterator[list[bytes]]:
    """Yield, in portions for one frame each, the entries of some chains that come after those that a peer has.

    Each comes after those that it builds on. The last one of a chain in a portion bears a signature that was checked,
    and so vouches for those before it.
    """
    known = {chain: last_common(journal.replica.ledger.chain(chain), locator) for chain, locator in wanted.items()}
    namespace = journal.genesis.namespace
    row = await disk.row_after(namespace.raw, [(*chain, seq) for chain, seq in known.items()])
    if row is None:
        return
    portions = _Portions(Verifier(namespace), journal)
    row -= 1
    while records := await disk.records(namespace.raw, row, PAGE):
        row = records[-1][0]
        for _, record in records:
            chain = ChainId(record.author, record.lane)
            if record.seq > known.get(chain, record.seq) and _counts(journal, chain, record):
                portions.add(chain, record)
                if portions.is_full:
                    yield portions.take()
    last = portions.take()
    if last:
        yield last


def _counts(journal: Journal, chain: ChainId, record: Record) -> bool:
    return journal.replica.ledger.chain(chain).mark(record.seq) == record.hash[:MARK_BYTES]


class _Portions:
    def __init__(self, verifier: Verifier, journal: Journal) -> None:
        self._verifier = verifier
        self._namespace = journal.genesis.namespace
        self._entries: list[tuple[ChainId, bytes]] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return self._bytes >= ANSWER_BYTES or len(self._entries) >= ANSWER_ENTRIES

    def add(self, chain: ChainId, record: Record) -> None:
        self._entries.append((chain, record.raw))
        self._bytes += len(record.raw)

    def take(self) -> list[bytes]:
        """What is good to send; the rest waits for a signature that vouches for it."""
        vouched: set[ChainId] = set()
        good, left = [], []
        for chain, raw in reversed(self._entries):
            if chain in vouched or self._is_signed(raw):
                vouched.add(chain)
                good.append(raw)
            else:
                left.append((chain, raw))
        self._entries = left[::-1]
        self._bytes = sum(len(raw) for _, raw in left)
        return good[::-1]

    def _is_signed(self, raw: bytes) -> bool:
        try:
            self._verifier.verify(read_entry(raw, self._namespace))
        except EntryRefusedError:
            return False
        return True
