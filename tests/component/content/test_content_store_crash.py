"""The block store after kill -9, power loss and lost indexes: nothing recorded is wrong, little is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from content_store_files import (
    BLAKE3,
    CHUNK,
    entry_for,
    files_below,
    fill,
    is_readable,
    put,
    random_bytes,
    write_chunks,
)

from lattica.content import BlockStore, Cid, publish_path
from lattica.content.index import Index
from lattica.content.store_disk import current_boot
from lattica.errors import StoreError

DATA = random_bytes(10 * CHUNK + 100)
ENTRY = entry_for(DATA)

KILLED_SIZE = 32 << 20
KILLED_CHUNK = 16 << 10
LINE = 1000

# Writes a file's chunks with four threads and names each chunk once it is recorded. The lines are long, so that a pipe
# holds few of them: where the one who reads them and kills is held up, the writers wait for him.
WRITER = f"""
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from content_store_files import BLAKE3, entry_for, put, random_bytes, write_chunks
from lattica.content import BlockStore

data = random_bytes({KILLED_SIZE})
entry = entry_for(data, chunk_size={KILLED_CHUNK})
store = BlockStore.open(Path(sys.argv[1]))
put(store, entry)
blob = store.open_blob(entry, BLAKE3)

def write(chunk):
    write_chunks(blob, data, [chunk])
    os.write(1, (b"%d" % chunk.offset).ljust({LINE} - 1) + b"\\n")

with ThreadPoolExecutor(4) as threads:
    list(threads.map(write, blob.missing()))
blob.seal()
os.write(1, b"sealed\\n")
"""

# Publishes a directory over and over.
PUBLISHER = """
import os, sys
from pathlib import Path
from lattica.content import BlockStore, publish_path
store = BlockStore.open(Path(sys.argv[1]))
for count in range(10_000):
    (Path(sys.argv[2]) / "counter").write_text(str(count))
    os.write(1, b"%s\\n" % str(publish_path(store, Path(sys.argv[2])).cid).encode())
