"""What follows a fetch to the disk and to the destination, made eager so that small files show it."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from content_peers import CHUNK, Content, ContentPeers, ScriptedProvider, wait_until

from lattica.content import Chunk, PartialBlob, fetch_trail
from lattica.content.provider_stream import Context
from lattica.content.provider_wire import Wanted
from lattica.errors import StoreError

MODEL = Content.of({"model.bin": random.Random(5).randbytes(40 * CHUNK + 17)})
HALF = 20


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[ContentPeers]:
    async with ContentPeers(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_trail, "STEP_BYTES", 1)
    monkeypatch.setattr(fetch_trail, "STEP_S", 0.01)
    monkeypatch.setattr(fetch_trail, "MIN_FOLLOWED", 0)


class Halfway(ScriptedProvider):
    """Stops after half of the chunks until told to go on."""

    def __init__(self, content: Content) -> None:
        super().__init__(content)
        self.gate = asyncio.Event()

    async def answer(self, wanted: Wanted, context: Context) -> None:
        if len(self.served) >= HALF:
            await self.gate.wait()
        await super().answer(wanted, context)


class Copies:
    """Counts the bytes that the kernel is told to copy from file to file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self._real = os.copy_file_range
        monkeypatch.setattr(os, "copy_file_range", self._copy)

    def _copy(self, source: int, target: int, count: int, offset: int, into: int) -> int:
        done = self._real(source, target, count, offset, into)
        self.bytes += done
        return done


async def test_half_of_a_file_is_copied_when_half_of_it_has_come(
    peers: ContentPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, copies = Halfway(MODEL), Copies(monkeypatch)
    fetcher, _ = peers.fetcher(await peers.serve(provider))
    async with asyncio.TaskGroup() as tasks:
        fetching = tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
        await wait_until(lambda: copies.bytes > (HALF - 1) * CHUNK)  # the file's last chunk is a short one
        assert not (tmp_path / "got.bin").exists()
        provider.gate.set()
        await fetching
    assert copies.bytes == len(MODEL.data)
    assert (tmp_path / "got.bin").read_bytes() == MODEL.data


async def test_a_cancelled_fetch_leaves_nothing_at_the_destination(
    peers: ContentPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, copies = Halfway(MODEL), Copies(monkeypatch)
    fetcher, _ = peers.fetcher(await peers.serve(provider))
    (tmp_path / "out").mkdir()
    fetching = asyncio.ensure_future(fetcher.fetch(MODEL.cid, tmp_path / "out" / "got.bin"))
    await wait_until(lambda: copies.bytes > 0)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert list((tmp_path / "out").iterdir()) == []
    provider.gate.set()
    await fetcher.fetch(MODEL.cid, tmp_path / "out" / "got.bin")
    assert (tmp_path / "out" / "got.bin").read_bytes() == MODEL.data


async def test_what_the_disk_spoilt_is_not_in_the_copy(
    peers: ContentPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, store, copies = Halfway(MODEL), peers.store(), Copies(monkeypatch)
    fetcher, _ = peers.fetcher(await peers.serve(provider), store=store)
    monkeypatch.setattr(random, "randrange", lambda *_: 0)  # begin with the first chunk
    note = fetch_trail.Trail.note
    spoilt: list[Path] = []

    def spoil(trail: fetch_trail.Trail, blob: PartialBlob, chunk: Chunk) -> None:
        if chunk.offset == 3 * CHUNK and not spoilt:  # after it was written, before it is copied
            (partial,) = (store.path / "partial").iterdir()
            with partial.open("r+b") as file:
                file.seek(3 * CHUNK + 5)
                file.write(b"spoilt")
            spoilt.append(partial)
        note(trail, blob, chunk)

    monkeypatch.setattr(fetch_trail.Trail, "note", spoil)
    async with asyncio.TaskGroup() as tasks:
        fetching = tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
        await wait_until(lambda: copies.bytes >= HALF * CHUNK)
        provider.gate.set()
        await fetching
    assert spoilt
    assert len(provider.served) == len(MODEL.chunks) + 1
    assert (tmp_path / "got.bin").read_bytes() == MODEL.data


async def test_a_disk_that_cannot_flush_fails_the_fetch(
    peers: ContentPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Halfway(MODEL)
    fetcher, _ = peers.fetcher(await peers.serve(provider))
    real, failed = os.fdatasync, asyncio.Event()
    loop = asyncio.get_running_loop()

    def fdatasync(descriptor: int) -> None:
        if not failed.is_set():  # the system says so once
            loop.call_soon_threadsafe(failed.set)
            loop.call_soon_threadsafe(provider.gate.set)
            raise OSError(errno.EIO, "input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(StoreError, match="check the disk"):
        await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
    assert not (tmp_path / "got.bin").exists()
