"""A disk that is really full: who writes is told, what was acknowledged is kept, and all goes on when there is room."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from content_store_files import Disk, mount_tmpfs, unmount

from lattica.background import background_tasks
from lattica.errors import ReplicaStoreError
from lattica.identity import IdentityKey
from lattica.store import Document, Limits, Policy
from lattica.store.archive import write_archive
from lattica.store.backup import backup_parts, read_backup, restore
from lattica.store.disk import open_store_disk
from lattica.store.namespace import NamespaceId, read_genesis
from lattica.store.testing import MemoryNetwork, key_of

ALICE, BOB = key_of(1), key_of(2)
LIMITS = Limits(entry=1 << 16)
MANY = 1500
"""Writes: enough for a snapshot when the document is closed."""


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = mount_tmpfs(tmp_path / "disk", getattr(request, "param", "12m"))
    yield disk
    unmount(disk)


async def write(document: Document, number: int, size: int = 100) -> None:
    async with document.transaction():
        document.map("m")[f"key {number % 700}"] = number.to_bytes(4) * (size // 4)


async def write_until_full(document: Document) -> int:
    """Write until it fails; how many writes were acknowledged."""
    for number in count():
        try:
            await write(document, number, 20_000)
        except ReplicaStoreError as error:
            assert "the disk is full; free some space" in str(error)  # noqa: PT017 - which write it is is not known
            return number
    raise AssertionError


def numbers(document: Document) -> dict[str, int]:
    found = {}
    for key, value in dict(document.map("m")).items():
        assert isinstance(value, bytes)
        found[key] = int.from_bytes(value[:4])
    return found


def expected(writes: int) -> dict[str, int]:
    return {f"key {number % 700}": number for number in range(writes)}


async def test_what_was_acknowledged_before_the_disk_was_full_is_there(disk: Disk) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, disk.path) as store:
        document = await store.create(policy=Policy.OPEN, limits=LIMITS)
        acknowledged = await write_until_full(document)
        assert acknowledged > 100
        with pytest.raises(ReplicaStoreError):
            await write(document, acknowledged)

    async with network.open(ALICE, disk.path) as store:
        document = await store.open(document.namespace)
        found = numbers(document)
        wanted = expected(acknowledged)
        assert {key: found.get(key) for key in wanted} == wanted


async def test_a_document_can_be_compacted_when_there_is_room_again(disk: Disk) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, disk.path) as store:
        document = await store.create(policy=Policy.OPEN, limits=LIMITS)
        for number in range(80):
            await write(document, number, 20_000)
        ballast = disk.fill_up()
        with pytest.raises(ReplicaStoreError, match="the disk is full"):
            await document.compact()

    ballast.unlink()
    async with network.open(ALICE, disk.path) as store:
        document = await store.open(document.namespace)
        assert numbers(document) == expected(80)
        assert await document.compact()
        await write(document, 80)
        assert numbers(document) == expected(81)
    async with network.open(ALICE, disk.path) as store:
        assert numbers(await store.open(document.namespace)) == expected(81)


@pytest.mark.parametrize("disk", ["48m"], indirect=True)
async def test_a_snapshot_that_finds_no_room_costs_nothing_but_time(disk: Disk) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, disk.path) as store:
        document = await store.create(policy=Policy.OPEN)
        for number in range(MANY):
            await write(document, number)
        ballast = disk.fill_up()

    async with network.open(ALICE, disk.path) as store:
        document = await store.open(document.namespace)
        assert numbers(document) == expected(MANY)
        ballast.unlink()
        await write(document, MANY)
    async with network.open(ALICE, disk.path) as store:
        assert numbers(await store.open(document.namespace)) == expected(MANY + 1)


async def archive_of(key: IdentityKey, folder: Path) -> io.BytesIO:
    file = io.BytesIO()
    async with open_store_disk(folder / f"{key.peer_id}.db") as stored:
        [(raw_id, raw)] = (await stored.namespaces()).items()
        write_archive(file, await backup_parts(stored, read_genesis(raw, NamespaceId(raw_id))))
    return io.BytesIO(file.getvalue())


async def test_an_import_that_finds_no_room_leaves_nothing_and_works_later(disk: Disk, tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE, tmp_path) as store:
        document = await store.create(policy=Policy.OPEN, limits=LIMITS)
        for number in range(150):
            await write(document, number, 20_000)
        digest = document.frontier().digest()
    archive = await archive_of(ALICE, tmp_path)

    path = disk.path / f"{BOB.peer_id}.db"
    ballast = disk.path / "ballast"
    ballast.write_bytes(bytes(10 << 20))
    async with open_store_disk(path) as stored, background_tasks() as tasks:
        [backup] = read_backup(archive)
        with pytest.raises(ReplicaStoreError, match="the disk is full"):
            await restore(BOB, stored, tasks, backup)
        assert await stored.records(document.namespace.raw) == []

    ballast.unlink()
    archive.seek(0)
    async with open_store_disk(path) as stored, background_tasks() as tasks:
        [backup] = read_backup(archive)
        assert (await restore(BOB, stored, tasks, backup)).added == 150
    async with network.open(BOB, disk.path) as store:
        assert (await store.open(document.namespace)).frontier().digest() == digest