"""


def run_and_kill(script: str, *arguments: Path, after_lines: int) -> list[str]:
    """Run a script, kill it when it has written so many lines, and return all that it wrote."""
    paths = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after_lines)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    # The last line may be cut off.
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


class TestKill9:
    @pytest.mark.slow
    @pytest.mark.parametrize("after", [1, 40, 400])
    def test_every_recorded_chunk_is_there_and_right_and_the_file_can_be_finished(
        self, tmp_path: Path, after: int
    ) -> None:
        told = run_and_kill(WRITER, tmp_path / "store", after_lines=after)
        recorded = {int(line) for line in told}
        data = random_bytes(KILLED_SIZE)
        entry = entry_for(data, chunk_size=KILLED_CHUNK)
        with BlockStore.open(tmp_path / "store") as store, store.open_blob(entry, BLAKE3) as blob:
            missing = {chunk.offset for chunk in blob.missing()}
            assert missing, "it was killed too late to show anything"
            assert recorded.isdisjoint(missing)
            # Recorded but not told: at most what the four threads had in hand.
            assert len(entry.chunks()) - len(missing) - len(recorded) <= 4
            for chunk in entry.chunks():
                found = store.read_chunk(chunk.digest, chunk.length)
                assert (found is None) == (chunk.offset in missing)
                assert found is None or BLAKE3.digest(found) == chunk.digest
            write_chunks(blob, data, blob.missing())
            assert blob.seal().read_bytes() == data
            assert len(store.roots()) == 1

    @pytest.mark.parametrize("after", [1, 3, 10])
    def test_while_publishing_all_that_was_published_is_there_and_nothing_else(
        self, tmp_path: Path, after: int
    ) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "large").write_bytes(random_bytes(4 << 20))
        told = run_and_kill(PUBLISHER, tmp_path / "store", source, after_lines=after)
        with BlockStore.open(tmp_path / "store") as store:
            roots = store.roots()
            assert {Cid.parse(line) for line in told} <= set(roots)
            assert len(roots) - len(told) <= 1
            names = files_below(store.path)
            # A manifest without its files may be left of the last one.
            assert 0 <= len({name for name in names if name.startswith("manifests/")}) - len(roots) <= 1
            assert len({name for name in names if name.startswith("blobs/")}) - len(roots) in {1, 2}
            assert not any(name.startswith("partial/") for name in names)
            for root in roots:
                store.remove(root)
            assert publish_path(store, source).cid in store.roots()


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.content.store.current_boot", lambda: "another boot")


def part_way(path: Path, chunks: int) -> Path:
    """A store with a part of the file; returns where that is."""
    with BlockStore.open(path) as store:
        put(store, ENTRY)
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, ENTRY.chunks()[:chunks])
    (partial,) = (path / "partial").iterdir()
    return partial


def overwrite(path: Path, offset: int, data: bytes) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


class TestPowerLoss:
    """What was recorded may not be on the disk, and what is on the disk may not be recorded."""

    def test_within_one_boot_what_is_recorded_is_trusted(self, tmp_path: Path) -> None:
        overwrite(part_way(tmp_path, 5), CHUNK, b"spoilt")
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert len(blob.missing()) == 6

    def test_after_a_reboot_chunks_that_did_not_reach_the_disk_are_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overwrite(part_way(tmp_path, 5), CHUNK, bytes(CHUNK))
        reboot(monkeypatch)
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert [chunk.offset // CHUNK for chunk in blob.missing()] == [1, 5, 6, 7, 8, 9, 10]
            assert blob.done_bytes == 4 * CHUNK
            write_chunks(blob, DATA, blob.missing())
            assert blob.seal().read_bytes() == DATA

    def test_after_a_reboot_nothing_is_served_from_a_partial_file_before_it_is_verified(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overwrite(part_way(tmp_path, 5), CHUNK, bytes(CHUNK))
        reboot(monkeypatch)
        chunks = ENTRY.chunks()
        with BlockStore.open(tmp_path) as store:
            assert [store.read_chunk(chunk.digest, CHUNK) for chunk in chunks[:2]] == [None, None]
            store.open_blob(ENTRY, BLAKE3).close()
            assert [store.read_chunk(chunk.digest, CHUNK) for chunk in chunks[:2]] == [DATA[:CHUNK], None]

    def test_chunks_on_the_disk_that_the_index_has_lost_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overwrite(part_way(tmp_path, 1), 7 * CHUNK, DATA[7 * CHUNK :])
        reboot(monkeypatch)
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert [chunk.offset // CHUNK for chunk in blob.missing()] == [1, 2, 3, 4, 5, 6]

    def test_a_partial_file_that_lost_its_end_is_verified(self, tmp_path: Path) -> None:
        os.truncate(part_way(tmp_path, 5), 3 * CHUNK + 10)
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert len(ENTRY.chunks()) - len(blob.missing()) == 3

    def test_a_partial_file_that_is_gone_is_begun_again(self, tmp_path: Path) -> None:
        part_way(tmp_path, 5).unlink()
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert blob.missing() == ENTRY.chunks()

    def test_a_whole_file_that_the_index_does_not_know_of_yet_is_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The power failed after the rename and before the index was told, or before that was flushed."""
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY)
            with monkeypatch.context() as patch, store.open_blob(ENTRY, BLAKE3) as blob:
                write_chunks(blob, DATA, ENTRY.chunks())
                patch.setattr(Index, "complete", fail_as_if_the_disk_were_full)
                with pytest.raises(StoreError):
                    blob.seal()
                assert is_readable(store, ENTRY, DATA)
                patch.undo()
                assert not store.has_blob(ENTRY.digest)
        with BlockStore.open(tmp_path) as store:
            assert store.roots() == [manifest.cid()]
            assert is_readable(store, ENTRY, DATA)
            with store.open_blob(ENTRY, BLAKE3) as blob:
                assert blob.missing() == []
            assert files_below(tmp_path) == {f"blobs/{ENTRY.digest.hex()}", f"manifests/{manifest.cid()}"}

    def test_sealing_may_be_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, ENTRY.chunks())
            with monkeypatch.context() as patch:
                patch.setattr(Index, "complete", fail_as_if_the_disk_were_full)
                with pytest.raises(StoreError):
                    blob.seal()
            assert blob.seal().read_bytes() == DATA
            assert store.has_blob(ENTRY.digest)

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no boot ID; Linux runs this")
    def test_the_boot_has_a_name(self) -> None:
        assert re.fullmatch(r"[0-9a-f-]{36}", current_boot())
        assert current_boot() == current_boot()

    def test_where_it_has_none_nothing_is_trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lattica.content.store_disk._BOOT_ID", Path("/nonexistent"))
        assert current_boot() != current_boot()


