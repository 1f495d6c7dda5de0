"""The store's file when the disk, or somebody else, interferes: one clear error, nothing acknowledged falsely."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from store_batches import BOB, NAMESPACE, batch, genesis, record

from lattica.errors import ReplicaStoreError
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def disk(path: Path) -> AsyncIterator[StoreDisk]:
    """A store with one entry in it."""
    async with open_store_disk(path) as opened:
        await opened.commit(genesis())
        await opened.commit(batch(record(1)))
        yield opened


async def filled(path: Path) -> Path:
    """A closed store with hundred entries in it."""
    async with open_store_disk(path) as opened:
        await opened.commit(genesis())
        await opened.commit(batch(*(record(seq, size=1000) for seq in range(1, 101))))
    return path


async def opening_fails(path: Path) -> str:
    """What is said about a file that cannot be opened; it can be locked again afterwards."""
    reasons = set()
    for _ in range(2):
        with pytest.raises(ReplicaStoreError) as caught:
            async with open_store_disk(path):
                pytest.fail("it was opened")
        assert caught.value.path == path
        reasons.add(str(caught.value))
    (reason,) = reasons
    return reason


async def stored(disk: StoreDisk) -> list[Record]:
    return [entry for _, entry in await disk.records(NAMESPACE)]


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes fails with an error of the kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestOpening:
    @pytest.mark.usefixtures("disk")
    async def test_a_file_that_is_in_use_is_left_alone(self, path: Path) -> None:
        assert "another process is using it" in await opening_fails(path)

    async def test_another_version_says_which(self, path: Path) -> None:
        await filled(path)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 99")
        assert "store 99, this one reads 1" in await opening_fails(path)

    async def test_a_database_of_another_kind_is_left_as_it_is(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        before = path.read_bytes()
        assert "a database of another kind" in await opening_fails(path)
        assert path.read_bytes() == before

    async def test_a_file_that_is_no_database_is_left_as_it_is(self, path: Path) -> None:
        path.write_bytes(b"dear diary\n" * 1000)
        assert "it is damaged" in await opening_fails(path)
        assert path.read_bytes() == b"dear diary\n" * 1000

    async def test_a_damaged_file_is_told(self, path: Path) -> None:
        await filled(path)
        with path.open("r+b") as file:
            for page in range(2, 12):
                file.seek(page * 4096)
                file.write(b"garbage!" * 64)
        reason = await opening_fails(path)
        assert "it is damaged" in reason
        assert "restore a backup, or delete it" in reason

    async def test_a_file_where_the_folder_should_be_is_told(self, path: Path) -> None:
        path.write_text("not a folder")
        assert "check the permissions" in await opening_fails(path / "store.sqlite")

    async def test_a_folder_where_the_file_should_be_is_told(self, path: Path) -> None:
        path.mkdir()
        assert "Is a directory" in await opening_fails(path)

    async def test_an_empty_file_is_a_new_store(self, path: Path) -> None:
        path.touch()
        await filled(path)


class TestDamageFoundLater:
    @pytest.fixture(autouse=True)
    def _unchecked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lattica.store.disk_schema.MAX_CHECKED_SIZE", 0)

    async def test_is_told_by_reads_and_stops_writes(self, path: Path) -> None:
        await filled(path)
        with contextlib.closing(sqlite3.connect(path)) as database:
            (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'").fetchone()
        with path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(bytes(4096))
        async with open_store_disk(path) as disk:
            with pytest.raises(ReplicaStoreError, match="is damaged"):
                await disk.records(NAMESPACE)
            for _ in range(2):
                with pytest.raises(ReplicaStoreError, match="is damaged"):
                    await disk.commit(batch(record(500)))


class TestFullDisk:
    async def test_is_told_and_writing_goes_on_when_there_is_space_again(self, disk: StoreDisk, path: Path) -> None:
        pages = disk._writer._database.execute("PRAGMA page_count").fetchone()[0]
        disk._writer._database.execute(f"PRAGMA max_page_count = {pages + 10}")
        with pytest.raises(ReplicaStoreError, match="the disk is full; free some space"):
            await disk.commit(batch(record(2), record(3, size=100_000)))
        assert await stored(disk) == [record(1)]
        await disk.commit(batch(record(2)))

        disk._writer._database.execute("PRAGMA max_page_count = 1000000")
        await disk.commit(batch(record(3, size=100_000)))
        assert await stored(disk) == [record(1), record(2), record(3, size=100_000)]

    async def test_takes_back_namespaces_and_authors_too(self, disk: StoreDisk) -> None:
        pages = disk._writer._database.execute("PRAGMA page_count").fetchone()[0]
        disk._writer._database.execute(f"PRAGMA max_page_count = {pages + 10}")
        change = batch(record(1, BOB), record(2, BOB, size=100_000))
        with pytest.raises(ReplicaStoreError):
            await disk.commit(change)
        await disk.commit(batch(record(1, b"carol")))
        await disk.commit(batch(record(2, BOB)))
        assert await stored(disk) == [record(1), record(1, b"carol"), record(2, BOB)]

    async def test_fails_all_that_waited_together(self, disk: StoreDisk) -> None:
        pages = disk._writer._database.execute("PRAGMA page_count").fetchone()[0]
        disk._writer._database.execute(f"PRAGMA max_page_count = {pages + 10}")
        group = [batch(record(seq, size=20_000)) for seq in range(2, 20)]
        outcomes = await asyncio.gather(*map(disk.commit, group), return_exceptions=True)

        kept = [seq for seq, outcome in enumerate(outcomes, start=2) if isinstance(outcome, int)]
        assert len(kept) < len(group)
        assert await stored(disk) == [record(1), *(record(seq, size=20_000) for seq in kept)]


class TestDiskErrors:
    async def test_nothing_is_acknowledged_until_the_file_is_opened_again(self, path: Path) -> None:
        acknowledged = [record(1), record(2)]
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            await disk.commit(batch(*acknowledged))
            with no_file_larger_than(path.with_name(f"{path.name}-wal").stat().st_size + 10_000):
                outcomes = await asyncio.gather(
                    *(disk.commit(batch(record(seq, size=20_000))) for seq in range(3, 9)), return_exceptions=True
                )
                assert {str(outcome) for outcome in outcomes} == {str(outcomes[0])}
                assert "check the disk" in str(outcomes[0])
            with pytest.raises(ReplicaStoreError, match="check the disk"):
                await disk.commit(batch(record(3)))
            assert await stored(disk) == acknowledged
        async with open_store_disk(path) as disk:
            assert await stored(disk) == acknowledged
            await disk.commit(batch(record(3)))
            assert await stored(disk) == [*acknowledged, record(3)]

    async def test_while_the_log_is_carried_over_lose_nothing(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database may not grow, the log may: what is in the log is durable all the same."""
        monkeypatch.setattr("lattica.store.disk_schema.CHECKPOINT_PAGES", 100)
        acknowledged: list[Record] = []
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            with no_file_larger_than(1 << 20), contextlib.suppress(ReplicaStoreError):
                for seq in range(1, 1000):
                    await disk.commit(batch(record(seq, size=4000)))
                    acknowledged.append(record(seq, size=4000))
        assert 10 < len(acknowledged) < 999
        async with open_store_disk(path) as disk:
            assert (await stored(disk))[: len(acknowledged)] == acknowledged


async def test_a_defect_of_the_writer_reaches_whoever_committed(
    disk: StoreDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(_: object) -> None:
        raise RuntimeError("defect")

    with monkeypatch.context() as patch:
        patch.setattr(disk._writer, "apply", defect)
        with pytest.raises(RuntimeError, match="defect"):
            await disk.commit(batch(record(2)))
    await disk.commit(batch(record(2)))
    assert await stored(disk) == [record(1), record(2)]
