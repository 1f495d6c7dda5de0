"""What verifying a file finds: every byte that somebody has changed, and every entry that is gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs
from pycrdt import Map

from lattica.store.disk import open_store_disk
from lattica.store.disk_batch import Batch
from lattica.store.entry import read_entry, sign_entry
from lattica.store.loading import load_replica
from lattica.store.namespace import NamespaceId, read_genesis
from lattica.store.snapshot import dump_snapshot, take_snapshot
from lattica.store.testing import MemoryNetwork, key_of
from lattica.store.verify import Verified, verify_namespace

ALICE, BOB = key_of(1), key_of(2)


async def verified(file: Path, own: bytes = ALICE.peer_id.raw) -> Verified:
    async with open_store_disk(file) as disk:
        [(raw_id, genesis)] = (await disk.namespaces()).items()
        return await verify_namespace(disk, NamespaceId(raw_id), genesis, own)


def change(file: Path, query: str, values: Sequence[object]) -> None:
    database = sqlite3.connect(file)
    with database:
        database.execute(query, values)
    database.close()


def raw_of(file: Path, row: int) -> bytes:
    database = sqlite3.connect(file)
    [raw] = database.execute("SELECT raw FROM entries WHERE row = ?", (row,)).fetchone()
    database.close()
    assert isinstance(raw, bytes)
    return raw


def flipped(raw: bytes, place: int) -> bytes:
    changed = bytearray(raw)
    changed[place] ^= 1
    return bytes(changed)


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A grant, and five entries of data: rows 1 to 6."""
    async with MemoryNetwork().open(ALICE, tmp_path) as store:
        document = await store.create("notes")
        await document.grant(BOB.peer_id, paths=["drafts"])
        for number in range(5):
            async with document.transaction():
                document.list("log").append(number)
    return tmp_path / f"{ALICE.peer_id}.db"


async def test_what_is_right_is_said_to_be_right(file: Path) -> None:
    result = await verified(file)
    assert result.problems == []
    assert (result.entries, result.vouched, result.idle) == (6, 0, 0)
    roles = {author.peer: (author.role, author.paths, author.entries) for author in result.authors}
    assert roles == {ALICE.peer_id: ("owner", [], 5), BOB.peer_id: ("writer", ["drafts"], 0)}


async def test_every_flipped_byte_of_the_last_entry_is_found_and_named(file: Path) -> None:
    raw = raw_of(file, 6)
    for place in range(len(raw)):
        change(file, "UPDATE entries SET raw = ? WHERE row = 6", (flipped(raw, place),))
        result = await verified(file)
        assert result.problems, place
        assert "entry 5" in result.problems[0], place


async def test_a_flipped_byte_in_the_middle_is_named_and_what_builds_on_it_too(file: Path) -> None:
    before = await verified(file)
    change(file, "UPDATE entries SET raw = ? WHERE row = 3", (flipped(raw_of(file, 3), 60),))
    result = await verified(file)
    assert "row 3, entry 2 of" in result.problems[0]
    assert result.idle == 3  # ours, which build on it
    assert result.frontier != before.frontier


async def test_a_wrong_signature_for_which_a_later_entry_vouches_is_counted_only(file: Path) -> None:
    before = await verified(file)
    change(file, "UPDATE entries SET raw = ? WHERE row = 3", (flipped(raw_of(file, 3), -1),))
    result = await verified(file)
    assert (result.problems, result.vouched) == ([], 1)
    assert result.frontier == before.frontier


async def test_what_builds_on_an_entry_that_is_gone_is_named(file: Path) -> None:
    change(file, "DELETE FROM entries WHERE row = ?", (3,))
    result = await verified(file, own=BOB.peer_id.raw)
    assert [problem.partition(" of ")[0] for problem in result.problems] == ["entry 3", "entry 4", "entry 5"]


async def test_a_genesis_of_something_else_is_named(file: Path) -> None:
    async with open_store_disk(file) as disk:
        [genesis] = (await disk.namespaces()).values()
    change(file, "UPDATE namespaces SET genesis = ?", (flipped(genesis, 20),))
    [problem] = (await verified(file)).problems
    assert problem.startswith("its beginning is not right")


async def test_a_fraud_is_shown_if_its_proof_is_one(file: Path) -> None:
    async with open_store_disk(file) as disk:
        [raw_id] = await disk.namespaces()
        namespace = NamespaceId(raw_id)
        entry = read_entry(raw_of(file, 6), namespace)
        other = sign_entry(ALICE, namespace, structs.replace(entry.body, time=entry.body.time + 1))
        batch = Batch(raw_id)
        batch.proof(ALICE.peer_id.raw, 1, 5, entry.raw, other.raw)
        await disk.commit(batch)
    result = await verified(file)
    assert list(result.frauds) == [(ALICE.peer_id, 5)]
    assert result.idle == 1

    change(file, "UPDATE proofs SET other = one", ())
    result = await verified(file)
    assert list(result.frauds) == []
    assert "is none" in result.problems[0]


async def test_a_compacted_documents_state_is_checked_against_the_owners_hash(file: Path, tmp_path: Path) -> None:
    async with MemoryNetwork().open(ALICE, tmp_path) as store:
        document = await store.open(store.namespaces[0].namespace)
        assert await document.compact()
        frontier = document.frontier().digest()
    result = await verified(file)
    assert (result.problems, result.frontier, result.entries) == ([], frontier, 2)
    assert [author.covered for author in result.authors] == [5, 0]
    async with open_store_disk(file) as disk:
        [raw_id] = await disk.namespaces()
        raw, seq = await disk.base(raw_id) or (b"", 0)
        batch = Batch(raw_id)
        batch.base(flipped(raw, len(raw) // 2), seq)
        await disk.commit(batch)
    assert "does not have its hash" in (await verified(file)).problems[0]


async def test_a_snapshot_is_held_against_the_entries(file: Path) -> None:
    async with open_store_disk(file) as disk:
        [(raw_id, genesis)] = (await disk.namespaces()).items()
        replica = await load_replica(disk, read_genesis(genesis), ALICE.peer_id.raw)
        good = dump_snapshot(take_snapshot(replica))
        replica.ydoc.get("map:never", type=Map)["a"] = "written by nobody"
        for raw, problem in (
            (good, ""),
            (flipped(good, -1), "is damaged"),
            (dump_snapshot(take_snapshot(replica)), "is not what follows"),
        ):
            batch = Batch(raw_id)
            batch.snapshot(raw, await disk.last_row(raw_id))
            await disk.commit(batch)
            result = await verify_namespace(disk, NamespaceId(raw_id), genesis, ALICE.peer_id.raw)
            assert [problem in found for found in result.problems] == [True] * bool(problem)
