"""Copying files out of the store: complete or not at all, and never over what is there."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from content_store_files import BLAKE3, CHUNK, Disk, entry_for, fill, mount_tmpfs, random_bytes, unmount, write_chunks

from lattica.content import BlockStore
from lattica.errors import SourceError, StoreError

DATA = random_bytes(10 * CHUNK + 100)
ENTRY = entry_for(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore.open(tmp_path / "store") as store:
        fill(store, ENTRY, DATA)
        yield store


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Disk]:
    disk = mount_tmpfs(tmp_path / "disk", "4m")
    try:
        yield disk
    finally:
        unmount(disk)


def test_a_copy_is_the_file_and_its_own(store: BlockStore, tmp_path: Path) -> None:
    copy = tmp_path / "out" / "deep" / "model.bin"
    store.export(ENTRY, copy, overwrite=False)
    assert copy.read_bytes() == DATA
    assert list(copy.parent.iterdir()) == [copy]
    with copy.open("r+b") as file:
        file.write(b"edited")
    assert store.read_chunk(ENTRY.chunks()[0].digest, CHUNK) == DATA[:CHUNK]


def test_the_umask_is_respected(store: BlockStore, tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        store.export(ENTRY, tmp_path / "model.bin", overwrite=False)
    finally:
        os.umask(previous)
    assert (tmp_path / "model.bin").stat().st_mode & 0o777 == 0o640


def test_what_is_there_is_kept_unless_it_may_be_overwritten(store: BlockStore, tmp_path: Path) -> None:
    copy = tmp_path / "model.bin"
    copy.write_bytes(b"precious")
    with pytest.raises(SourceError, match="it exists"):
        store.export(ENTRY, copy, overwrite=False)
    assert copy.read_bytes() == b"precious"
    store.export(ENTRY, copy, overwrite=True)
    assert copy.read_bytes() == DATA


def test_a_dangling_link_is_something_too(store: BlockStore, tmp_path: Path) -> None:
    copy = tmp_path / "model.bin"
    copy.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="it exists"):
        store.export(ENTRY, copy, overwrite=False)
    store.export(ENTRY, copy, overwrite=True)
    assert not copy.is_symlink()
    assert copy.read_bytes() == DATA


def test_one_that_appears_while_we_copy_is_kept(
    store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "out" / "model.bin"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if copy.parent.exists():
            copy.write_bytes(b"precious")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SourceError, match="it exists"):
        store.export(ENTRY, copy, overwrite=False)
    assert copy.read_bytes() == b"precious"
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_not_overwritten(store: BlockStore, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="it is a directory"):
        store.export(ENTRY, tmp_path / "out", overwrite=overwrite)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_on_the_way_is_named_as_the_reason(store: BlockStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in ("file/model.bin", "file/deep/model.bin"):
        with pytest.raises(SourceError, match="a part of the path is a file"):
            store.export(ENTRY, tmp_path / path, overwrite=True)


def test_a_name_that_is_too_long_is_refused(store: BlockStore, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="too long"):
        store.export(ENTRY, tmp_path / ("n" * 256), overwrite=False)
    longest = tmp_path / ("n" * 255)
    store.export(ENTRY, longest, overwrite=False)
    assert longest.read_bytes() == DATA


def test_a_file_that_is_not_whole_is_not_copied(store: BlockStore, tmp_path: Path) -> None:
    data = random_bytes(3 * CHUNK, seed=4)
    entry = entry_for(data, "half.bin")
    with store.open_blob(entry, BLAKE3) as blob:
        write_chunks(blob, data, entry.chunks()[:2])
        with pytest.raises(StoreError, match=r"half\.bin is not complete"):
            store.export(entry, tmp_path / "out" / "half.bin", overwrite=False)
    assert not (tmp_path / "out").exists()


def test_one_that_was_cut_short_on_disk_is_not_copied(store: BlockStore, tmp_path: Path) -> None:
    os.truncate(store.path / "blobs" / ENTRY.digest.hex(), CHUNK)
    with pytest.raises(StoreError, match="is not complete"):
        store.export(ENTRY, tmp_path / "model.bin", overwrite=False)
    assert not (tmp_path / "model.bin").exists()


def test_an_empty_file_is_copied(store: BlockStore, tmp_path: Path) -> None:
    entry = entry_for(b"", "empty")
    fill(store, entry, b"")
    store.export(entry, tmp_path / "empty", overwrite=False)
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("overwrite", [False, True])
def test_it_may_be_on_another_disk(store: BlockStore, other_disk: Disk, overwrite: bool) -> None:
    store.export(ENTRY, other_disk.path / "model.bin", overwrite=overwrite)
    assert (other_disk.path / "model.bin").read_bytes() == DATA


def refuse_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


def refuse_kernel_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_file_range(*_: object) -> int:
        raise OSError(errno.EXDEV, "other disk")

    refuse_clones(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", copy_file_range)


def refuse_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def open_file(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_file)


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not supported")

    refuse_nameless_files(monkeypatch)
    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("refuse", [refuse_clones, refuse_kernel_copies, refuse_nameless_files, refuse_links])
def test_it_works_on_file_systems_that_can_do_little(
    store: BlockStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refuse: Callable[[pytest.MonkeyPatch], None],
    overwrite: bool,
) -> None:
    refuse(monkeypatch)
    copy = tmp_path / "out" / "model.bin"
    store.export(ENTRY, copy, overwrite=overwrite)
    assert copy.read_bytes() == DATA
    assert list(copy.parent.iterdir()) == [copy]
    with pytest.raises(SourceError, match="it exists"):
        store.export(ENTRY, copy, overwrite=False)
    store.export(ENTRY, copy, overwrite=True)
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize("refuse", [refuse_clones, refuse_nameless_files])
def test_when_copying_fails_nothing_is_left(
    store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None]
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    refuse(monkeypatch)
    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="input/output error"):
        store.export(ENTRY, tmp_path / "out" / "model.bin", overwrite=True)
    assert list((tmp_path / "out").iterdir()) == []
