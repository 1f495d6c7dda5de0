"""The block store on disks that are full, read-only or damaged: one clear sentence, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from content_store_files import (
    BLAKE3,
    CHUNK,
    Disk,
    entry_for,
    files_below,
    fill,
    is_readable,
    mount_tmpfs,
    put,
    random_bytes,
    safetensors_bytes,
    unmount,
    write_chunks,
)

from lattica.content import BlockStore, publish_path
from lattica.content.index import SCHEMA_VERSION, Index
from lattica.content.store_files import store_error
from lattica.errors import SourceError, StoreError, UsageError

DATA = random_bytes(10 * CHUNK + 100)
ENTRY = entry_for(DATA)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 4 MiB."""
    disk = mount_tmpfs(tmp_path / "disk", "4m")
    try:
        yield disk
    finally:
        unmount(disk)


class TestOpening:
    def test_a_store_has_one_process_at_a_time(self, tmp_path: Path) -> None:
        script = "import sys; from pathlib import Path; from lattica.content import BlockStore\n"
        script += "BlockStore.open(Path(sys.argv[1])).close()"
        command = [sys.executable, "-c", script, str(tmp_path / "store")]
        with BlockStore.open(tmp_path / "store") as store:
            with pytest.raises(StoreError, match="another process is using it"):
                BlockStore.open(tmp_path / "store")
            other = subprocess.run(command, capture_output=True, text=True, check=False)
            assert other.returncode == 1
            assert "another process is using it" in other.stderr
            put(store, ENTRY)
        assert subprocess.run(command, check=False).returncode == 0

    def test_a_closed_store_says_so(self, tmp_path: Path) -> None:
        store = BlockStore.open(tmp_path)
        store.close()
        store.close()
        with pytest.raises(StoreError, match="it is closed"):
            store.roots()

    def test_a_file_is_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "file", tmp_path / "file" / "store"):
            with pytest.raises(StoreError, match="not a directory"):
                BlockStore.open(path)

    def test_after_a_failure_it_can_be_opened(self, tmp_path: Path) -> None:
        (tmp_path / "index.sqlite").write_bytes(b"garbage" * 1000)
        with pytest.raises(StoreError):
            BlockStore.open(tmp_path)
        (tmp_path / "index.sqlite").unlink()
        BlockStore.open(tmp_path).close()

    def test_an_index_of_another_version_is_left_alone(self, tmp_path: Path) -> None:
        with BlockStore.open(tmp_path) as store:
            store._disk.index._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        before = (tmp_path / "index.sqlite").read_bytes()
        with pytest.raises(StoreError, match=f"another version of Lattica.*index {SCHEMA_VERSION + 1}, this one"):
            BlockStore.open(tmp_path)
        assert (tmp_path / "index.sqlite").read_bytes() == before

    def test_store_errors_are_local_mistakes_to_the_command_line(self) -> None:
        assert issubclass(StoreError, UsageError)


