"""Answers to what a peer asks for: entries from the disk, in the order in which they came to be there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from lattica.errors import EntryRefusedError
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Record
from lattica.store.entry import MARK_BYTES, ChainId, Entry, Verifier, read_entry
from lattica.store.journal import Journal
from lattica.store.sync_state import last_common
from lattica.store.sync_wire import MAX_FRAME, MAX_FRAME_ENTRIES, Locator

ANSWER_BYTES = 64 << 10
"""Bytes of entries in a frame, from which on it is sent. On the slowest links one takes less time than `SILENCE_S`."""
ANSWER_ENTRIES = 500
"""Entries in a frame, at most: the peer takes them in one step of some 20 ms."""
PAGE = 1000
"""Entries read at a time."""
MAX_HELD_BYTES = MAX_FRAME - (5 << 18)
"""Bytes of entries that wait for a good signature, before one more of the largest size."""


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
    portions = _Portions(Verifier(namespace))
    heads = ((chain, journal.replica.ledger.chain(chain).head) for chain in known)
    ends = {chain: head for chain, head in heads if head > known[chain]}
    row -= 1
    while ends and (records := await disk.records(namespace.raw, row, PAGE)):
        row = records[-1][0]
        for _, record in records:
            chain = ChainId(record.author, record.lane)
            if record.seq > known.get(chain, record.seq) and _counts(journal, chain, record):
                portions.add(read_entry(record.raw, namespace))
                if portions.is_full:
                    yield portions.take()
            if record.seq >= ends.get(chain, record.seq + 1):
                del ends[chain]
    for portion in portions.rest():
        yield portion


def _counts(journal: Journal, chain: ChainId, record: Record) -> bool:
    return journal.replica.ledger.chain(chain).mark(record.seq) == record.hash[:MARK_BYTES]


class _Portions:
    """Gathers entries until those of each chain end with one whose signature is good, which vouches for the others.

    What we got in one frame, and so all that waits here for a good signature, fits in one frame again.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._entries: list[Entry] = []
        self._bytes = 0
        self._unchecked: dict[ChainId, Entry] = {}
        self._bad: set[ChainId] = set()

    @property
    def is_full(self) -> bool:
        """Whether it is time for a frame, and all is vouched for."""
        if self._bytes < ANSWER_BYTES and len(self._entries) < ANSWER_ENTRIES:
            return False
        self._check()
        return not self._bad or self._bytes > MAX_HELD_BYTES or len(self._entries) >= MAX_FRAME_ENTRIES

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._bytes += len(entry.raw)
        self._unchecked[entry.chain] = entry

    def take(self) -> list[bytes]:
        """What is good to send; nothing is left."""
        self._check()
        vouched: set[ChainId] = set()
        good = []
        for entry in reversed(self._entries):
            if entry.chain in vouched or entry.chain not in self._bad or self._is_signed(entry):
                vouched.add(entry.chain)
                good.append(entry.raw)
        self._entries, self._bytes = [], 0
        self._bad.clear()
        return good[::-1]

    def rest(self) -> list[list[bytes]]:
        """The last portion, if there is anything in it."""
        last = self.take()
        return [last] if last else []

    def _check(self) -> None:
        for chain, entry in self._unchecked.items():
            if self._is_signed(entry):
                self._bad.discard(chain)
            else:
                self._bad.add(chain)
        self._unchecked.clear()

    def _is_signed(self, entry: Entry) -> bool:
        try:
            self._verifier.verify(entry)
        except EntryRefusedError:
            return False
        return True
