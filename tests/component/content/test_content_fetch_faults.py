"""Fetching from providers that lie, break the protocol, stall or die, and onto disks that fail."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from content_peers import CHUNK, HASTE, Content, ContentPeers, ScriptedProvider, wait_until

from lattica._proto import content_pb2
from lattica.content.cid import Buffer, HashFunction
from lattica.content.fetch_report import FetchProgress
from lattica.content.manifest import Chunk, ChunkRun, FileEntry, Manifest
from lattica.content.manifest_limits import MAX_CHUNK, MAX_MANIFEST
from lattica.content.provider_stream import Context
from lattica.content.provider_wire import MAX_IN_FLIGHT, Wanted, encode_response
from lattica.content.store import BlockStore, PartialBlob
from lattica.content.transfer import MAX_PROVIDERS
from lattica.errors import ContentNotFoundError, IntegrityError, ManifestError, StoreError

MODEL = Content.of({"model.bin": random.Random(1).randbytes(200 * CHUNK + 17)})
SMALL = Content.of({"small.bin": random.Random(2).randbytes(10 * CHUNK)})


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[ContentPeers]:
    async with ContentPeers(tmp_path) as made:
        yield made


class Liar(ScriptedProvider):
    """Sends wrong bytes of the right length."""

    def chunk(self, wanted: Wanted) -> bytes | None:
        return bytes(wanted.length)


class Cutter(ScriptedProvider):
    """Sends a byte less than it should."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await context.write(encode_response([(wanted.tag, bytes(wanted.length - 1))]))


class Guesser(ScriptedProvider):
    """Answers what was not asked."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await context.write(encode_response([(wanted.tag + 1_000_000, self.chunk(wanted))]))


class Stutterer(ScriptedProvider):
    """Answers everything twice."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await super().answer(wanted, context)
        await super().answer(wanted, context)


class Babbler(ScriptedProvider):
    """Sends what is no response at all."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await context.write(b"\xff" * 100)


class Flooder(ScriptedProvider):
    """Sends responses that are larger than any may be."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await context.write(encode_response([(wanted.tag, bytes(2 * MAX_CHUNK))]))


class Silent(ScriptedProvider):
    """Takes every request and answers none."""

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await asyncio.Event().wait()


class Empty(ScriptedProvider):
    """Has the manifest, and no chunk."""

    def chunk(self, wanted: Wanted) -> bytes | None:
        return None


class Aborter(ScriptedProvider):
    """Ends every stream with a status of its choice."""

    status = grpc.StatusCode.INTERNAL

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await context.abort(self.status, "not today")


class Canceller(Aborter):
    """gRPC turns this status into `asyncio.CancelledError` in the client's task."""

    status = grpc.StatusCode.CANCELLED


class Quitter(ScriptedProvider):
    """Ends every stream as if all were said."""

    async def get_chunks(self, _: object, context: Context) -> None:
        return


class Paused(ScriptedProvider):
    """Stops in the middle until told to go on."""

    def __init__(self, content: Content, after: int) -> None:
        super().__init__(content)
        self.after = after
        self.gate = asyncio.Event()

    async def answer(self, wanted: Wanted, context: Context) -> None:
        if len(self.served) >= self.after:
            await self.gate.wait()
        await super().answer(wanted, context)


def is_written(provider: Paused, steps: list[FetchProgress]) -> bool:
    """Whether a paused provider, the only one to send anything, has sent its part and the fetcher has written that."""
    sent = sum(len(provider.content.chunks[digest]) for digest in provider.served)
    return len(provider.served) == provider.after and bool(steps) and steps[-1].done_bytes == sent


PROTOCOL_BREAKERS = [Cutter, Guesser, Stutterer, Babbler]
FAILING = [*PROTOCOL_BREAKERS, Flooder, Empty, Aborter, Canceller, Quitter]


