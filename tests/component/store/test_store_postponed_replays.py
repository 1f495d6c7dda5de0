"""An author that goes on anew with each entry, or lets its frauds out one by one, does not keep replicas busy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from entry_forge import OTHER, OWNER, STRANGER, WRITER, Forge
from ledger_replicas import SimReplica
from prometheus_client import REGISTRY

from lattica.background import background_tasks
from lattica.identity import IdentityKey
from lattica.store.disk import open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.entry import Entry, Lane
from lattica.store.journal import Journal
from lattica.store.loading import load_replica
from lattica.store.replay_budget import ReplayBudget
from lattica.store.testing import MemoryNetwork

MANY = 30


@pytest.fixture
def forge() -> Forge:
    """A namespace in which two have written some entries each."""
    forge = Forge()
    for writer in (WRITER, OTHER):
        grant = forge.grant(OWNER, writer)
        forge.write(writer, deps=[grant])
        for _ in range(MANY):
            forge.write(writer)
    return forge


@contextlib.asynccontextmanager
async def journal_of(
    path: Path, forge: Forge, budget: ReplayBudget, key: IdentityKey = STRANGER
) -> AsyncIterator[Journal]:
    """A reader's, or whose the key is, which has all entries."""
    async with open_store_disk(path) as disk, background_tasks() as tasks:
        batch = Batch(forge.namespace.raw)
        batch.genesis(forge.genesis.raw)
        await disk.commit(batch)
        replica = await load_replica(disk, forge.genesis, key.peer_id.raw)
        journal = Journal(key, disk, replica, tasks, budget=budget)
        await journal.receive([entry.raw for entry in forge.entries])
        try:
            yield journal
        finally:
            await journal.close()


class Tired(ReplayBudget):
    """Lets nothing through until it has rested."""

    is_rested = False

    def wait_s(self, now: float) -> float:
        return 0.0 if self.is_rested else 1000.0


def replays() -> float:
    return REGISTRY.get_sample_value("lattica_store_replays_total") or 0.0


def written_by(forge: Forge, author: IdentityKey = WRITER) -> list[Entry]:
    return [entry for entry in forge.entries if entry.chain == (author.peer_id.raw, Lane.DATA)]


def simulated(forge: Forge, entries: list[Entry]) -> SimReplica:
    """A replica that has replayed with each of the entries."""
    replica = SimReplica(forge.genesis, STRANGER)
    replica.receive(forge.entries)
    for entry in entries:
        replica.receive([entry])
    return replica


async def test_many_resumptions_cost_one_replay(tmp_path: Path, forge: Forge) -> None:
    one = written_by(forge)[0]
    ways = [forge.resumed(WRITER, one, MANY + 10 + number) for number in range(MANY)]
    budget = Tired()
    async with journal_of(tmp_path / "db", forge, budget) as journal:
        before, digest = replays(), journal.frontier.digest()
        for way in ways:
            await journal.receive([way.raw])
        assert (replays(), journal.frontier.digest()) == (before, digest)

        budget.is_rested = True
        await journal.take_up()

        assert replays() == before + 1
        assert journal.frontier.digest() == simulated(forge, ways).digest


async def test_frauds_that_come_one_by_one_cost_one_replay(tmp_path: Path, forge: Forge) -> None:
    proofs = [(entry, forge.sign(WRITER, entry.body, payload=b"")) for entry in reversed(written_by(forge))]
    budget = Tired()
    async with journal_of(tmp_path / "db", forge, budget) as journal:
        before, digest = replays(), journal.frontier.digest()
        for one, other in proofs:
            await journal.receive([], [(one.raw, other.raw)])
        assert (replays(), journal.frontier.digest()) == (before, digest)

        budget.is_rested = True
        await journal.take_up()

        assert replays() == before + 1
        assert journal.frontier.frozen == {proofs[0][0].chain: 1}
        assert not journal.replica.ledger.chain(proofs[0][0].chain)


async def test_what_others_write_does_not_wait(tmp_path: Path, forge: Forge) -> None:
    one = written_by(forge)[0]
    async with journal_of(tmp_path / "db", forge, Tired()) as journal:
        plain = forge.write(OTHER)
        await journal.receive([forge.resumed(WRITER, one, MANY + 10).raw, plain.raw])

        assert journal.frontier.heads[plain.chain].seq == plain.body.seq


async def test_a_revocation_does_not_wait(tmp_path: Path, forge: Forge) -> None:
    last = written_by(forge)[0]
    right = next(entry for entry in forge.entries if entry.body.lane is Lane.CONTROL)
    async with journal_of(tmp_path / "db", forge, Tired()) as journal:
        await journal.receive([forge.revocation(OWNER, WRITER, right, last=1).raw])

        assert journal.frontier.heads[last.chain].seq == 1


async def test_a_checkpoint_does_not_settle_a_fraud_that_waits(tmp_path: Path, forge: Forge) -> None:
    one = written_by(forge)[1]
    async with journal_of(tmp_path / "db", forge, Tired(), OWNER) as journal:
        await journal.receive([], [(one.raw, forge.sign(WRITER, one.body, payload=b"").raw)])

        assert await journal.upkeep.checkpoints.compact()

        assert journal.frontier.frozen == {one.chain: 2}
        assert journal.frontier.heads[one.chain].seq == 1


async def test_documents_of_a_store_have_a_budget(
    tmp_path: Path, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.store.ReplayBudget", Tired)
    async with MemoryNetwork().open(STRANGER, tmp_path) as reader:
        await reader._keep(forge.genesis)
        document = await reader.open(forge.namespace)
        journal = reader._open[forge.namespace].journal
        await journal.receive([entry.raw for entry in forge.entries])
        digest = document.frontier().digest()

        await journal.receive([forge.resumed(WRITER, written_by(forge)[0], MANY + 10).raw])

        assert document.frontier().digest() == digest


async def test_what_waits_is_taken_up_in_time(tmp_path: Path, forge: Forge) -> None:
    way = forge.resumed(WRITER, written_by(forge)[0], MANY + 10)
    budget = ReplayBudget(burst=1.0, share=1.0)
    budget.spend(1.2, time.monotonic())
    async with journal_of(tmp_path / "db", forge, budget) as journal:
        changed = asyncio.Event()
        journal.commits.subscribe(changed.set)
        await journal.receive([way.raw])

        async with asyncio.timeout(20):
            while journal.frontier.heads[way.chain].seq != way.body.seq:
                changed.clear()
                await changed.wait()


async def test_a_document_that_is_closed_waits_for_nothing(tmp_path: Path, forge: Forge) -> None:
    way = forge.resumed(WRITER, written_by(forge)[0], MANY + 10)
    async with journal_of(tmp_path / "db", forge, Tired()) as journal:
        await journal.receive([way.raw])
        waiting = journal._postponed._waiting
        assert waiting is not None

        await journal.close()

        assert waiting.cancelled()