def fail_as_if_the_disk_were_full(*_: object) -> None:
    raise StoreError(Path("/"), "the disk is full")


class TestLostIndex:
    """Somebody has deleted it, as the error message about a damaged one says."""

    def lose(self, path: Path) -> None:
        for name in ("index.sqlite", "index.sqlite-wal"):
            (path / name).unlink(missing_ok=True)

    def test_whole_files_and_roots_are_found_again(self, tmp_path: Path) -> None:
        tokenizer = entry_for(b"tokenizer", "tokenizer.json")
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY, tokenizer)
            fill(store, ENTRY, DATA)
            fill(store, tokenizer, b"tokenizer")
            put(store, entry_for(b"not here"), name="incomplete")
        self.lose(tmp_path)
        with BlockStore.open(tmp_path) as store:
            assert store.roots() == [manifest.cid()]
            assert is_readable(store, ENTRY, DATA)
            store.remove(manifest.cid())
            assert not store.has_blob(ENTRY.digest)

    def test_partial_files_are_found_again(self, tmp_path: Path) -> None:
        part_way(tmp_path, 5)
        self.lose(tmp_path)
        with BlockStore.open(tmp_path) as store, store.open_blob(ENTRY, BLAKE3) as blob:
            assert len(ENTRY.chunks()) - len(blob.missing()) == 5

    def test_a_file_among_the_blobs_that_is_not_what_its_name_says_is_not_taken_for_it(self, tmp_path: Path) -> None:
        with BlockStore.open(tmp_path) as store:
            put(store, ENTRY)
            fill(store, ENTRY, DATA)
        blob_path = tmp_path / "blobs" / ENTRY.digest.hex()
        self.lose(tmp_path)
        for manifest in (tmp_path / "manifests").iterdir():
            manifest.rename(tmp_path / "kept")
        with BlockStore.open(tmp_path) as store:
            assert not blob_path.exists(), "no manifest lists it"
            put(store, ENTRY)
            blob_path.write_bytes(DATA[:-1] + b"!")
            with store.open_blob(ENTRY, BLAKE3) as blob:
                assert blob.missing() == ENTRY.chunks()
            assert not blob_path.exists()

    def test_damaged_manifests_are_deleted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY)
            fill(store, ENTRY, DATA)
        overwrite(tmp_path / "manifests" / str(manifest.cid()), 10, b"xxxx")
        (tmp_path / "manifests" / "README").write_text("what is this?")
        self.lose(tmp_path)
        with BlockStore.open(tmp_path) as store:
            assert store.roots() == []
        assert files_below(tmp_path) == {"manifests/README"}
        assert "manifest is damaged" in caplog.text


class TestLeftovers:
    def test_files_that_no_manifest_lists_are_deleted_when_the_store_is_opened(self, tmp_path: Path) -> None:
        other = entry_for(b"not listed")
        with BlockStore.open(tmp_path) as store:
            manifest = put(store, ENTRY)
            fill(store, ENTRY, DATA)
            fill(store, other, b"not listed")
            (tmp_path / "partial" / "tmp-0123456789abcdef").write_bytes(b"half a file")
            (tmp_path / "manifests" / "tmp-0123456789abcdef").write_bytes(b"half a manifest")
            (tmp_path / "blobs" / ("0" * 64)).write_bytes(b"never in the index")
            (tmp_path / "blobs" / "notes.txt").write_bytes(b"somebody's notes")
        with BlockStore.open(tmp_path) as store:
            assert not store.has_blob(other.digest)
            assert store.roots() == [manifest.cid()]
        assert files_below(tmp_path) == {
            f"blobs/{ENTRY.digest.hex()}",
            f"manifests/{manifest.cid()}",
            "blobs/notes.txt",
        }
