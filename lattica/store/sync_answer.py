"""Answers to what a peer asks for: entries from the disk, in the order in which they came to be there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Record
from lattica.store.entry import MARK_BYTES, ChainId
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

    Each comes after those that it builds on.
    """
    known = {chain: last_common(journal.replica.ledger.chain(chain), locator) for chain, locator in wanted.items()}
    namespace = journal.genesis.namespace
    row = await disk.row_after(namespace.raw, [(*chain, seq) for chain, seq in known.items()])
    if row is None:
        return
    portion: list[bytes] = []
    size = 0
    heads = ((chain, journal.replica.ledger.chain(chain).head) for chain in known)
    ends = {chain: head for chain, head in heads if head > known[chain]}
    row -= 1
    while ends and (records := await disk.records(namespace.raw, row, PAGE)):
        row = records[-1][0]
        for _, record in records:
            chain = ChainId(record.author, record.lane)
            if record.seq > known.get(chain, record.seq) and _counts(journal, chain, record):
                portion.append(record.raw)
                size += len(record.raw)
                if size >= ANSWER_BYTES or len(portion) >= ANSWER_ENTRIES:
                    yield portion
                    portion, size = [], 0
            if record.seq >= ends.get(chain, record.seq + 1):
                del ends[chain]
    if portion:
        yield portion


def _counts(journal: Journal, chain: ChainId, record: Record) -> bool:
    return journal.replica.ledger.chain(chain).mark(record.seq) == record.hash[:MARK_BYTES]