def damage_everywhere(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def damage_the_middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for offset in range(4096, size - 200, 4096):
            file.seek(offset)
            file.write(os.urandom(200))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


class TestDamagedIndex:
    @pytest.mark.parametrize("damage", [damage_everywhere, damage_the_middle, cut_short])
    def test_it_is_noticed_and_the_advice_helps(self, tmp_path: Path, damage: Callable[[Path], None]) -> None:
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY)
            fill(store, ENTRY, DATA)
        damage(tmp_path / "index.sqlite")
        with pytest.raises(StoreError, match=r"delete index\.sqlite and index\.sqlite-wal") as raised:
            BlockStore.open(tmp_path)
        assert "\n" not in str(raised.value)
        (tmp_path / "index.sqlite").unlink()
        (tmp_path / "index.sqlite-wal").unlink(missing_ok=True)
        with BlockStore.open(tmp_path) as store:
            assert store.roots() == [manifest.cid()]
            assert is_readable(store, ENTRY, DATA)

    def test_an_empty_index_is_like_none(self, tmp_path: Path) -> None:
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY)
            fill(store, ENTRY, DATA)
        os.truncate(tmp_path / "index.sqlite", 0)
        with BlockStore.open(tmp_path) as store:
            assert store.roots() == [manifest.cid()]

    def test_a_large_index_is_not_read_through_but_damage_is_reported_when_it_is_met(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = random_bytes(4000 * 100)
        entry = entry_for(data, chunk_size=100)
        with BlockStore.open(tmp_path) as store:
            fill(store, entry, data)
        monkeypatch.setattr("lattica.content.index.MAX_CHECKED_SIZE", 0)
        damage_the_middle(tmp_path / "index.sqlite")
        with pytest.raises(StoreError, match="index is damaged"), BlockStore.open(tmp_path) as store:
            is_readable(store, entry, data)


class TestReadOnlyDisk:
    def test_opening_says_so(self, disk: Disk) -> None:
        BlockStore.open(disk.path / "store").close()
        disk.set_read_only()
        for name in ("store", "new"):
            with pytest.raises(StoreError, match="read-only file system; choose another place"):
                BlockStore.open(disk.path / name)

    def test_exporting_to_it_says_so(self, disk: Disk, tmp_path: Path) -> None:
        disk.set_read_only()
        with BlockStore.open(tmp_path / "store") as store:
            fill(store, ENTRY, DATA)
            with pytest.raises(SourceError, match="read-only file system; choose another destination"):
                store.export(ENTRY, disk.path / "model.bin", overwrite=False)


class TestFullDisk:
    def test_a_chunk_that_does_not_fit_is_not_recorded_and_the_rest_is_kept(self, disk: Disk) -> None:
        data = random_bytes(64 * CHUNK)
        entry = entry_for(data)
        with BlockStore.open(disk.path / "store") as store:
            put(store, entry)
            with store.open_blob(entry, BLAKE3) as blob:
                write_chunks(blob, data, entry.chunks()[:20])
                ballast = disk.fill_up()
                with pytest.raises(StoreError, match="the disk is full; free some space and try again"):
                    write_chunks(blob, data, blob.missing())
                done = len(entry.chunks()) - len(blob.missing())
                assert 20 <= done < 64
                assert blob.done_bytes == done * CHUNK
                for chunk in blob.missing():
                    assert store.read_chunk(chunk.digest, chunk.length) is None
        # Full still: opening needs no space.
        with BlockStore.open(disk.path / "store") as store, store.open_blob(entry, BLAKE3) as blob:
            assert len(blob.missing()) == 64 - done
            ballast.unlink()
            write_chunks(blob, data, blob.missing())
            assert blob.seal().read_bytes() == data

    def test_a_new_store_does_not_fit(self, disk: Disk) -> None:
        disk.fill_up()
        with pytest.raises(StoreError, match="disk is full"):
            BlockStore.open(disk.path / "store")

    def test_a_manifest_that_does_not_fit_is_not_kept(self, disk: Disk) -> None:
        with BlockStore.open(disk.path / "store") as store:
            disk.fill_up()
            with pytest.raises(StoreError, match="disk is full"):
                put(store, entry_for(random_bytes(1 << 20), chunk_size=16))
            assert files_below(disk.path / "store") == set()

    def test_what_is_published_leaves_nothing_if_it_does_not_fit(self, disk: Disk, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "a.safetensors").write_bytes(safetensors_bytes([1 << 20] * 2))
        (source / "b.safetensors").write_bytes(safetensors_bytes([1 << 20] * 3, seed=7))
        with BlockStore.open(disk.path / "store") as store:
            free = os.statvfs(disk.path).f_bavail
            with pytest.raises(StoreError, match="MB more and its disk has"):
                publish_path(store, source)
            assert files_below(disk.path / "store") == set()
            assert free - os.statvfs(disk.path).f_bavail <= 16  # blocks of the index
            assert publish_path(store, source / "a.safetensors").cid in store.roots()

    def test_nor_if_the_disk_fills_up_meanwhile(
        self, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lattica.content.publish_file.BLOCK", 1 << 20)
        source = tmp_path / "model.bin"
        source.write_bytes(random_bytes(3 << 20))
        progress: list[int] = []

        def fill_up(done: int, _total: int) -> None:
            progress.append(done)
            if done:
                disk.fill_up()

        with BlockStore.open(disk.path / "store") as store:
            with pytest.raises(StoreError, match="the disk is full"):
                publish_path(store, source, progress=fill_up)
            assert progress == [0, 1 << 20]
            assert store.roots() == []
            assert files_below(disk.path / "store") == set()

    def test_a_copy_that_does_not_fit_leaves_nothing(self, disk: Disk, tmp_path: Path) -> None:
        data = random_bytes(5 << 20)
        entry = entry_for(data, chunk_size=1 << 20)
        with BlockStore.open(tmp_path / "store") as store:
            fill(store, entry, data)
            with pytest.raises(SourceError, match="disk is full; free some space"):
                store.export(entry, disk.path / "model.bin", overwrite=False)
            assert list(disk.path.iterdir()) == []


class TestSentences:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
    def test_what_a_disk_answers_becomes_a_sentence_with_advice(self, number: int) -> None:
        text = str(store_error(Path("/store"), OSError(number, os.strerror(number))))
        assert text.startswith("the block store /store cannot be used: ")
        assert "; " in text

    def test_anything_else_is_passed_on(self) -> None:
        assert "Resource temporarily unavailable" in str(
            store_error(Path("/store"), OSError(errno.EAGAIN, os.strerror(11)))
        )

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_when_writing_fails_nothing_is_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", fail)
                with pytest.raises(StoreError):
                    write_chunks(blob, DATA, blob.missing())
            assert blob.missing() == ENTRY.chunks()
            assert blob.done_bytes == 0

    def test_when_the_index_fails_nothing_is_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise StoreError(tmp_path, "the disk is full")

        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            with monkeypatch.context() as patch:
                patch.setattr(Index, "add_chunk", fail)
                with pytest.raises(StoreError):
                    write_chunks(blob, DATA, blob.missing())
            assert blob.missing() == ENTRY.chunks()

    def test_a_manifest_that_the_index_does_not_take_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise StoreError(tmp_path, "the disk is full")

        with BlockStore.open(tmp_path) as store:
            with monkeypatch.context() as patch:
                patch.setattr(Index, "add_root", fail)
                with pytest.raises(StoreError):
                    put(store, ENTRY)
            assert files_below(tmp_path) == set()

    def test_short_writes_are_continued(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:1000]), at))
        with BlockStore.open(tmp_path) as store:
            assert fill(store, ENTRY, DATA).read_bytes() == DATA