class TestOneOfTwoProvidersIsBad:
    @pytest.mark.parametrize("kind", [Liar, *FAILING])
    async def test_the_fetch_completes_from_the_other(
        self, peers: ContentPeers, tmp_path: Path, kind: type[ScriptedProvider]
    ) -> None:
        bad, good = await peers.serve(kind(MODEL)), await peers.publish(MODEL)
        fetcher, _ = peers.fetcher(bad, good)
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert result.sources[0].peer_id == good

    async def test_the_liar_is_reported_and_not_asked_again(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Patient(ScriptedProvider):
            """Answers when the liar has been found out; by itself it might have sent everything by then."""

            async def answer(self, wanted: Wanted, context: Context) -> None:
                await wait_until(lambda: liar.calls == 1 and not liar.streams)
                await super().answer(wanted, context)

        liar = Liar(MODEL)
        bad = await peers.serve(liar)
        fetcher, _ = peers.fetcher(bad, await peers.serve(Patient(MODEL)))
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        (report,) = [source for source in result.sources if source.peer_id == bad]
        assert (report.dropped, report.chunks) == ("sent wrong bytes", 0)
        assert liar.calls == 1

    async def test_a_stalled_one_is_overtaken(self, peers: ContentPeers, tmp_path: Path) -> None:
        silent, good = await peers.serve(Silent(MODEL)), await peers.publish(MODEL)
        fetcher, _ = peers.fetcher(silent, good)
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        (report,) = [source for source in result.sources if source.peer_id == silent]
        assert report.dropped in {"", "silent"}, "nobody waited until it was given up"

    @pytest.mark.slow
    async def test_one_that_dies_in_the_middle_is_replaced(self, peers: ContentPeers, tmp_path: Path) -> None:
        mortal, other = Paused(MODEL, after=10), Paused(MODEL, after=0)
        dying = await peers.serve(mortal)
        fetcher, _ = peers.fetcher(dying, await peers.serve(other))
        steps: list[FetchProgress] = []
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(fetcher.fetch(MODEL.cid, tmp_path / "got.bin", progress=steps.append))
            await wait_until(lambda: is_written(mortal, steps) and other.asked > 0)
            await peers.stop(dying)
            before = len(steps)
            await wait_until(lambda: any(step.providers == 1 for step in steps[before:]))
            other.gate.set()
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        report = next(source for source in task.result().sources if source.peer_id == dying)
        assert report.chunks == 10
        assert report.dropped


@pytest.mark.slow
async def test_many_dead_providers_do_not_keep_a_good_one_out(peers: ContentPeers, tmp_path: Path) -> None:
    """More than are used at a time take requests and never answer."""
    silent = [await peers.serve(Silent(MODEL)) for _ in range(MAX_PROVIDERS + 4)]
    good = await peers.publish(MODEL)
    fetcher, _ = peers.fetcher(*silent, good)
    result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == MODEL.data
    assert not [source for source in result.sources if source.dropped.startswith("silent for")], "nor are waited for"


class TestTheOnlyProviderIsBad:
    @pytest.mark.slow
    async def test_wrong_bytes_are_an_integrity_error_that_names_it(self, peers: ContentPeers, tmp_path: Path) -> None:
        liar = await peers.serve(Liar(MODEL))
        fetcher, _ = peers.fetcher(liar, patience=HASTE)
        with pytest.raises(IntegrityError) as caught:
            await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert caught.value.peers == (str(liar),)
        assert not (tmp_path / "got.bin").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", PROTOCOL_BREAKERS)
    async def test_a_broken_protocol_is_told(
        self, peers: ContentPeers, tmp_path: Path, kind: type[ScriptedProvider]
    ) -> None:
        provider = kind(SMALL)
        breaker = await peers.serve(provider)
        fetcher, _ = peers.fetcher(breaker, patience=HASTE)
        with pytest.raises(ContentNotFoundError) as caught:
            await fetcher.fetch(SMALL.cid, tmp_path / "got.bin")
        assert "broke the protocol" in caught.value.attempts[str(breaker)]
        assert provider.calls == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (Empty, "does not have"),
            (Aborter, "not today"),
            (Canceller, "cancelled"),
            (Quitter, "ended"),
            (Silent, "silent$"),
        ],
    )
    async def test_what_it_did_is_told(
        self, peers: ContentPeers, tmp_path: Path, kind: type[ScriptedProvider], reason: str
    ) -> None:
        bad = await peers.serve(kind(SMALL))
        fetcher, _ = peers.fetcher(bad, patience=HASTE)
        with pytest.raises(ContentNotFoundError) as caught:
            await fetcher.fetch(SMALL.cid, tmp_path / "got.bin")
        assert re.search(reason, caught.value.attempts[str(bad)])

    async def test_one_that_returns_after_it_died_is_used_again(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Flaky(ScriptedProvider):
            async def answer(self, wanted: Wanted, context: Context) -> None:
                if self.served and len(self.served) % 5 == 0 and self.served[-1] != wanted.digest:
                    self.served.append(wanted.digest)
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
                await super().answer(wanted, context)

        fetcher, _ = peers.fetcher(await peers.serve(Flaky(SMALL)))
        await fetcher.fetch(SMALL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == SMALL.data


class TestManifests:
    @pytest.mark.slow
    async def test_one_that_never_ends_is_cut_off(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Endless(ScriptedProvider):
            parts = 0

            async def get_manifest(self, request: bytes, context: Context) -> None:
                while True:
                    await context.write(
                        content_pb2.ManifestPart(total=3 << 20, data=bytes(1 << 20)).SerializeToString()
                    )
                    self.parts += 1

        provider = Endless(SMALL)
        endless = await peers.serve(provider)
        fetcher, _ = peers.fetcher(endless, patience=HASTE)
        with pytest.raises(IntegrityError) as caught:
            await fetcher.fetch(SMALL.cid, tmp_path / "got.bin")
        assert caught.value.peers == (str(endless),)
        assert provider.parts < 50, "a reader would get thousands; some are in gRPC's buffers when the call is ended"

    @pytest.mark.slow
    async def test_one_that_is_not_the_right_one_is_passed_over(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Mistaken(ScriptedProvider):
            times = 0

            async def get_manifest(self, request: bytes, context: Context) -> None:
                self.times += 1
                data = MODEL.manifest.encode()
                await context.write(content_pb2.ManifestPart(total=len(data), data=data).SerializeToString())

        mistaken = Mistaken(SMALL)
        fetcher, routing = peers.fetcher(await peers.serve(mistaken))
        good = await peers.publish(SMALL)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fetcher.fetch(SMALL.cid, tmp_path / "got.bin"))
            await wait_until(lambda: routing.searches == 2)  # the second search follows the first by a second
            routing.providers.append(good)
        assert (tmp_path / "got.bin").read_bytes() == SMALL.data
        assert (mistaken.times, mistaken.asked) == (1, 0)

    @pytest.mark.slow
    async def test_one_that_claims_too_many_bytes_is_not_read(self, peers: ContentPeers, tmp_path: Path) -> None:
        class Boaster(ScriptedProvider):
            async def get_manifest(self, request: bytes, context: Context) -> None:
                part = content_pb2.ManifestPart(total=MAX_MANIFEST + 1, data=bytes(100))
                await context.write(part.SerializeToString())

        boaster = await peers.serve(Boaster(SMALL))
        fetcher, _ = peers.fetcher(boaster, patience=HASTE)
        with pytest.raises(ContentNotFoundError) as caught:
            await fetcher.fetch(SMALL.cid, tmp_path / "got.bin")
        assert str(MAX_MANIFEST + 1) in caught.value.attempts[str(boaster)]

    @pytest.mark.parametrize(
        ("entry", "error"),
        [
            pytest.param(
                FileEntry("model.bin", 1 << 60, bytes(32), (ChunkRun(1 << 20, 1 << 60, bytes(32)),)),
                ManifestError,
                id="an exabyte in one chunk",
            ),
            pytest.param(
                FileEntry("model.bin", 1 << 44, bytes(32), (ChunkRun(1 << 20, 1 << 44, bytes(32) * 1000),)),
                ManifestError,
                id="digests for a part only",
            ),
            pytest.param(FileEntry("../model.bin", 0, bytes(32), ()), ManifestError, id="a path that leads out"),
        ],
    )
    async def test_absurd_ones_leave_nothing_on_disk(
        self, peers: ContentPeers, tmp_path: Path, entry: FileEntry, error: type[Exception]
    ) -> None:
        absurd = Content({}, Manifest("absurd", HashFunction.BLAKE3, (entry,)), {})
        store = peers.store()
        fetcher, _ = peers.fetcher(await peers.serve(ScriptedProvider(absurd)), store=store)
        with pytest.raises(error):
            await fetcher.fetch(absurd.cid, tmp_path / "got")
        assert store.get_manifest(absurd.cid) is None
        assert not (tmp_path / "got").exists()
        assert not [path for path in store.path.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]

    @pytest.mark.skipif(
        shutil.disk_usage("/tmp").free > 2 << 40, reason="no manifest can claim more than this disk has"
    )
    async def test_more_than_the_disk_holds_is_refused_at_once(self, peers: ContentPeers, tmp_path: Path) -> None:
        store = peers.store()
        count = shutil.disk_usage(store.path).free // MAX_CHUNK + 20_000  # others may make room meanwhile
        runs = (ChunkRun(MAX_CHUNK, count * MAX_CHUNK, bytes(32) * count),)
        huge = FileEntry("model.bin", count * MAX_CHUNK, bytes(32), runs)
        content = Content({}, Manifest("huge", HashFunction.BLAKE3, (huge,)), {})

        class InParts(ScriptedProvider):
            async def get_manifest(self, request: bytes, context: Context) -> None:
                data = self.content.manifest.encode()
                for at in range(0, len(data), MAX_CHUNK):
                    part = content_pb2.ManifestPart(total=len(data), data=data[at : at + MAX_CHUNK])
                    await context.write(part.SerializeToString())

        fetcher, _ = peers.fetcher(await peers.serve(InParts(content)), store=store)
        with pytest.raises(StoreError, match="MB"):
            await fetcher.fetch(content.cid, tmp_path / "got")
        assert store.get_manifest(content.cid) is None

    async def test_one_whose_chunks_do_not_make_the_file_leaves_no_file(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        (honest,) = SMALL.manifest.files
        lying = FileEntry(honest.path, honest.size, bytes(32), honest.runs)
        content = Content(SMALL.files, Manifest("lie", HashFunction.BLAKE3, (lying,)), SMALL.chunks)
        fetcher, _ = peers.fetcher(await peers.serve(ScriptedProvider(content)))
        with pytest.raises(ManifestError, match="do not make the file"):
            await fetcher.fetch(content.cid, tmp_path / "got.bin")
        assert not (tmp_path / "got.bin").exists()


class FillingBlob(PartialBlob):
    """A file on a disk that has room for some chunks."""

    room = 0

    def write(self, chunk: Chunk, data: Buffer) -> None:
        if self.room < chunk.length:
            raise StoreError(Path("store"), "the disk is full; make room")
        self.room -= chunk.length
        super().write(chunk, data)


class FillingStore(BlockStore):
    """A store whose disk has room for some chunks of each file.

    Attributes:
        room: How many bytes.
    """

    room = 0

    def open_blob(self, entry: FileEntry, hash: HashFunction) -> PartialBlob:  # noqa: A002
        blob = super().open_blob(entry, hash)
        filling = FillingBlob.__new__(FillingBlob)
        filling.__dict__.update(blob.__dict__)
        filling.room = self.room
        return filling


class TestDisk:
    async def test_a_full_one_ends_the_fetch_at_once_and_keeps_what_came(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        store = peers.store(FillingStore.open)
        assert isinstance(store, FillingStore)
        store.room = 50 * CHUNK
        provider = ScriptedProvider(MODEL)
        fetcher, _ = peers.fetcher(await peers.serve(provider), store=store)
        with pytest.raises(StoreError, match="full"):
            await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        store.room = len(MODEL.data)
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert 49 * CHUNK < result.reused_bytes <= 50 * CHUNK

    async def test_chunks_that_it_spoils_are_fetched_again(self, peers: ContentPeers, tmp_path: Path) -> None:
        provider = ScriptedProvider(SMALL)
        store = peers.store()
        fetcher, _ = peers.fetcher(await peers.serve(provider), store=store)

        def spoil(step: FetchProgress) -> None:
            (partial,) = (store.path / "partial").iterdir() if step.phase == "verify" else (None,)
            if partial is not None and len(provider.served) == len(SMALL.chunks):
                with partial.open("r+b") as file:
                    file.seek(3 * CHUNK + 5)
                    file.write(b"spoilt")

        await fetcher.fetch(SMALL.cid, tmp_path / "got.bin", progress=spoil)
        assert (tmp_path / "got.bin").read_bytes() == SMALL.data
        assert len(provider.served) == len(SMALL.chunks) + 1


class TestCancellation:
    async def test_it_can_be_resumed_and_fetches_again_at_most_what_was_in_flight(
        self, peers: ContentPeers, tmp_path: Path
    ) -> None:
        content = Content.of({"large.bin": random.Random(4).randbytes(1000 * CHUNK)})
        provider = Paused(content, after=500)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        task = asyncio.ensure_future(fetcher.fetch(content.cid, tmp_path / "got.bin"))
        await wait_until(lambda: len(provider.served) == 500)
        task.cancel()
        await asyncio.wait([task])
        await wait_until(lambda: not provider.streams)  # it would send more, to nobody
        assert not (tmp_path / "got.bin").exists()
        provider.gate.set()
        result = await fetcher.fetch(content.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == content.data
        again = len(provider.served) - 1000
        assert again <= MAX_IN_FLIGHT
        assert result.reused_bytes == (500 - again) * CHUNK

    async def test_chunks_that_are_written_are_never_fetched_again(self, peers: ContentPeers, tmp_path: Path) -> None:
        provider = Paused(MODEL, after=120)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        steps: list[FetchProgress] = []

        task = asyncio.ensure_future(fetcher.fetch(MODEL.cid, tmp_path / "got.bin", progress=steps.append))
        await wait_until(lambda: is_written(provider, steps))
        task.cancel()
        await asyncio.wait([task])
        await wait_until(lambda: not provider.streams)  # it would send more, to nobody
        provider.gate.set()
        await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert Counter(provider.served).most_common(1)[0][1] == 1

    async def test_no_task_is_left(self, peers: ContentPeers, tmp_path: Path) -> None:
        before = asyncio.all_tasks()
        providers = [Paused(MODEL, after=20), Paused(MODEL, after=20)]
        ids = [await peers.serve(provider) for provider in providers]
        fetcher, _ = peers.fetcher(*ids)
        task = asyncio.ensure_future(fetcher.fetch(MODEL.cid, tmp_path / "got.bin"))
        await wait_until(lambda: all(len(provider.served) == 20 for provider in providers))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        for peer in ids:
            await peers.stop(peer)
        await peers.channels.close()
        await wait_until(lambda: asyncio.all_tasks() <= before)

    async def test_a_waiting_fetch_takes_over(self, peers: ContentPeers, tmp_path: Path) -> None:
        provider = Paused(MODEL, after=100)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        steps: list[FetchProgress] = []
        first = asyncio.ensure_future(fetcher.fetch(MODEL.cid, tmp_path / "one.bin", progress=steps.append))
        await wait_until(lambda: bool(steps) and steps[-1].done_bytes > 90 * CHUNK)
        second_steps: list[FetchProgress] = []
        second = asyncio.ensure_future(fetcher.fetch(MODEL.cid, tmp_path / "two.bin", progress=second_steps.append))
        await wait_until(lambda: bool(second_steps))
        first.cancel()
        await asyncio.wait([first])
        provider.gate.set()
        result = await second
        assert (tmp_path / "two.bin").read_bytes() == MODEL.data
        assert not (tmp_path / "one.bin").exists()
        assert result.reused_bytes > 90 * CHUNK
