"""Fetching from honest providers over loopback."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from content_peers import (
    CHUNK,
    HASTE,
    Content,
    ContentPeers,
    ListRouting,
    ScriptedProvider,
    StoreProvider,
    peer_id,
    wait_until,
)

from lattica.content import fetch_search
from lattica.content.cid import Cid
from lattica.content.fetch import Fetcher
from lattica.content.fetch_report import FetchProgress
from lattica.content.provider_stream import Context
from lattica.content.provider_wire import Wanted
from lattica.errors import ContentNotFoundError, NetworkError, SourceError
from lattica.identity import PeerId

MODEL = Content.of({"model.bin": random.Random(1).randbytes(40 * CHUNK + 17)})
FOLDER = Content.of(
    {
        "config.json": b"{}",
        "empty": b"",
        "copy/model.bin": MODEL.data,
        "model.bin": MODEL.data,
        "part.bin": MODEL.data[: 3 * CHUNK],
    }
)


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[ContentPeers]:
    async with ContentPeers(tmp_path) as made:
        yield made


async def test_a_file_arrives_as_it_was_published(peers: ContentPeers, tmp_path: Path) -> None:
    alice = await peers.publish(MODEL)
    fetcher, _ = peers.fetcher(alice)
    result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == MODEL.data
    assert (result.cid, result.path, result.size) == (MODEL.cid, tmp_path / "got.bin", len(MODEL.data))
    assert result.reused_bytes == 0
    (source,) = result.sources
    assert (source.peer_id, source.path_kind, source.bytes, source.chunks, source.dropped) == (
        alice,
        "lan",
        len(MODEL.data),
        41,
        "",
    )


async def test_a_folder_arrives_with_its_files_and_equal_ones_are_fetched_once(
    peers: ContentPeers, tmp_path: Path
) -> None:
    alice = await peers.publish(FOLDER)
    fetcher, _ = peers.fetcher(alice)
    result = await fetcher.fetch(FOLDER.cid, tmp_path / "got")
    got = {str(path.relative_to(tmp_path / "got")): path.read_bytes() for path in (tmp_path / "got").rglob("*.*")}
    assert got | {"empty": (tmp_path / "got/empty").read_bytes()} == FOLDER.files
    assert result.path == tmp_path / "got"
    assert result.size == sum(map(len, FOLDER.files.values()))
    assert sum(source.bytes for source in result.sources) == len(MODEL.data) + 2


async def test_several_providers_share_the_work(peers: ContentPeers, tmp_path: Path) -> None:
    class Measured(ScriptedProvider):
        async def answer(self, wanted: Wanted, context: Context) -> None:
            # Whoever is connected first would be asked for most of it before the others are there.
            await wait_until(lambda: all(provider.asked for provider in providers))
            await asyncio.sleep(0.002)
            await super().answer(wanted, context)

    content = Content.of({"model.bin": random.Random(2).randbytes(600 * CHUNK)})
    providers = [Measured(content) for _ in range(3)]
    fetcher, _ = peers.fetcher(*[await peers.serve(provider) for provider in providers])
    result = await fetcher.fetch(content.cid, tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == content.data
    assert min(source.chunks for source in result.sources) > 50
    assert sum(source.chunks for source in result.sources) == 600


async def test_what_is_in_the_store_is_not_fetched(peers: ContentPeers, tmp_path: Path) -> None:
    store = peers.store()
    MODEL.put_into(store)
    fetcher, routing = peers.fetcher(store=store)
    result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == MODEL.data
    assert (result.reused_bytes, result.sources) == (len(MODEL.data), ())
    assert not routing.searches


async def test_chunks_of_other_content_in_the_store_are_not_fetched(peers: ContentPeers, tmp_path: Path) -> None:
    changed = bytearray(MODEL.data)
    changed[5 * CHUNK] ^= 1
    fine_tuned = Content.of({"model.bin": bytes(changed)})
    store = peers.store()
    MODEL.put_into(store)
    fetcher, _ = peers.fetcher(await peers.publish(fine_tuned), store=store)
    result = await fetcher.fetch(fine_tuned.cid, tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == bytes(changed)
    assert result.reused_bytes == len(MODEL.data) - CHUNK
    assert sum(source.bytes for source in result.sources) == CHUNK


async def test_progress_is_told_from_finding_to_writing(peers: ContentPeers, tmp_path: Path) -> None:
    steps: list[FetchProgress] = []
    fetcher, _ = peers.fetcher(await peers.publish(MODEL))
    await fetcher.fetch(MODEL.cid, tmp_path / "got.bin", progress=steps.append)
    phases = [step.phase for step in steps]
    assert sorted(set(phases), key=phases.index) == ["find", "manifest", "chunks", "verify", "write", "announce"]
    assert steps[-1].done_bytes == steps[-1].total_bytes == len(MODEL.data)


class TestDestination:
    async def test_a_directory_is_filled_with_the_file(self, peers: ContentPeers, tmp_path: Path) -> None:
        fetcher, _ = peers.fetcher(await peers.publish(MODEL))
        result = await fetcher.fetch(MODEL.cid, tmp_path)
        assert result.path == tmp_path / "model.bin"
        assert result.path.read_bytes() == MODEL.data

    async def test_an_existing_file_is_refused_before_anybody_is_asked(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        (tmp_path / "got.bin").write_bytes(b"mine")
        fetcher, routing = peers.fetcher(await peers.publish(MODEL))
        with pytest.raises(SourceError, match="it exists"):
            await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == b"mine"
        assert not routing.searches

    async def test_an_existing_file_is_replaced_if_told_to(self, peers: ContentPeers, tmp_path: Path) -> None:
        (tmp_path / "got.bin").write_bytes(b"mine")
        fetcher, _ = peers.fetcher(await peers.publish(MODEL))
        await fetcher.fetch(MODEL.cid, tmp_path / "got.bin", overwrite=True)
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data

    async def test_a_file_in_the_way_of_a_folder_is_refused_before_chunks_are_fetched(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        provider = ScriptedProvider(FOLDER)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        (tmp_path / "got").mkdir()
        (tmp_path / "got/config.json").write_text("mine")
        with pytest.raises(SourceError, match=r"config\.json"):
            await fetcher.fetch(FOLDER.cid, tmp_path / "got")
        assert not provider.asked


class TestProviders:
    async def test_one_that_appears_late_is_used(self, peers: ContentPeers, tmp_path: Path) -> None:
        alice = await peers.publish(MODEL)
        fetcher, routing = peers.fetcher()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
            await wait_until(lambda: routing.searches == 1)
            routing.providers.append(alice)
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data

    async def test_one_that_appears_while_another_lacks_chunks_is_used(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        class Half(ScriptedProvider):
            def chunk(self, wanted: Wanted) -> bytes | None:
                return super().chunk(wanted) if wanted.digest[0] < 128 else None

        half = Half(MODEL)
        fetcher, routing = peers.fetcher(await peers.serve(half))
        alice = await peers.publish(MODEL)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
            await wait_until(lambda: half.asked > len(half.served) > 0)
            routing.providers.append(alice)
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert {source.peer_id for source in task.result().sources if source.bytes} == {*routing.providers}

    async def test_unreachable_ones_do_not_matter(self, peers: ContentPeers, tmp_path: Path) -> None:
        alice = await peers.publish(MODEL)
        fetcher, _ = peers.fetcher(*[peers.nobody() for _ in range(5)], alice)
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert result.sources[0].peer_id == alice

    async def test_a_search_that_hangs_does_not_keep_later_ones_from_finding_it(
        self, peers: ContentPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Hanging(ListRouting):
            async def find_providers(self, key: bytes) -> AsyncIterator[PeerId]:
                async for peer in super().find_providers(key):
                    yield peer
                await asyncio.Event().wait()

        monkeypatch.setattr(fetch_search, "SEARCH_S", 0.1)
        routing = Hanging([peer_id(99)])
        peers.channels.ports[peer_id(99)] = 1
        fetcher = Fetcher(peers.store(), peers.channels, routing)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
            await wait_until(lambda: routing.searches == 1)
            routing.providers.append(await peers.publish(MODEL))
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data

    @pytest.mark.slow
    async def test_nobody_is_an_error_that_says_so(self, peers: ContentPeers, tmp_path: Path) -> None:
        fetcher, _ = peers.fetcher(patience=HASTE)
        with pytest.raises(ContentNotFoundError, match="nobody provides") as caught:
            await fetcher.fetch(Cid.of(b"nobody has this"), tmp_path / "got.bin")
        assert caught.value.attempts == {}

    @pytest.mark.slow
    async def test_a_failed_search_is_named(self, peers: ContentPeers, tmp_path: Path) -> None:
        fetcher, routing = peers.fetcher(patience=HASTE)
        routing.failure = NetworkError("no peer of the DHT answers")
        with pytest.raises(ContentNotFoundError, match="no peer of the DHT answers"):
            await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")

    @pytest.mark.slow
    async def test_unreachable_ones_alone_are_named(self, peers: ContentPeers, tmp_path: Path) -> None:
        gone = peers.nobody()
        fetcher, _ = peers.fetcher(gone, patience=HASTE)
        with pytest.raises(ContentNotFoundError) as caught:
            await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert "unavailable" in caught.value.attempts[str(gone)]


class TestServingWhileFetching:
    async def test_the_content_is_announced_before_it_is_complete(self, peers: ContentPeers, tmp_path: Path) -> None:
        gate = asyncio.Event()

        class Gated(ScriptedProvider):
            async def answer(self, wanted: Wanted, context: Context) -> None:
                if len(self.served) == 10:
                    await gate.wait()
                await super().answer(wanted, context)

        fetcher, routing = peers.fetcher(await peers.serve(Gated(MODEL)))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
            await wait_until(lambda: routing.announced == [MODEL.cid.multihash])
            assert not task.done()
            gate.set()

    @pytest.mark.slow
    async def test_a_fetcher_passes_on_what_it_has_so_far(self, peers: ContentPeers, tmp_path: Path) -> None:
        """Carol knows only Bob, who gets the second half of the model while she fetches."""
        gate = asyncio.Event()

        class Gated(ScriptedProvider):
            async def answer(self, wanted: Wanted, context: Context) -> None:
                if len(self.served) == 20:
                    await gate.wait()
                await super().answer(wanted, context)

        bobs_store = peers.store()
        bob = await peers.serve(StoreProvider(bobs_store))
        bobs, _ = peers.fetcher(await peers.serve(Gated(MODEL)), store=bobs_store)
        carols, _ = peers.fetcher(bob)
        carols_steps: list[FetchProgress] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bobs.fetch(MODEL.cid, tmp_path / "bob.bin"))
            await wait_until(lambda: bobs_store.get_manifest(MODEL.cid) is not None)
            tasks.create_task(carols.fetch(MODEL.cid, tmp_path / "carol.bin", progress=carols_steps.append))
            await wait_until(lambda: bool(carols_steps) and carols_steps[-1].done_bytes > 19 * CHUNK)
            gate.set()
        assert (tmp_path / "carol.bin").read_bytes() == MODEL.data

    async def test_an_announcement_that_fails_does_not_matter(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Mute(ListRouting):
            async def provide(self, key: bytes) -> int:
                raise NetworkError("nobody listens")

        fetcher = Fetcher(peers.store(), peers.channels, Mute([await peers.publish(MODEL)]))
        await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data


async def test_two_fetches_of_the_same_content_are_one_transfer(peers: ContentPeers, tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Gated(ScriptedProvider):
        async def answer(self, wanted: Wanted, context: Context) -> None:
            await gate.wait()
            await super().answer(wanted, context)

    provider = Gated(MODEL)
    fetcher, _ = peers.fetcher(await peers.serve(provider))
    steps: tuple[list[FetchProgress], list[FetchProgress]] = ([], [])
    async with asyncio.TaskGroup() as tasks:
        fetches = [
            tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / name, progress=told.append))
            for name, told in zip(("one.bin", "two.bin"), steps, strict=True)
        ]
        await wait_until(lambda: all(steps))  # the second one is there, too, before the first has anything
        gate.set()
    results = [task.result() for task in fetches]
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "two.bin").read_bytes() == MODEL.data
    assert sorted(provider.served) == sorted(MODEL.chunks)
    assert sorted(result.reused_bytes for result in results) == [0, len(MODEL.data)]
    for told in steps:
        assert "chunks" in {step.phase for step in told}, "the one that waits is told of the other's progress"
