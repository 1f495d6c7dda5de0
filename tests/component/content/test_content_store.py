"""The block store: chunks go in, whole files come out, and nothing wrong is ever given to anybody."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from content_store_files import (
    BLAKE3,
    CHUNK,
    entry_for,
    files_below,
    fill,
    is_readable,
    manifest_for,
    put,
    random_bytes,
    write_chunks,
)

from lattica.content import BlockStore, Chunk, ChunkRun, Cid, HashFunction
from lattica.errors import IntegrityError, ManifestError, StoreError

DATA = random_bytes(10 * CHUNK + 100)
ENTRY = entry_for(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore.open(tmp_path / "store") as store:
        yield store


class TestPuttingAFileTogether:
    def test_a_file_whose_chunks_all_came_is_whole(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        assert store.roots() == []
        assert fill(store, ENTRY, DATA).read_bytes() == DATA
        assert store.has_blob(ENTRY.digest)
        assert store.roots() == [manifest.cid()]
        assert is_readable(store, ENTRY, DATA)

    def test_chunks_may_come_in_any_order_and_again(self, store: BlockStore) -> None:
        chunks = ENTRY.chunks() * 2
        random.Random(1).shuffle(chunks)
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, chunks)
            assert blob.seal().read_bytes() == DATA
            write_chunks(blob, DATA, chunks)
            assert blob.seal().read_bytes() == DATA

    def test_what_is_there_is_counted_and_no_longer_missing(self, store: BlockStore) -> None:
        chunks = ENTRY.chunks()
        with store.open_blob(ENTRY, BLAKE3) as blob:
            assert blob.missing() == chunks
            write_chunks(blob, DATA, [chunks[3], chunks[-1]])
            assert blob.done_bytes == CHUNK + 100
            assert blob.missing() == chunks[:3] + chunks[4:-1]
            with pytest.raises(ValueError, match="still misses chunks"):
                blob.seal()
            assert not store.has_blob(ENTRY.digest)

    def test_chunks_are_served_before_the_file_is_whole(self, store: BlockStore) -> None:
        chunks = ENTRY.chunks()
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, chunks[:2])
            assert store.read_chunk(chunks[1].digest, CHUNK) == DATA[CHUNK : 2 * CHUNK]
            assert store.read_chunk(chunks[2].digest, CHUNK) is None

    def test_a_chunk_that_occurs_often_is_asked_for_once_and_written_everywhere(self, store: BlockStore) -> None:
        again = random_bytes(CHUNK, seed=8)
        data = 3 * again + random_bytes(CHUNK) + 2 * again + b"end"
        entry = entry_for(data)
        with store.open_blob(entry, BLAKE3) as blob:
            assert [chunk.offset for chunk in blob.missing()] == [0, 3 * CHUNK, 6 * CHUNK]
            write_chunks(blob, data, blob.missing()[:1])
            assert blob.done_bytes == 5 * CHUNK
            write_chunks(blob, data, blob.missing())
            assert blob.seal().read_bytes() == data

    def test_an_empty_file_is_whole_at_once(self, store: BlockStore) -> None:
        entry = entry_for(b"")
        manifest = put(store, entry)
        with store.open_blob(entry, BLAKE3) as blob:
            assert blob.missing() == []
            assert blob.seal().read_bytes() == b""
        assert store.roots() == [manifest.cid()]

    def test_sha256_files_work_too(self, store: BlockStore) -> None:
        entry = entry_for(DATA, function=HashFunction.SHA2_256)
        with store.open_blob(entry, HashFunction.SHA2_256) as blob:
            write_chunks(blob, DATA, blob.missing())
            assert blob.seal().read_bytes() == DATA

    def test_two_who_open_the_same_file_share_what_they_write(self, store: BlockStore) -> None:
        chunks = ENTRY.chunks()
        with store.open_blob(ENTRY, BLAKE3) as one, store.open_blob(replace(ENTRY, path="other"), BLAKE3) as two:
            write_chunks(one, DATA, chunks[:5])
            assert two.missing() == chunks[5:]
            write_chunks(two, DATA, chunks[5:])
            one.close()
            assert two.seal().read_bytes() == DATA

    def test_many_threads_may_write_at_once(self, store: BlockStore) -> None:
        data = random_bytes(300 * CHUNK, seed=7)
        entry = entry_for(data)
        chunks = [chunk for chunk in entry.chunks() for _ in range(3)]
        random.Random(2).shuffle(chunks)
        with store.open_blob(entry, BLAKE3) as blob, ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda chunk: write_chunks(blob, data, [chunk]), chunks))
            assert blob.done_bytes == len(data)
            assert len({str(threads.submit(blob.seal).result()) for _ in range(4)}) == 1
        assert is_readable(store, entry, data)

    def test_more_files_may_be_open_than_the_process_may_have_descriptors_cached(self, store: BlockStore) -> None:
        contents = [random_bytes(2 * CHUNK, seed) for seed in range(200)]
        entries = [entry_for(data) for data in contents]
        before = open_descriptors()
        blobs = [store.open_blob(entry, BLAKE3) for entry in entries]
        for at in range(2):
            for blob, data, entry in zip(blobs, contents, entries, strict=True):
                write_chunks(blob, data, [entry.chunks()[at]])
        assert open_descriptors() - before <= 64
        assert all(blob.seal().read_bytes() == data for blob, data in zip(blobs, contents, strict=True))
        for blob in blobs:
            blob.close()

    def test_what_does_not_belong_is_refused(self, store: BlockStore) -> None:
        with store.open_blob(ENTRY, BLAKE3) as blob:
            chunk = ENTRY.chunks()[0]
            with pytest.raises(ValueError, match="of 5 bytes"):
                blob.write(chunk, b"short")
            with pytest.raises(ValueError, match="has no chunk"):
                blob.write(Chunk(bytes(32), 0, CHUNK), bytes(CHUNK))
            assert blob.done_bytes == 0
        with pytest.raises(ValueError, match="closed"):
            blob.write(chunk, DATA[:CHUNK])
        blob.close()

    def test_one_digest_for_two_sizes_is_refused(self, store: BlockStore) -> None:
        digest = BLAKE3.digest(DATA)
        entry = replace(ENTRY, size=30, runs=(ChunkRun(10, 10, digest), ChunkRun(20, 20, digest)))
        with pytest.raises(ManifestError, match="different sizes"):
            store.open_blob(entry, BLAKE3)


class TestChunksThatAreHereAlready:
    def test_they_are_copied_from_other_files(self, store: BlockStore) -> None:
        put(store, ENTRY)
        fill(store, ENTRY, DATA)
        changed = DATA[: 4 * CHUNK] + random_bytes(CHUNK, seed=9) + DATA[5 * CHUNK :]
        entry = entry_for(changed, "changed.bin")
        with store.open_blob(entry, BLAKE3) as blob:
            assert blob.reuse_local() == len(DATA) - CHUNK
            assert [chunk.offset for chunk in blob.missing()] == [4 * CHUNK]
            write_chunks(blob, changed, blob.missing())
            assert blob.seal().read_bytes() == changed

    def test_they_are_copied_from_files_that_are_not_whole(self, store: BlockStore) -> None:
        other = entry_for(DATA[: 5 * CHUNK] + b"x", "other")
        with store.open_blob(ENTRY, BLAKE3) as partial, store.open_blob(other, BLAKE3) as blob:
            write_chunks(partial, DATA, ENTRY.chunks()[:3])
            assert blob.reuse_local() == 3 * CHUNK

    def test_one_that_rotted_on_disk_is_not_and_its_file_is_no_longer_whole(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        spoil(fill(store, ENTRY, DATA), 2 * CHUNK)
        entry = entry_for(DATA[: 4 * CHUNK], "start")
        with store.open_blob(entry, BLAKE3) as blob:
            assert blob.reuse_local() == 2 * CHUNK
            assert blob.missing()[0] == entry.chunks()[2]
        assert manifest.cid() not in store.roots()

    def test_in_a_partial_file_only_the_one_that_rotted_is_forgotten(self, store: BlockStore) -> None:
        entry = entry_for(DATA[: 4 * CHUNK], "start")
        with store.open_blob(ENTRY, BLAKE3) as partial, store.open_blob(entry, BLAKE3) as blob:
            write_chunks(partial, DATA, ENTRY.chunks()[:4])
            (path,) = (store.path / "partial").glob(ENTRY.digest.hex() + "-*")
            spoil(path, CHUNK)
            assert blob.reuse_local() == 3 * CHUNK
            assert [chunk.offset for chunk in blob.missing()] == [CHUNK]


class TestSealing:
    def test_a_chunk_that_the_disk_spoilt_is_missing_again(self, store: BlockStore) -> None:
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, ENTRY.chunks())
            (path,) = (store.path / "partial").iterdir()
            spoil(path, 3 * CHUNK)
            with pytest.raises(IntegrityError, match=str(Cid(BLAKE3, ENTRY.digest))):
                blob.seal()
            assert blob.missing() == [ENTRY.chunks()[3]]
            assert blob.done_bytes == len(DATA) - CHUNK
            assert not store.has_blob(ENTRY.digest)
            write_chunks(blob, DATA, blob.missing())
            assert blob.seal().read_bytes() == DATA

    def test_a_manifest_whose_chunks_do_not_make_the_file_leaves_nothing(self, store: BlockStore) -> None:
        lie = replace(ENTRY, digest=BLAKE3.digest(b"another file"))
        with store.open_blob(lie, BLAKE3) as blob:
            write_chunks(blob, DATA, lie.chunks())
            with pytest.raises(IntegrityError):
                blob.seal()
            assert blob.done_bytes == 0
            with pytest.raises(ValueError, match="given up"):
                blob.write(lie.chunks()[0], DATA[:CHUNK])
        assert files_below(store.path) == set()
        assert store.read_chunk(lie.chunks()[0].digest, CHUNK) is None
        with store.open_blob(lie, BLAKE3) as blob:
            assert blob.missing() == lie.chunks()

    def test_whole_files_are_read_only(self, store: BlockStore) -> None:
        assert fill(store, ENTRY, DATA).stat().st_mode & 0o222 == 0


class TestTheSameFileCutInAnotherWay:
    other = entry_for(DATA, "other.bin", chunk_size=CHUNK // 2)

    def test_it_is_here_already_and_its_chunks_are_served(self, store: BlockStore) -> None:
        put(store, ENTRY)
        fill(store, ENTRY, DATA)
        assert store.read_chunk(self.other.chunks()[1].digest, CHUNK // 2) is None
        manifest = put(store, self.other, name="other")
        with store.open_blob(self.other, BLAKE3) as blob:
            assert blob.missing() == []
            assert blob.done_bytes == len(DATA)
        assert is_readable(store, self.other, DATA)
        assert is_readable(store, ENTRY, DATA)
        assert manifest.cid() in store.roots()
        assert len(files_below(store.path / "blobs")) == 1

    def test_a_manifest_that_lies_about_a_file_that_is_here_is_refused(self, store: BlockStore) -> None:
        fill(store, ENTRY, DATA)
        chunks = entry_for(random_bytes(len(DATA), seed=5)).runs
        for lie in (replace(ENTRY, runs=chunks), entry_for(DATA + b"longer")):
            with pytest.raises(IntegrityError):
                store.open_blob(replace(lie, digest=ENTRY.digest), BLAKE3)
        with pytest.raises(IntegrityError):
            store.open_blob(ENTRY, HashFunction.SHA2_256)
        assert is_readable(store, ENTRY, DATA)

    def test_if_it_rotted_on_disk_it_is_fetched_again(self, store: BlockStore) -> None:
        put(store, ENTRY)
        spoil(fill(store, ENTRY, DATA), 5 * CHUNK)
        with store.open_blob(self.other, BLAKE3) as blob:
            assert blob.missing() == self.other.chunks()
            assert not store.has_blob(ENTRY.digest)
            write_chunks(blob, DATA, blob.missing())
            assert blob.seal().read_bytes() == DATA

    def test_what_a_lying_manifest_writes_does_not_touch_an_honest_one(self, store: BlockStore) -> None:
        garbage = random_bytes(len(DATA), seed=5)
        lie = replace(entry_for(garbage), digest=ENTRY.digest)
        with store.open_blob(lie, BLAKE3) as lying, store.open_blob(ENTRY, BLAKE3) as honest:
            write_chunks(lying, garbage, lie.chunks())
            assert honest.missing() == ENTRY.chunks()
            write_chunks(honest, DATA, honest.missing())
            with pytest.raises(IntegrityError):
                lying.seal()
            assert honest.seal().read_bytes() == DATA

    def test_both_may_be_put_together_at_the_same_time(
        self, store: BlockStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with store.open_blob(ENTRY, BLAKE3) as one, store.open_blob(self.other, BLAKE3) as two:
            write_chunks(one, DATA, ENTRY.chunks())
            write_chunks(two, DATA, self.other.chunks())
            assert one.seal() == two.seal()
            assert is_readable(store, ENTRY, DATA)
            assert is_readable(store, self.other, DATA)
        assert files_below(store.path) == {f"blobs/{ENTRY.digest.hex()}"}
        monkeypatch.setattr("lattica.content.store_assembly.verified_rows", lambda *_: pytest.fail("hashed again"))
        for entry in (ENTRY, self.other):
            with store.open_blob(entry, BLAKE3) as blob:
                assert blob.missing() == []


class TestReading:
    def test_a_chunk_is_found_only_with_its_length(self, store: BlockStore) -> None:
        fill(store, ENTRY, DATA)
        chunk = ENTRY.chunks()[0]
        assert store.read_chunk(chunk.digest, CHUNK - 1) is None
        assert store.read_chunk(chunk.digest, 1 << 40) is None
        assert store.read_chunk(bytes(32), CHUNK) is None

    def test_files_that_somebody_deleted_are_no_longer_offered(self, store: BlockStore, tmp_path: Path) -> None:
        manifest = put(store, ENTRY)
        fill(store, ENTRY, DATA).unlink()
        # Readers that have the file open may still read it: a new store has not.
        store.close()
        with BlockStore.open(tmp_path / "store") as again:
            assert again.roots() == []
            assert again.read_chunk(ENTRY.chunks()[0].digest, CHUNK) is None
            fill(again, ENTRY, DATA)
            assert again.roots() == [manifest.cid()]

    @pytest.mark.parametrize("how", ["deleted", "cut short"])
    def test_a_file_that_is_damaged_while_the_store_is_open_is_noticed(self, store: BlockStore, how: str) -> None:
        put(store, ENTRY)
        path = fill(store, ENTRY, DATA)
        store._disk.descriptors.close()
        if how == "deleted":
            path.unlink()
        else:
            os.truncate(path, len(DATA) - 1)
        assert store.read_chunk(ENTRY.chunks()[-1].digest, 100) is None
        assert store.roots() == []
        assert not store.has_blob(ENTRY.digest)
        assert fill(store, ENTRY, DATA).read_bytes() == DATA

    def test_another_files_copy_is_read_when_one_is_damaged(self, store: BlockStore) -> None:
        longer = DATA + random_bytes(CHUNK, seed=3)
        fill(store, entry_for(longer), longer)
        path = fill(store, ENTRY, DATA)
        store._disk.descriptors.close()
        os.truncate(path, 0)
        chunk = ENTRY.chunks()[0]
        assert [store.read_chunk(chunk.digest, CHUNK) for _ in range(2)] == [DATA[:CHUNK]] * 2

    def test_reading_goes_on_while_files_come_and_go(self, store: BlockStore) -> None:
        contents = [random_bytes(3 * CHUNK, seed) for seed in range(100)]
        entries = [entry_for(data, f"{n}") for n, data in enumerate(contents)]
        manifests = [put(store, entry, name=entry.path) for entry in entries]
        wrong: list[str] = []
        end = threading.Event()

        def read() -> None:
            picks = random.Random(threading.get_ident())
            while not end.is_set():
                number = picks.randrange(len(entries))
                chunk = picks.choice(entries[number].chunks())
                found = store.read_chunk(chunk.digest, chunk.length)
                if found not in {None, contents[number][chunk.offset : chunk.offset + CHUNK]}:
                    wrong.append(entries[number].path)

        with ThreadPoolExecutor(3) as threads:
            readers = [threads.submit(read) for _ in range(3)]
            try:
                for entry, data in zip(entries, contents, strict=True):
                    fill(store, entry, data)
                for manifest in manifests[::2]:
                    store.remove(manifest.cid())
            finally:
                end.set()
            for reader in readers:
                reader.result()
        assert wrong == []
        assert len(store.roots()) == 50


class TestManifests:
    def test_a_manifest_is_kept(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        assert store.get_manifest(manifest.cid()) == manifest.encode()
        assert store.get_manifest(Cid.of(b"unknown")) is None

    def test_bytes_that_are_not_the_manifest_are_refused(self, store: BlockStore) -> None:
        manifest = manifest_for(ENTRY)
        with pytest.raises(IntegrityError):
            store.put_manifest(manifest.cid(), manifest.encode() + b"\0")
        with pytest.raises(ManifestError):
            store.put_manifest(Cid.of(b"garbage"), b"garbage")
        assert files_below(store.path) == set()

    def test_one_that_rotted_on_disk_is_not_given_out_and_can_be_put_again(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        spoil(store.path / "manifests" / str(manifest.cid()), 5)
        assert store.get_manifest(manifest.cid()) is None
        put(store, ENTRY)
        assert store.get_manifest(manifest.cid()) == manifest.encode()

    def test_a_root_is_complete_when_all_its_files_are(self, store: BlockStore) -> None:
        other = entry_for(b"tokenizer", "tokenizer.json")
        manifest = put(store, ENTRY, other)
        fill(store, ENTRY, DATA)
        assert store.roots() == []
        fill(store, other, b"tokenizer")
        assert store.roots() == [manifest.cid()]


class TestRemoving:
    def test_files_that_another_manifest_lists_stay(self, store: BlockStore) -> None:
        shared, own = entry_for(b"shared", "shared"), ENTRY
        first, second = put(store, shared, own), put(store, shared, name="second")
        fill(store, shared, b"shared")
        fill(store, own, DATA)
        store.remove(first.cid())
        assert store.roots() == [second.cid()]
        assert not store.has_blob(own.digest)
        assert store.read_chunk(own.chunks()[0].digest, CHUNK) is None
        assert store.get_manifest(first.cid()) is None
        assert files_below(store.path) == {f"blobs/{shared.digest.hex()}", f"manifests/{second.cid()}"}
        store.remove(second.cid())
        store.remove(second.cid())
        assert files_below(store.path) == set()

    def test_what_was_fetched_in_part_goes_too(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, ENTRY.chunks()[:2])
        store.remove(manifest.cid())
        assert files_below(store.path) == set()

    def test_a_file_that_is_open_goes_when_it_is_closed(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        with store.open_blob(ENTRY, BLAKE3) as blob:
            store.remove(manifest.cid())
            write_chunks(blob, DATA, ENTRY.chunks())
            assert blob.seal().read_bytes() == DATA
        assert files_below(store.path) == set()

    def test_it_stays_if_it_is_listed_again_before(self, store: BlockStore) -> None:
        manifest = put(store, ENTRY)
        with store.open_blob(ENTRY, BLAKE3) as blob:
            store.remove(manifest.cid())
            put(store, ENTRY)
            write_chunks(blob, DATA, ENTRY.chunks())
            blob.seal()
        assert store.roots() == [manifest.cid()]


class TestSpace:
    def test_what_clearly_does_not_fit_is_refused(self, store: BlockStore) -> None:
        store.check_space(0)
        store.check_space(1000)
        with pytest.raises(StoreError, match=r"needs 1,000,000,000,000 MB more and its disk has [\d,]+ MB free"):
            store.check_space(10**18)

    def test_what_is_here_already_needs_none(self, store: BlockStore) -> None:
        other = entry_for(bytes(5 * CHUNK), "zeros")
        manifest = put(store, ENTRY, other)
        assert store.missing_bytes(manifest) == len(DATA) + 5 * CHUNK
        with store.open_blob(ENTRY, BLAKE3) as blob:
            write_chunks(blob, DATA, ENTRY.chunks()[:3])
            assert store.missing_bytes(manifest) == len(DATA) + 2 * CHUNK
        fill(store, ENTRY, DATA)
        assert store.missing_bytes(manifest) == 5 * CHUNK
        assert store.missing_bytes(put(store, entry_for(DATA, "elsewhere", chunk_size=100), name="x")) == 0

    def test_a_file_takes_no_space_before_its_chunks_come(self, store: BlockStore) -> None:
        huge = replace(ENTRY, size=3 << 20, runs=(ChunkRun(1 << 20, 3 << 20, bytes(range(96))),))
        with store.open_blob(huge, BLAKE3):
            (path,) = (store.path / "partial").iterdir()
            assert path.stat().st_size == 3 << 20
            assert path.stat().st_blocks * 512 < 1 << 16


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def spoil(path: Path, offset: int) -> None:
    """Change one byte on the disk."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 1,)))
