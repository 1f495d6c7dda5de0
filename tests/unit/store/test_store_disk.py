"""The store's file: what is put in comes out, and batches that do not fit leave no trace."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_batches import ALICE, BOB, DATA, NAMESPACE, OTHER, batch, genesis, record

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.disk import Batch, Record, StoreDisk, open_store_disk
from lattica.store.disk_batch import MAX_SEQ

SETTINGS = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "checkpoint_fullfsync": 1}


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[StoreDisk]:
    """A store with one namespace in it."""
    async with open_store_disk(tmp_path / "store.sqlite") as opened:
        await opened.commit(genesis())
        yield opened


async def stored(disk: StoreDisk, namespace: bytes = NAMESPACE) -> list[Record]:
    return [entry for _, entry in await disk.records(namespace)]


class TestRecords:
    async def test_come_back_in_the_order_of_insertion(self, disk: StoreDisk) -> None:
        entries = [record(2, BOB), record(1), record(1, BOB, lane=0), record(2)]
        assert await disk.commit(batch(*entries[:3])) == 3
        assert await disk.commit(batch(entries[3])) == 4

        assert await disk.records(NAMESPACE) == list(enumerate(entries, start=1))
        assert await disk.records(NAMESPACE, after=1, limit=2) == [(2, entries[1]), (3, entries[2])]

    async def test_that_are_known_already_are_ignored(self, disk: StoreDisk) -> None:
        await disk.commit(batch(record(1), record(2)))
        resigned = Record(ALICE, DATA, 2, record(2).hash, b"the same entry with another signature")

        assert await disk.commit(batch(record(1), resigned)) == 0
        last = await disk.commit(batch(record(2), record(3)))

        assert [entry for _, entry in await disk.records(NAMESPACE)] == [record(1), record(2), record(3)]
        assert (await disk.records(NAMESPACE))[-1][0] == last

    async def test_with_another_hash_in_the_same_place_are_refused_with_their_batch(self, disk: StoreDisk) -> None:
        await disk.commit(batch(record(1)))
        with pytest.raises(BatchRefusedError, match="number 1 in lane 1"):
            await disk.commit(batch(record(2), record(1, salt=b"fraud")))
        with pytest.raises(BatchRefusedError):
            await disk.commit(batch(record(3), record(3, salt=b"fraud")))

        assert await stored(disk) == [record(1)]

    async def test_of_one_batch_may_repeat_each_other(self, disk: StoreDisk) -> None:
        await disk.commit(batch(record(1), record(1), record(2)))

        assert await stored(disk) == [record(1), record(2)]

    async def test_of_an_unknown_namespace_are_refused(self, disk: StoreDisk) -> None:
        with pytest.raises(BatchRefusedError, match="put its genesis first"):
            await disk.commit(batch(record(1), namespace=OTHER))
        assert await disk.records(OTHER) == []

    async def test_of_several_namespaces_do_not_mix(self, disk: StoreDisk) -> None:
        await disk.commit(genesis(OTHER))
        await disk.commit(batch(record(1), record(2)))
        await disk.commit(batch(record(2, salt=b"other"), namespace=OTHER))

        assert await stored(disk) == [record(1), record(2)]
        assert await stored(disk, OTHER) == [record(2, salt=b"other")]
        assert await disk.run(OTHER, ALICE, DATA, 1, None, 1 << 20) == []

    async def test_may_be_empty_and_at_the_limits(self, disk: StoreDisk) -> None:
        entry = Record(b"p" * 64, 0, MAX_SEQ, bytes(32), b"")
        await disk.commit(batch(entry))

        assert await stored(disk) == [entry]

    async def test_by_the_thousand_take_several_statements(self, disk: StoreDisk) -> None:
        entries = [record(seq, author) for seq in range(1, 701) for author in (ALICE, BOB)]
        assert await disk.commit(batch(*entries)) == len(entries)

        assert await stored(disk) == entries

    async def test_that_are_large_come_in_several_reads(self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lattica.store.disk_reader.MAX_READ_SIZE", 2500)
        entries = [record(seq, size=1000) for seq in range(1, 8)]
        await disk.commit(batch(*entries))

        found: list[Record] = []
        after, reads = 0, 0
        while page := await disk.records(NAMESPACE, after):
            found += [entry for _, entry in page]
            after, reads = page[-1][0], reads + 1

        assert found == entries
        assert reads == 3


class TestRuns:
    @pytest.fixture(autouse=True)
    async def _put(self, disk: StoreDisk) -> None:
        await disk.commit(batch(*(record(seq, size=1000) for seq in (5, 4, 3, 2, 1, 8, 7)), record(6, BOB)))

    @pytest.mark.parametrize(
        ("first", "last", "max_bytes", "found"),
        [
            pytest.param(1, 3, 1 << 20, [1, 2, 3], id="all that is asked for"),
            pytest.param(4, None, 1 << 20, [4, 5], id="up to a gap"),
            pytest.param(6, None, 1 << 20, [], id="from within a gap"),
            pytest.param(7, 100, 1 << 20, [7, 8], id="up to the end"),
            pytest.param(2, None, 2 * len(record(2, size=1000).raw), [2, 3], id="up to the limit of bytes"),
            pytest.param(2, None, 0, [2], id="one whatever its size"),
        ],
    )
    async def test_are_consecutive_and_bounded(
        self, disk: StoreDisk, first: int, last: int | None, max_bytes: int, found: list[int]
    ) -> None:
        expected = [record(seq, size=1000).raw for seq in found]
        assert await disk.run(NAMESPACE, ALICE, DATA, first, last, max_bytes) == expected

    async def test_are_of_one_author_and_lane(self, disk: StoreDisk) -> None:
        assert await disk.run(NAMESPACE, ALICE, 0, 1, None, 1 << 20) == []
        assert await disk.run(NAMESPACE, b"nobody", DATA, 1, None, 1 << 20) == []
        assert await disk.run(NAMESPACE, BOB, DATA, 6, 6, 1 << 20) == [record(6, BOB).raw]


class TestDrops:
    async def test_delete_from_first_to_last(self, disk: StoreDisk) -> None:
        await disk.commit(batch(*map(record, range(1, 7)), record(3, BOB), record(3, lane=0)))
        change = Batch(NAMESPACE)
        change.drop(ALICE, DATA, 2, 3)
        change.drop(ALICE, DATA, 6)
        change.drop(b"nobody", DATA, 1)
        assert await disk.commit(change) == 0

        assert await stored(disk) == [record(1), record(4), record(5), record(3, BOB), record(3, lane=0)]

    async def test_make_room_for_another_entry_in_the_same_batch(self, disk: StoreDisk) -> None:
        await disk.commit(batch(record(1), record(2)))
        change = Batch(NAMESPACE)
        change.put(record(3))
        change.drop(ALICE, DATA, 2)
        change.put(record(2, salt=b"other"))
        row = await disk.commit(change)

        assert await disk.records(NAMESPACE) == [(1, record(1)), (row, record(2, salt=b"other"))]

    async def test_free_no_row_numbers(self, disk: StoreDisk, tmp_path: Path) -> None:
        last = await disk.commit(batch(record(1), record(2)))
        change = Batch(NAMESPACE)
        change.drop(ALICE, DATA, 1)
        await disk.commit(change)
        assert await disk.commit(batch(record(1))) > last

    async def test_free_no_row_numbers_even_when_the_file_is_opened_again(self, tmp_path: Path) -> None:
        async with open_store_disk(tmp_path / "again") as disk:
            await disk.commit(genesis())
            last = await disk.commit(batch(record(1), record(2)))
            await disk.forget(NAMESPACE)
        async with open_store_disk(tmp_path / "again") as disk:
            await disk.commit(genesis())
            assert await disk.commit(batch(record(1))) > last


class TestNamespaces:
    async def test_are_known_with_their_genesis(self, disk: StoreDisk) -> None:
        await disk.commit(genesis(OTHER))

        assert await disk.namespaces() == {NAMESPACE: b"genesis of " + NAMESPACE, OTHER: b"genesis of " + OTHER}

    async def test_keep_their_first_genesis(self, disk: StoreDisk) -> None:
        again = Batch(NAMESPACE)
        again.genesis(b"the same with another signature")
        await disk.commit(again)

        assert await disk.namespaces() == {NAMESPACE: b"genesis of " + NAMESPACE}

    async def test_are_forgotten_with_all_that_belongs_to_them(self, disk: StoreDisk) -> None:
        for namespace in (NAMESPACE, OTHER):
            change = batch(record(1), namespace=namespace)
            change.changes[:0] = genesis(namespace).changes
            change.proof(ALICE, DATA, 1, b"one", b"other")
            change.snapshot(b"snapshot", 1)
            await disk.commit(change)
        await disk.forget(NAMESPACE)
        await disk.forget(bytes(32))

        assert list(await disk.namespaces()) == [OTHER]
        assert (await stored(disk), await disk.proofs(NAMESPACE), await disk.snapshot(NAMESPACE)) == ([], [], None)
        assert await stored(disk, OTHER) == [record(1)]
        assert len(await disk.proofs(OTHER)) == 1
        with pytest.raises(BatchRefusedError):
            await disk.commit(batch(record(2)))
        await disk.commit(genesis())
        assert (await stored(disk), await disk.proofs(NAMESPACE), await disk.snapshot(NAMESPACE)) == ([], [], None)

    async def test_that_are_forgotten_leave_nothing_in_the_file(self, disk: StoreDisk) -> None:
        change = batch(record(1), record(1, BOB))
        change.proof(ALICE, DATA, 1, b"one", b"other")
        change.snapshot(b"snapshot", 1)
        await disk.commit(change)
        await disk.forget(NAMESPACE)

        for table in ("namespaces", "authors", "entries", "proofs", "snapshots"):
            assert disk._writer._database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


class TestProofs:
    async def test_of_the_lowest_number_win(self, disk: StoreDisk) -> None:
        for seq in (5, 7, 3, 3):
            change = Batch(NAMESPACE)
            change.proof(ALICE, DATA, seq, b"one %d" % seq, b"other %d" % (await disk.commit(Batch(NAMESPACE)) + seq))
            await disk.commit(change)
        change = Batch(NAMESPACE)
        change.proof(ALICE, 0, 9, b"control", b"lane")
        change.proof(BOB, DATA, 9, b"b", b"c")
        change.proof(ALICE, DATA, 3, b"as low", b"but later")
        await disk.commit(change)

        assert await disk.proofs(NAMESPACE) == [
            (ALICE, 0, 9, b"control", b"lane"),
            (ALICE, DATA, 3, b"one 3", b"other 3"),
            (BOB, DATA, 9, b"b", b"c"),
        ]


class TestSnapshots:
    async def test_replace_each_other(self, disk: StoreDisk) -> None:
        assert await disk.snapshot(NAMESPACE) is None
        for row in (7, 0, 9):
            change = Batch(NAMESPACE)
            change.snapshot(b"snapshot %d" % row, row)
            await disk.commit(change)
            assert await disk.snapshot(NAMESPACE) == (b"snapshot %d" % row, row)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: Batch(b"short"),
        lambda: Batch(NAMESPACE).put(Record(b"", DATA, 1, bytes(32), b"")),
        lambda: Batch(NAMESPACE).put(Record(b"p" * 65, DATA, 1, bytes(32), b"")),
        lambda: Batch(NAMESPACE).put(Record(ALICE, 2, 1, bytes(32), b"")),
        lambda: Batch(NAMESPACE).put(Record(ALICE, DATA, 0, bytes(32), b"")),
        lambda: Batch(NAMESPACE).put(Record(ALICE, DATA, MAX_SEQ + 1, bytes(32), b"")),
        lambda: Batch(NAMESPACE).put(Record(ALICE, DATA, 1, bytes(31), b"")),
        lambda: Batch(NAMESPACE).drop(ALICE, DATA, 5, 4),
        lambda: Batch(NAMESPACE).snapshot(b"", -1),
    ],
)
def test_values_that_no_store_could_take_are_refused_at_once(misuse: object) -> None:
    assert callable(misuse)
    with pytest.raises(ValueError, match=r"\w"):
        misuse()


class TestGroups:
    async def test_a_batch_that_does_not_fit_fails_alone(self, disk: StoreDisk) -> None:
        """All wait for one fsync, in one transaction, with a new author before and after the bad batches."""
        unknown = batch(record(1), namespace=OTHER)
        fraud = batch(record(2, BOB), record(1, salt=b"fraud"))
        late = batch(record(1), record(1, b"carol"))
        commits = [disk.commit(each) for each in (batch(record(1)), unknown, fraud, late, batch(record(1, BOB)))]
        outcomes = await asyncio.gather(*commits, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [int, BatchRefusedError, BatchRefusedError, int, int]
        assert await stored(disk) == [record(1), record(1, b"carol"), record(1, BOB)]
        rows = [row for row, _ in await disk.records(NAMESPACE)]
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == rows

    async def test_many_commits_share_few_transactions_and_keep_their_order(self, disk: StoreDisk) -> None:
        entries = [record(seq) for seq in range(1, 501)]
        rows = await asyncio.gather(*(disk.commit(batch(entry)) for entry in entries))

        assert rows == sorted(rows)
        assert await disk.records(NAMESPACE) == list(zip(rows, entries, strict=True))

    async def test_commits_wait_for_room_in_the_queue_and_keep_their_order(
        self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.store.disk.MAX_QUEUED", 3000)
        most = 0
        apply = disk._writer.apply

        def watched(group: list[Batch]) -> object:
            nonlocal most
            most = max(most, disk._queued_bytes)
            return apply(group)

        monkeypatch.setattr(disk._writer, "apply", watched)
        entries = [record(seq, size=500) for seq in range(1, 101)]
        await asyncio.gather(*(disk.commit(batch(entry)) for entry in entries))

        assert await stored(disk) == entries
        assert 2000 <= most < 3000 + batch(entries[-1]).size
        assert await disk.commit(batch(record(101, size=10_000))) == 101, "a larger one comes alone"

    async def test_a_commit_that_is_cancelled_when_its_turn_has_come_lets_the_next_go_on(
        self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.store.disk.MAX_QUEUED", 1)
        grant = disk._grant_turn

        def grant_and_cancel() -> None:
            grant()
            if disk._turns and disk._turns[0].done():
                commits[1].cancel()

        monkeypatch.setattr(disk, "_grant_turn", grant_and_cancel)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            commits = [tasks.create_task(disk.commit(batch(record(seq)))) for seq in range(1, 5)]
        assert commits[1].cancelled()
        assert await stored(disk) == [record(seq) for seq in (1, 3, 4)]

    async def test_a_commit_does_not_overtake_one_whose_turn_has_come(
        self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.store.disk.MAX_QUEUED", 1)
        grant = disk._grant_turn
        late: list[asyncio.Task[int]] = []

        def commit_and_grant() -> None:
            if disk._turns and not late:
                late.append(tasks.create_task(disk.commit(batch(record(9)))))
            grant()

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for seq in (1, 2):
                tasks.create_task(disk.commit(batch(record(seq))))
            await asyncio.sleep(0)
            monkeypatch.setattr(disk, "_grant_turn", commit_and_grant)
        assert await stored(disk) == [record(1), record(2), record(9)]

    async def test_a_commit_that_is_cancelled_while_it_waits_for_room_lets_the_next_go_on(
        self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.store.disk.MAX_QUEUED", 1)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            commits = [tasks.create_task(disk.commit(batch(record(seq)))) for seq in range(1, 9)]
            await asyncio.sleep(0)
            for commit in commits[1::2]:
                commit.cancel()
        assert await stored(disk) == [record(seq) for seq in (1, 3, 5, 7)]

    async def test_a_cancelled_commit_does_not_disturb_the_others(self, disk: StoreDisk) -> None:
        async with asyncio.TaskGroup() as tasks:
            commits = [tasks.create_task(disk.commit(batch(record(seq)))) for seq in range(1, 50)]
            await asyncio.sleep(0)
            commits[0].cancel()
            commits[30].cancel()
        await disk.commit(batch(record(50)))
        found = {entry.seq for entry in await stored(disk)}
        assert found | {1, 31} == set(range(1, 51))


class TestLifetime:
    async def test_what_was_committed_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        path = tmp_path / "store.sqlite"
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            await disk.commit(batch(record(1)))
        assert not path.with_name("store.sqlite-wal").exists()
        async with open_store_disk(path) as disk:
            assert await stored(disk) == [record(1)]
            assert await disk.commit(batch(record(2), record(1, BOB))) == 3

    async def test_what_is_queued_is_written_before_it_closes(self, tmp_path: Path) -> None:
        async with open_store_disk(tmp_path / "store") as disk:
            queued = [genesis(), *(batch(record(seq)) for seq in range(1, 100))]
            gathering = asyncio.gather(*map(disk.commit, queued))
            await asyncio.sleep(0)
            assert not gathering.done()
        assert await gathering == list(range(100))
        async with open_store_disk(tmp_path / "store") as disk:
            assert len(await disk.records(NAMESPACE)) == 99

    async def test_a_closed_store_says_so(self, tmp_path: Path) -> None:
        async with open_store_disk(tmp_path / "store") as disk:
            pass
        with pytest.raises(ReplicaStoreError, match="is closed"):
            await disk.commit(genesis())
        with pytest.raises(ReplicaStoreError, match="is closed"):
            await disk.namespaces()

    async def test_commits_that_wait_for_room_are_told_that_it_closes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.store.disk.MAX_QUEUED", 1)
        async with open_store_disk(tmp_path / "store") as disk:
            waiting = [batch(record(seq)) for seq in range(1, 9)]
            gathering = asyncio.gather(*map(disk.commit, [genesis(), *waiting]), return_exceptions=True)
            await asyncio.sleep(0)
        outcomes = await gathering
        assert outcomes[0] == 0
        assert {type(outcome) for outcome in outcomes[1:]} <= {int, ReplicaStoreError}
        assert isinstance(outcomes[-1], ReplicaStoreError)

    async def test_a_block_that_is_cancelled_leaves_the_file_closed(self, tmp_path: Path) -> None:
        opened = asyncio.Event()

        async def use() -> None:
            async with open_store_disk(tmp_path / "store") as disk:
                await disk.commit(genesis())
                opened.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(use())
        await opened.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with open_store_disk(tmp_path / "store") as disk:
            assert list(await disk.namespaces()) == [NAMESPACE]

    async def test_what_is_queued_is_written_even_if_the_block_is_cancelled_again_and_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, ready = threading.Event(), asyncio.Event()
        commits: list[asyncio.Task[int]] = []

        async def use(tasks: asyncio.TaskGroup) -> None:
            async with open_store_disk(tmp_path / "store") as disk:
                await disk.commit(genesis())
                apply = disk._writer.apply
                monkeypatch.setattr(disk._writer, "apply", lambda group: gate.wait(60) and apply(group))
                commits.extend(tasks.create_task(disk.commit(batch(record(seq)))) for seq in (1, 2))
                ready.set()
                await asyncio.Event().wait()

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(use(tasks))
            await ready.wait()
            for _ in range(5):
                task.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            gate.set()
        assert [commit.result() for commit in commits] == [1, 2]

    async def test_opening_may_be_cancelled_at_any_moment(self, tmp_path: Path) -> None:
        async def use() -> None:
            async with open_store_disk(tmp_path / "store"):
                pass

        for turns in range(4):
            task = asyncio.ensure_future(use())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await use()

    async def test_files_belong_to_their_user_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "store.sqlite"
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert set(modes.values()) == {0o600}
        assert {"store.sqlite", "store.sqlite-wal", "store.sqlite.lock"} <= set(modes)

    async def test_each_commit_reaches_the_disk_itself(self, disk: StoreDisk) -> None:
        """No test can cut the power; SQLite promises it with these settings (https://www.sqlite.org/pragma.html)."""
        found = {name: disk._writer._database.execute(f"PRAGMA {name}").fetchone()[0] for name in SETTINGS}
        assert found == SETTINGS

    async def test_its_size_is_that_of_the_database_and_the_log(self, disk: StoreDisk, tmp_path: Path) -> None:
        before = disk.size
        await disk.commit(batch(record(1, size=100_000)))
        files = [tmp_path / name for name in ("store.sqlite", "store.sqlite-wal")]
        assert disk.size == sum(file.stat().st_size for file in files)
        assert disk.size >= before + 100_000

    async def test_reads_do_not_wait_for_writes(self, disk: StoreDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        await disk.commit(batch(record(1)))
        insert, inserted, may_go_on = disk._writer._insert_entries, threading.Event(), threading.Event()

        def insert_and_wait(entries: list[tuple[int, int, int, int, int, bytes, bytes]]) -> None:
            insert(entries)
            inserted.set()
            assert may_go_on.wait(20)

        monkeypatch.setattr(disk._writer, "_insert_entries", insert_and_wait)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(disk.commit(batch(*(record(seq, BOB, size=1000) for seq in range(1, 20_000)))))
            assert await asyncio.to_thread(inserted.wait, 20)
            assert await stored(disk) == [record(1)]
            assert not writing.done()
            may_go_on.set()


class TestTheFile:
    async def test_gets_smaller_when_most_was_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "store.sqlite"
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            last = await disk.commit(batch(*(record(seq, size=1000) for seq in range(1, 10_001))))
            full = pages_of(path)
            change = batch(record(10_001))
            change.drop(ALICE, DATA, 1, 9_990)
            await disk.commit(change)
            async with asyncio.timeout(60):
                while pages_of(path) > full // 4:
                    await asyncio.sleep(0.01)
            assert await disk.records(NAMESPACE, last) == [(last + 1, record(10_001))]
            assert await disk.commit(batch(record(10_002))) == last + 2
        assert path.stat().st_size < full * PAGE // 4

    async def test_keeps_room_for_what_is_written_again(self, tmp_path: Path) -> None:
        path = tmp_path / "store.sqlite"
        async with open_store_disk(path) as disk:
            await disk.commit(genesis())
            await disk.commit(batch(*(record(seq, size=1000) for seq in range(1, 10_001))))
            full = pages_of(path)
            change = batch(record(10_001))
            change.drop(ALICE, DATA, 1, 7_000)
            await disk.commit(change)
            await disk.finish()
        assert pages_of(path) >= full


PAGE = 4096


def pages_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA page_count").fetchone()[0])
