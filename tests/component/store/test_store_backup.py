"""Backups of real files: what is restored is what was there, once, and nothing that is forged or cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from ledger_replicas import SimReplica

from lattica.background import background_tasks
from lattica.errors import ArchiveError, StoreUsageError
from lattica.identity import IdentityKey
from lattica.store import Document, Limits, Policy, ReplicatedStore
from lattica.store.absorb import absorb
from lattica.store.archive import ArchivePart, EntryPart, write_archive
from lattica.store.backup import Backup, Restored, backup_parts, read_backup, restore
from lattica.store.disk import open_store_disk
from lattica.store.dump import dump
from lattica.store.entry import Body, Kind, Lane, read_entry, sign_entry
from lattica.store.loading import load_replica
from lattica.store.namespace import NamespaceId, create_genesis, read_genesis
from lattica.store.testing import MemoryNetwork, converged, key_of

ALICE, BOB, CAROL = key_of(1), key_of(2), key_of(3)


def path_of(key: IdentityKey, folder: Path) -> Path:
    """Where `MemoryNetwork.open` keeps the store."""
    return folder / f"{key.peer_id}.db"


async def write(document: Document, count: int) -> None:
    for number in range(count):
        async with document.transaction():
            document.map("settings")[f"key {number}"] = number
            document.list("log").append(number)


async def parts_of(key: IdentityKey, folder: Path) -> list[ArchivePart]:
    async with open_store_disk(path_of(key, folder)) as disk:
        [(raw_id, raw)] = (await disk.namespaces()).items()
        return await backup_parts(disk, read_genesis(raw, NamespaceId(raw_id)))


def packed(parts: Sequence[ArchivePart]) -> io.BytesIO:
    file = io.BytesIO()
    write_archive(file, parts)
    return io.BytesIO(file.getvalue())


async def restored(key: IdentityKey, folder: Path, file: io.BytesIO) -> Restored:
    [backup] = read_backup(file)
    async with open_store_disk(path_of(key, folder)) as disk, background_tasks() as tasks:
        return await restore(key, disk, tasks, backup)


async def reopened(store: ReplicatedStore) -> Document:
    return await store.open(store.namespaces[0].namespace)


async def test_a_restored_document_is_the_same_and_a_second_time_adds_nothing(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as store:
        document = await store.create("notes")
        await document.grant(BOB.peer_id)
        await write(document, 20)
        digest, content = document.frontier().digest(), dump(document)
    parts = await parts_of(ALICE, tmp_path)

    first = await restored(BOB, tmp_path, packed(parts))
    again = await restored(BOB, tmp_path, packed(parts))

    assert (first.entries, first.added, first.refused) == (21, 21, 0)
    assert (again.entries, again.added, again.refused) == (21, 0, 0)
    async with network.open(BOB, tmp_path) as store:
        document = await reopened(store)
        assert document.frontier().digest() == digest
        assert dump(document) == content
        await write(document, 1)  # who was granted to may go on


async def test_a_backup_merges_with_what_was_written_since(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as store:
        await write(await store.create(), 3)
    old = packed(await parts_of(ALICE, tmp_path))
    async with network.open(ALICE, tmp_path) as store:
        document = await reopened(store)
        await write(document, 5)
        digest = document.frontier().digest()
    assert (await restored(ALICE, tmp_path, old)).added == 0
    async with network.open(ALICE, tmp_path) as store:
        assert (await reopened(store)).frontier().digest() == digest


async def test_what_ours_that_do_not_count_is_restored_so_that_no_number_is_used_twice(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as theirs, network.open(BOB, tmp_path) as ours:
        document = await theirs.create()
        await document.grant(BOB.peer_id)
        copy = await ours.open(document.namespace)
        await converged([document, copy])
        network.partition([ALICE.peer_id], [BOB.peer_id])
        await write(copy, 4)  # which Alice has not seen when she revokes
        await document.revoke(BOB.peer_id)
        network.heal()
        await converged([document, copy])
        with pytest.raises(StoreUsageError):
            await write(copy, 1)

    parts = await parts_of(BOB, tmp_path)
    path_of(BOB, tmp_path).unlink()
    assert (await restored(BOB, tmp_path, packed(parts))).added == 2
    assert sorted(map(repr, await parts_of(BOB, tmp_path))) == sorted(map(repr, parts))


async def test_a_forged_entry_is_found_before_anything_is_changed(tmp_path: Path) -> None:
    async with MemoryNetwork().open(ALICE, tmp_path) as store:
        document = await store.create()
        await write(document, 2)
    parts = await parts_of(ALICE, tmp_path)
    [*_, last] = [part for part in parts if isinstance(part, EntryPart)]
    entry = read_entry(last.raw, document.namespace)
    body = Body(
        ALICE.peer_id.raw, Lane.DATA, Kind.UPDATE, 3, 2, entry.hash, entry.body.time + 1, (), entry.body.payload
    )
    forged = sign_entry(BOB, document.namespace, body)  # Bob signs as Alice
    with pytest.raises(ArchiveError, match="its signature is wrong"):
        read_backup(packed([*parts, EntryPart(forged.raw)]))


async def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    async with MemoryNetwork().open(ALICE, tmp_path) as store:
        await write(await store.create(), 2)
    whole = packed(await parts_of(ALICE, tmp_path)).getvalue()
    for size in range(0, len(whole), 7):
        with pytest.raises(ArchiveError):
            read_backup(io.BytesIO(whole[:size]))


async def test_a_compacted_document_is_restored_and_merges_with_an_older_copy(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as store:
        await write(await store.create(), 5)
    old = packed(await parts_of(ALICE, tmp_path))
    async with network.open(ALICE, tmp_path) as store:
        document = await reopened(store)
        assert await document.compact()
        await write(document, 7)
        digest, content = document.frontier().digest(), dump(document)
    new = packed(await parts_of(ALICE, tmp_path))

    for key, files in ((BOB, [new, old]), (CAROL, [old, new])):
        for file in files:
            file.seek(0)
            await restored(key, tmp_path, file)
        async with network.open(key, tmp_path) as store:
            document = await reopened(store)
            assert document.frontier().digest() == digest
            assert dump(document) == content
        assert len(await parts_of(key, tmp_path)) == 1 + 1 + 1 + 7  # genesis, state, checkpoint, entries
    old.seek(0)
    await restored(ALICE, tmp_path, old)
    assert len(await parts_of(ALICE, tmp_path)) == 1 + 1 + 1 + 7


async def test_all_strangers_of_a_backup_are_restored_and_those_that_come_later_are_left_out(tmp_path: Path) -> None:
    """Whoever restores it wants what is in it. The backup is of a replica that was full, and then adopted others."""
    genesis = create_genesis(ALICE, policy=Policy.OPEN, limits=Limits(strangers=1))
    written = [SimReplica(genesis, key_of(number)).write(1) for number in range(10, 15)]
    entries = [entry for entry in written if entry is not None]
    forks = [[SimReplica(genesis, key_of(number)).write(1 + twin) for twin in range(2)] for number in range(20, 22)]
    proofs = [(one.raw, other.raw) for one, other in forks if one is not None and other is not None]
    async with open_store_disk(path_of(BOB, tmp_path)) as disk, background_tasks() as tasks:
        outcome = await restore(BOB, disk, tasks, Backup(genesis, entries[:4], proofs))
        replica = await load_replica(disk, genesis, BOB.peer_id.raw)

    assert (outcome.added, replica.ledger.size, len(replica.ledger.frozen)) == (4, 4, 2)
    assert absorb(replica, entries[4:]).left_out == 1
