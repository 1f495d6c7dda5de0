"""Copies that grow while the file arrives: nothing is seen of them before the end, and they never make it worse."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from content_store_files import BLAKE3, CHUNK, entry_for, put, random_bytes, write_chunks

from lattica.content import BlockStore
from lattica.content.store_growing import GrowingCopy
from lattica.errors import StoreError

DATA = random_bytes(10 * CHUNK + 100)
ENTRY = entry_for(DATA)
CHUNKS = ENTRY.chunks()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore.open(tmp_path / "store") as store:
        put(store, ENTRY)
        yield store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_what_was_added_before_need_not_be_copied_again(
    store: BlockStore, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[tuple[int, int]] = []
    real = os.copy_file_range

    def copy_file_range(source: int, target: int, count: int, offset: int, into: int) -> int:
        copied.append((offset, offset + count))
        return real(source, target, count, offset, into)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    growing = GrowingCopy(out / "deep" / "model.bin")
    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS[4:8])
        blob.flush(CHUNKS[4:8], [growing])
        assert copied == [(4 * CHUNK, 8 * CHUNK)]
        assert list(out.iterdir()) == []
        write_chunks(blob, DATA, CHUNKS)
        blob.seal()
    store.export(ENTRY, out / "deep" / "model.bin", overwrite=False, growing=growing)
    growing.close()
    assert copied[1:] == [(0, 4 * CHUNK), (8 * CHUNK, len(DATA))]
    assert (out / "deep" / "model.bin").read_bytes() == DATA
    assert list((out / "deep").iterdir()) == [out / "deep" / "model.bin"]


def test_one_that_is_given_up_leaves_nothing(store: BlockStore, out: Path) -> None:
    growing = GrowingCopy(out / "model.bin")
    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS[:3])
        blob.flush(CHUNKS[:3], [growing])
    assert growing.draft is not None
    growing.close()
    growing.close()
    assert list(out.iterdir()) == []


def test_one_that_fails_is_made_anew_at_the_end(store: BlockStore, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "disk full")

    growing = GrowingCopy(out / "model.bin")
    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS)
        with monkeypatch.context() as patch:
            patch.setattr(os, "copy_file_range", full)
            blob.flush(CHUNKS, [growing])
        assert growing.draft is None
        blob.seal()
    store.export(ENTRY, out / "model.bin", overwrite=False, growing=growing)
    assert (out / "model.bin").read_bytes() == DATA


def test_none_is_begun_where_files_share_their_blocks(
    store: BlockStore, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)
    growing = GrowingCopy(out / "model.bin")
    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS)
        blob.flush(CHUNKS, [growing])
    assert growing.draft is None


def test_none_is_begun_where_it_would_need_a_name(
    store: BlockStore, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    growing = GrowingCopy(out / "model.bin")
    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS)
        blob.flush(CHUNKS, [growing])
    assert growing.draft is None
    assert list(out.iterdir()) == []


def test_a_disk_that_fails_to_flush_is_an_error(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with store.open_blob(ENTRY, BLAKE3) as blob:
        write_chunks(blob, DATA, CHUNKS)
        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(StoreError, match="check the disk"):
            blob.flush(CHUNKS)
