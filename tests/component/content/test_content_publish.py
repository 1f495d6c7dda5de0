"""Publishing: files and directories become a manifest and blobs, or nothing at all."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from content_store_files import BLAKE3, entry_for, files_below, fill, is_readable, put, random_bytes
from content_store_files import safetensors_bytes as safetensors_of

from lattica.content import MAX_CHUNK, BlockStore, HashFunction, Manifest, publish_path
from lattica.content.index import Image, Index
from lattica.content.publish_file import BLOCK
from lattica.errors import PublishCancelledError, SourceChangedError, SourceError, StoreError

LARGE = 2 * BLOCK + MAX_CHUNK + 7


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def export_all(store: BlockStore, manifest: Manifest, destination: Path) -> dict[str, bytes]:
    """What a fetcher would get."""
    for entry in manifest.files:
        store.export(entry, destination / entry.path, overwrite=False)
    return {entry.path: (destination / entry.path).read_bytes() for entry in manifest.files}


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, MAX_CHUNK, BLOCK, BLOCK + 1, LARGE])
    def test_a_file_comes_out_as_it_went_in(self, store: BlockStore, source: Path, tmp_path: Path, size: int) -> None:
        data = random_bytes(size)
        (source / "weights.bin").write_bytes(data)
        published = publish_path(store, source / "weights.bin")
        assert store.roots() == [published.cid]
        assert store.get_manifest(published.cid) == published.manifest.encode()
        assert published.manifest == Manifest(
            "weights.bin", BLAKE3, (entry_for(data, "weights.bin", chunk_size=MAX_CHUNK),)
        )
        assert (published.size, published.warnings) == (size, ())
        assert is_readable(store, published.manifest.files[0], data)
        assert export_all(store, published.manifest, tmp_path / "out") == {"weights.bin": data}

    @pytest.mark.parametrize("function", HashFunction)
    def test_tensors_can_be_fetched_one_by_one(self, store: BlockStore, source: Path, function: HashFunction) -> None:
        data = safetensors_of([10, 0, 3 * MAX_CHUNK + 5, 1500, MAX_CHUNK])
        (source / "model.safetensors").write_bytes(data)
        published = publish_path(store, source / "model.safetensors", hash=function)
        (entry,) = published.manifest.files
        assert entry.digest == function.digest(data)
        arrays = safetensors.numpy.load(data)
        chunks = iter(entry.chunks())
        runs = [[next(chunks) for _ in range(run.chunk_count)] for run in entry.runs]
        for tensor in entry.tensors:
            found = [store.read_chunk(chunk.digest, chunk.length) or b"" for chunk in runs[tensor.run]]
            assert b"".join(found) == arrays[tensor.name].tobytes()
            assert tensor.shape == arrays[tensor.name].shape
        assert {tensor.name for tensor in entry.tensors} == arrays.keys()

    def test_the_same_file_has_the_same_cid_everywhere(self, tmp_path: Path, source: Path) -> None:
        (source / "model.safetensors").write_bytes(safetensors_of())
        with BlockStore.open(tmp_path / "one") as one, BlockStore.open(tmp_path / "two") as two:
            first = publish_path(one, source / "model.safetensors").cid
            assert publish_path(two, source / "model.safetensors").cid == first
            assert publish_path(one, source / "model.safetensors").cid == first
            assert publish_path(one, source / "model.safetensors", name="mine").cid != first

    def test_the_store_keeps_a_copy_of_its_own(self, store: BlockStore, source: Path) -> None:
        data = random_bytes(LARGE)
        path = source / "model.bin"
        path.write_bytes(data)
        published = publish_path(store, path)
        path.write_bytes(b"trained on")
        assert is_readable(store, published.manifest.files[0], data)

    @pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 100_000, safetensors_of()[:-1]])
    def test_a_corrupt_safetensors_header_gives_plain_chunks_and_a_warning(
        self, store: BlockStore, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
    ) -> None:
        (source / "model.safetensors").write_bytes(data)
        with caplog.at_level(logging.WARNING, "lattica.content"):
            published = publish_path(store, source)
        (warning,) = published.warnings
        assert warning.startswith("model.safetensors: not a valid safetensors header")
        assert warning in caplog.text
        assert published.manifest.files[0].tensors == ()
        assert export_all(store, published.manifest, tmp_path / "out") == {"model.safetensors": data}


class TestWhatIsThereAlready:
    def count_writes(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        written: list[int] = []
        real = os.pwrite

        def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
            written.append(len(data))
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        return written

    def test_publishing_again_writes_nothing(
        self, store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = source / "model.bin"
        path.write_bytes(random_bytes(LARGE))
        first = publish_path(store, path)
        written = self.count_writes(monkeypatch)
        assert publish_path(store, path) == first
        assert written == []

    def test_a_checkpoint_that_begins_like_the_last_one_is_complete(
        self, store: BlockStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = source / "model.bin"
        data = random_bytes(LARGE)
        path.write_bytes(data)
        publish_path(store, path)
        changed = data[:-10] + random_bytes(10, seed=1)
        path.write_bytes(changed)
        written = self.count_writes(monkeypatch)
        second = publish_path(store, path)
        assert sum(written) - len(second.manifest.encode()) == LARGE
        assert export_all(store, second.manifest, tmp_path / "out") == {"model.bin": changed}

    def test_a_file_of_known_chunks_in_another_order_is_complete(
        self, store: BlockStore, source: Path, tmp_path: Path
    ) -> None:
        path = source / "model.bin"
        data = random_bytes(6 * MAX_CHUNK)
        path.write_bytes(data)
        publish_path(store, path)
        turned = data[3 * MAX_CHUNK :] + data[: 3 * MAX_CHUNK]
        path.write_bytes(turned)
        second = publish_path(store, path)
        assert export_all(store, second.manifest, tmp_path / "out") == {"model.bin": turned}

    def test_a_file_that_was_fetched_in_other_chunks_is_served_in_both(self, store: BlockStore, source: Path) -> None:
        data = random_bytes(LARGE)
        fetched = entry_for(data, chunk_size=100_000)
        put(store, fetched)
        fill(store, fetched, data)
        (source / "model.bin").write_bytes(data)
        published = publish_path(store, source / "model.bin")
        assert is_readable(store, fetched, data)
        assert is_readable(store, published.manifest.files[0], data)
        assert len(store.roots()) == 2

    def test_a_file_that_is_being_fetched_is_whole_for_the_fetcher_too(self, store: BlockStore, source: Path) -> None:
        data = random_bytes(3 * MAX_CHUNK)
        entry = entry_for(data, "model.bin", chunk_size=MAX_CHUNK)
        with store.open_blob(entry, BLAKE3) as blob:
            blob.write(entry.chunks()[0], data[:MAX_CHUNK])
            (source / "model.bin").write_bytes(data)
            publish_path(store, source / "model.bin")
            assert blob.reuse_local() == 2 * MAX_CHUNK
            assert blob.seal().read_bytes() == data
        assert is_readable(store, entry, data)
        assert not any(name.startswith("partial/") for name in files_below(store.path))

    def test_it_may_be_published_by_several_at_once(self, store: BlockStore, source: Path, tmp_path: Path) -> None:
        (source / "model.safetensors").write_bytes(safetensors_of([BLOCK, BLOCK]))
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: publish_path(store, source), range(8)))
        assert len({published.cid for published in found}) == 1
        assert len(files_below(store.path)) == 2
        export_all(store, found[0].manifest, tmp_path / "out")


class TestDirectories:
    def test_all_files_below_are_published_in_order(self, store: BlockStore, source: Path, tmp_path: Path) -> None:
        contents = {"b.json": b"{}", "a/z/deep.bin": random_bytes(BLOCK), "a/1": b"", "a-file": b"x", ".hidden": b"h"}
        contents["model.safetensors"] = safetensors_of()
        contents["copy.safetensors"] = contents["model.safetensors"]
        for name, data in contents.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        (source / "empty" / "directory").mkdir(parents=True)
        published = publish_path(store, source)
        assert [entry.path for entry in published.manifest.files] == sorted(contents)
        assert published.manifest.name == "source"
        assert published.size == sum(map(len, contents.values()))
        assert export_all(store, published.manifest, tmp_path / "out") == contents

    def test_the_current_directory_has_a_name(
        self, store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (source / "file").write_bytes(b"x")
        monkeypatch.chdir(source)
        assert publish_path(store, Path()).manifest.name == "source"

    def test_the_store_itself_is_not_published(self, store: BlockStore, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="contains the block store itself"):
            publish_path(store, tmp_path)

    def test_progress_goes_up_to_the_total(self, store: BlockStore, source: Path) -> None:
        for name, size in (("a", LARGE), ("b", 0), ("c", 5)):
            (source / name).write_bytes(random_bytes(size))
        seen: list[tuple[int, int]] = []
        publish_path(store, source, progress=lambda done, total: seen.append((done, total)))
        assert seen[0] == (0, LARGE + 5)
        assert seen[-1] == (LARGE + 5, LARGE + 5)
        assert seen == sorted(seen)
        assert len({done for done, _ in seen}) >= 4


class TestLinks:
    def test_a_link_to_a_file_in_the_directory_stands_for_it(self, store: BlockStore, source: Path) -> None:
        (source / "deep").mkdir()
        (source / "deep" / "real").write_bytes(b"weights")
        (source / "link").symlink_to("deep/real")
        published = publish_path(store, source)
        assert [(entry.path, entry.size) for entry in published.manifest.files] == [("deep/real", 7), ("link", 7)]

    def test_a_link_out_of_the_directory_is_refused(self, store: BlockStore, source: Path, tmp_path: Path) -> None:
        (tmp_path / "id_ed25519").write_bytes(b"secret")
        (source / "config.json").symlink_to(tmp_path / "id_ed25519")
        with pytest.raises(SourceError, match=r"config\.json.*links to .*id_ed25519, outside of"):
            publish_path(store, source)
        assert files_below(store.path) == set()

    def test_the_links_of_a_hugging_face_snapshot_are_followed(self, store: BlockStore, source: Path) -> None:
        model = source / "models--sentence-transformers--all-MiniLM-L6-v2"
        snapshot = model / "snapshots" / "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
        for path in (model / "blobs", snapshot / "onnx"):
            path.mkdir(parents=True)
        (model / "blobs" / "53aa5117").write_bytes(b"weights")
        (snapshot / "model.safetensors").symlink_to("../../blobs/53aa5117")
        (snapshot / "onnx" / "model.onnx").symlink_to("../../../blobs/53aa5117")
        published = publish_path(store, snapshot)
        assert [entry.path for entry in published.manifest.files] == ["model.safetensors", "onnx/model.onnx"]
        assert {entry.digest for entry in published.manifest.files} == {BLAKE3.digest(b"weights")}
        (snapshot / "config.json").symlink_to(source / "elsewhere")
        (source / "elsewhere").write_bytes(b"secret")
        with pytest.raises(SourceError, match="outside of"):
            publish_path(store, snapshot)

    def test_a_link_that_is_named_by_the_user_is_followed(
        self, store: BlockStore, source: Path, tmp_path: Path
    ) -> None:
        (source / "model.bin").write_bytes(b"weights")
        (tmp_path / "latest").symlink_to(source)
        (tmp_path / "latest.bin").symlink_to(source / "model.bin")
        assert publish_path(store, tmp_path / "latest").manifest.files[0].path == "model.bin"
        assert publish_path(store, tmp_path / "latest.bin").manifest.files[0].path == "latest.bin"

    @pytest.mark.parametrize(("target", "reason"), [("nowhere", "no such file"), (".", "link to a directory")])
    def test_a_link_to_no_file_is_refused(self, store: BlockStore, source: Path, target: str, reason: str) -> None:
        (source / "file").write_bytes(b"x")
        (source / "link").symlink_to(target)
        with pytest.raises(SourceError, match=rf"link: .*{reason}"):
            publish_path(store, source)

    def test_a_link_to_itself_is_refused(self, store: BlockStore, source: Path) -> None:
        (source / "link").symlink_to("link")
        with pytest.raises(SourceError, match="Too many levels of symbolic links"):
            publish_path(store, source)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_name_with_backslash(path: Path) -> None:
    (path.parent / "back\\slash").write_bytes(b"x")


def make_name_that_is_not_unicode(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff")).write_bytes(b"x")


class TestWhatCannotBePublished:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (make_pipe, "it is a named pipe; only files"),
            (make_name_with_backslash, "backslash.*rename it"),
            (make_name_that_is_not_unicode, "not Unicode; rename it"),
        ],
    )
    def test_a_directory_with_something_odd_in_it_is_refused(
        self, store: BlockStore, source: Path, make: Callable[[Path], None], reason: str
    ) -> None:
        (source / "a").write_bytes(b"x")
        make(source / "odd")
        with pytest.raises(SourceError, match=reason):
            publish_path(store, source)
        assert files_below(store.path) == set()

    def test_nothing_is_refused(self, store: BlockStore, source: Path) -> None:
        with pytest.raises(SourceError, match="no such file or directory"):
            publish_path(store, source / "typo")
        with pytest.raises(SourceError, match="no file in this directory"):
            publish_path(store, source)
        (source / "empty").mkdir()
        with pytest.raises(SourceError, match="no file in this directory"):
            publish_path(store, source)

    def test_a_device_is_refused(self, store: BlockStore) -> None:
        with pytest.raises(SourceError, match="it is a character device"):
            publish_path(store, Path("/dev/zero"))

    def test_a_file_that_cannot_be_read_is_named(
        self, store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Permissions do not stop root, who runs these tests.
        (source / "a").write_bytes(b"readable")
        (source / "secret.bin").write_bytes(b"x")
        real = os.open

        def open_file(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if Path(path).name == "secret.bin":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", open_file)
        with pytest.raises(SourceError, match=r"secret\.bin: this user may not read it"):
            publish_path(store, source)
        assert files_below(store.path) == set()

    def test_too_much_is_refused_before_it_is_read(
        self, store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in "abc":
            (source / name).write_bytes(b"12345")
        monkeypatch.setattr("lattica.content.publish.MAX_TOTAL_SIZE", 14)
        with pytest.raises(SourceError, match="it has 15 bytes; 14 are the most"):
            publish_path(store, source)
        monkeypatch.setattr("lattica.content.publish_tree.MAX_FILES", 2)
        with pytest.raises(SourceError, match="more than 2 files"):
            publish_path(store, source)

    def test_a_manifest_that_nobody_would_accept_is_not_published(
        self, store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (source / "a").write_bytes(b"x")
        with pytest.raises(SourceError, match="control characters"):
            publish_path(store, source, name="\x1b[2J")
        monkeypatch.setattr("lattica.content.publish.MAX_MANIFEST", 50)
        with pytest.raises(SourceError, match="Publish it in parts"):
            publish_path(store, source)
        assert files_below(store.path) == set()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 100)


def rewrite(path: Path) -> None:
    """The same size and other bytes, at a later time."""
    data = random_bytes(path.stat().st_size, seed=99)
    before = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(before + 1, before + 1))


def replace(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.write_bytes(b"new")


def delete(path: Path) -> None:
    path.unlink()


class TestFilesThatChangeMeanwhile:
    @pytest.mark.parametrize("change", [append, cut, rewrite, replace, delete])
    @pytest.mark.parametrize("when", [BLOCK, LARGE])
    def test_nothing_is_published(
        self, store: BlockStore, source: Path, change: Callable[[Path], None], when: int
    ) -> None:
        (source / "a").write_bytes(b"complete")
        (source / "model.bin").write_bytes(random_bytes(LARGE))

        def interfere(done: int, _total: int) -> None:
            if done == len(b"complete") + when:
                change(source / "model.bin")

        with pytest.raises(SourceChangedError, match=r"model\.bin changed while it was being published"):
            publish_path(store, source, progress=interfere)
        assert store.roots() == []
        assert files_below(store.path) == set()

    def test_one_that_changes_between_being_hashed_and_being_copied_is_noticed(
        self, store: BlockStore, source: Path
    ) -> None:
        """The beginning is known, so it is read again when the first new chunk comes; the time stamp is forged."""
        path = source / "model.bin"
        data = random_bytes(LARGE)
        path.write_bytes(data[: 2 * BLOCK])
        first = publish_path(store, path).cid
        path.write_bytes(data)
        status = path.stat()

        def interfere(done: int, _total: int) -> None:
            if done == 2 * BLOCK:
                with path.open("r+b") as file:
                    file.write(b"other bytes")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

        with pytest.raises(SourceChangedError):
            publish_path(store, path, progress=interfere)
        assert store.roots() == [first]

    def test_a_file_that_is_gone_when_its_turn_comes_is_named(self, store: BlockStore, source: Path) -> None:
        for name in "ab":
            (source / name).write_bytes(b"x")

        def interfere(done: int, _total: int) -> None:
            if done == 1:
                (source / "b").unlink(missing_ok=True)

        with pytest.raises(SourceError, match="b: there is no such file"):
            publish_path(store, source, progress=interfere)
        assert files_below(store.path) == set()

    def test_what_was_published_before_stays(self, store: BlockStore, source: Path) -> None:
        (source / "a").write_bytes(b"shared")
        first = publish_path(store, source)
        (source / "b").write_bytes(random_bytes(LARGE))
        with pytest.raises(SourceChangedError):
            publish_path(store, source, progress=lambda done, _: append(source / "b") if done > 6 else None)
        assert store.roots() == [first.cid]
        assert is_readable(store, first.manifest.files[0], b"shared")


def test_when_the_index_fails_at_the_end_nothing_is_left(
    store: BlockStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (source / name).write_bytes(name.encode())
    real, calls = Index.add_whole, []

    def add_whole(self: Index, *arguments: Any) -> Image:
        calls.append(arguments)
        if len(calls) == 2:
            raise StoreError(store.path, "the disk is full")
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Index, "add_whole", add_whole)
        with pytest.raises(StoreError, match="disk is full"):
            publish_path(store, source)
    assert store.roots() == []
    assert files_below(store.path) == set()
    assert publish_path(store, source).cid in store.roots()


class TestCancelling:
    def test_it_stops_soon_and_leaves_nothing(self, store: BlockStore, source: Path) -> None:
        (source / "model.bin").write_bytes(random_bytes(LARGE))
        cancelled = threading.Event()
        seen: list[int] = []

        def cancel(done: int, _total: int) -> None:
            seen.append(done)
            if done:
                cancelled.set()

        with pytest.raises(PublishCancelledError, match="was cancelled; nothing was published"):
            publish_path(store, source, progress=cancel, cancelled=cancelled.is_set)
        assert seen == [0, BLOCK]
        assert files_below(store.path) == set()

    def test_an_error_in_the_progress_callback_leaves_nothing(self, store: BlockStore, source: Path) -> None:
        (source / "model.bin").write_bytes(random_bytes(LARGE))

        def fail(done: int, _total: int) -> None:
            if done == LARGE:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            publish_path(store, source, progress=fail)
        assert files_below(store.path) == set()
