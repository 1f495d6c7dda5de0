"""Answers: every entry once, in order, in frames that an honest peer takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from entry_forge import OTHER, OWNER, WRITER, Forge
from stored_journals import stored_journal

from lattica.errors import EntryRefusedError
from lattica.store.absorb import check_signatures
from lattica.store.entry import ChainId, Lane, Verifier, read_entry
from lattica.store.journal import Journal
from lattica.store.namespace import Policy
from lattica.store.sync_answer import ANSWER_BYTES, ANSWER_ENTRIES, answer
from lattica.store.sync_state import locator_of
from lattica.store.sync_wire import MAX_FRAME, MAX_FRAME_ENTRIES, Locator

A, B = (ChainId(key.peer_id.raw, Lane.DATA) for key in (WRITER, OTHER))


@pytest.fixture
def forge() -> Forge:
    return Forge(Policy.OPEN)


async def portions(journal: Journal, wanted: dict[ChainId, Locator]) -> list[list[bytes]]:
    found = [entries async for entries in answer(journal, journal._disk, wanted)]
    for frame in found:
        assert sum(map(len, frame)) < MAX_FRAME
        assert len(frame) <= MAX_FRAME_ENTRIES
        check_signatures(
            [read_entry(raw, journal.genesis.namespace) for raw in frame], Verifier(journal.genesis.namespace)
        )
    return found


def seqs(journal: Journal, raws: Sequence[bytes]) -> list[tuple[ChainId, int]]:
    entries = [read_entry(raw, journal.genesis.namespace) for raw in raws]
    return [(entry.chain, entry.body.seq) for entry in entries]


async def test_an_answer_holds_what_comes_after_what_the_peer_has_of_what_it_asks_for(
    forge: Forge, tmp_path: Path
) -> None:
    half: Locator = []
    for _ in range(10):
        forge.write(WRITER)
        forge.write(OTHER, deps=[forge.entries[-1]])
        half = locator_of(forge.ledger.chain(A)) if len(forge.entries) == 10 else half
    async with stored_journal(tmp_path / "store", forge.genesis, OWNER) as journal:
        await journal.receive([entry.raw for entry in forge.entries])
        assert await portions(journal, {A: half}) == [[entry.raw for entry in forge.entries[10::2]]]
        assert await portions(journal, {A: half, B: []}) == [
            [entry.raw for entry in forge.entries if entry.chain == B or entry.body.seq > 5]
        ]
        assert await portions(journal, {A: locator_of(forge.ledger.chain(A))}) == []
        assert await portions(journal, {ChainId(OWNER.peer_id.raw, 0): []}) == []
        assert await portions(journal, {}) == []


async def test_a_long_answer_comes_in_portions(forge: Forge, tmp_path: Path) -> None:
    for _ in range(ANSWER_ENTRIES + 10):
        forge.write(WRITER)
    async with stored_journal(tmp_path / "store", forge.genesis, OWNER) as journal:
        await journal.receive([entry.raw for entry in forge.entries])
        found = await portions(journal, {A: []})
        assert len(found) > 1
        assert [raw for frame in found for raw in frame] == [entry.raw for entry in forge.entries]
        assert all(sum(map(len, frame)) < ANSWER_BYTES + 1000 for frame in found)


@pytest.mark.parametrize("bad", [0, 1])
async def test_what_could_not_be_passed_on_is_not_taken(forge: Forge, tmp_path: Path, bad: int) -> None:
    """An entry that its author has not signed, though perhaps the next one: we would seem to be the forger."""
    raws = [forge.write(WRITER).raw, forge.write(WRITER).raw]
    raws[bad] = raws[bad][:-1] + bytes([raws[bad][-1] ^ 1])
    async with stored_journal(tmp_path / "store", forge.genesis, OWNER) as journal:
        with pytest.raises(EntryRefusedError, match="signature"):
            await journal.receive(raws)
        assert not journal.frontier.heads


async def test_of_an_answer_what_does_not_count_any_more_is_left_out(forge: Forge, tmp_path: Path) -> None:
    for _ in range(3):
        forge.write(WRITER)
    async with stored_journal(tmp_path / "store", forge.genesis, WRITER) as journal:
        await journal.receive([entry.raw for entry in forge.entries])
        revocation = forge.revoke(OWNER, WRITER, None, last=1)
        await journal.receive([revocation.raw])
        assert seqs(journal, (await portions(journal, {A: []}))[0]) == [(A, 1)]
