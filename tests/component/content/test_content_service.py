"""The provider's servicer, asked by well-behaved clients and by others."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from content_peers import CHUNK, Content, ContentPeers, StoreProvider, wait_until

from lattica._proto import content_pb2
from lattica.content import provider_stream, service
from lattica.content.cid import Cid
from lattica.content.manifest_limits import MAX_CHUNK
from lattica.content.provider_client import get_manifest
from lattica.content.provider_wire import MAX_IN_FLIGHT, MAX_REQUEST_BYTES, SERVICE, RequestBook, Wanted
from lattica.content.store import BlockStore
from lattica.errors import NetworkError, StoreError
from lattica.identity import PeerId

MODEL = Content.of({"model.bin": random.Random(1).randbytes(40 * CHUNK + 17)})
BIG = Content.of({"big.bin": random.Random(2).randbytes(64 * MAX_CHUNK)}, chunk_size=MAX_CHUNK)
TINY = Content.of({"tiny.bin": random.Random(3).randbytes(500 * 1000)}, chunk_size=1000)

BUFFERED_BY_GRPC = 16
"""Responses of 1 MiB in HTTP/2's windows and the sockets' buffers, at most."""

StreamCall = grpc.aio.StreamStreamCall[bytes, bytes]


class CountingStore(BlockStore):
    """Counts chunk reads; fails them if told to."""

    reads = 0
    is_broken = False

    def read_chunk(self, digest: bytes, length: int) -> bytes | None:
        self.reads += 1
        if self.is_broken:
            raise StoreError(self.path, "the disk reports an input/output error")
        return super().read_chunk(digest, length)


class Served:
    """A store that holds all test content, served."""

    def __init__(
        self, peers: ContentPeers, store: CountingStore, peer: PeerId, servicer: service.ContentServicer
    ) -> None:
        self.store = store
        self.peer = peer
        self.servicer = servicer
        self._peers = peers

    @property
    def channel(self) -> grpc.aio.Channel:
        return self._peers.channels.channel(self.peer)

    def open_stream(self) -> StreamCall:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(f"/{SERVICE}/GetChunks")
        return method()

    async def stop(self) -> None:
        await self._peers.stop(self.peer)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with ContentPeers(tmp_path) as peers:
        store = peers.store(CountingStore.open)
        assert isinstance(store, CountingStore)
        for content in (MODEL, BIG, TINY):
            content.put_into(store)
        provider = StoreProvider(store)
        yield Served(peers, store, await peers.serve(provider), provider.servicer)


def all_wanted(content: Content) -> list[Wanted]:
    return [Wanted(tag, digest, len(data)) for tag, (digest, data) in enumerate(content.chunks.items())]


async def read(call: StreamCall) -> bytes:
    message = await call.read()
    assert isinstance(message, bytes), "the stream ended"
    return message


async def read_to_the_end(call: StreamCall) -> None:
    async with asyncio.timeout(10):
        while await call.read() is not grpc.aio.EOF:
            pass


async def status_of(call: StreamCall) -> tuple[grpc.StatusCode, str]:
    """How the call ends, whatever comes before."""
    async with asyncio.timeout(10):
        return await call.code(), await call.details()


class TestChunks:
    async def test_every_chunk_that_is_asked_for_comes(self, served: Served) -> None:
        book, call = RequestBook(MODEL.cid), served.open_stream()
        wanted = all_wanted(MODEL)
        await call.write(book.encode_request(wanted))
        found: dict[int, bytes] = {}
        while book.unanswered:
            found.update(book.take_response(await read(call)).found)
        assert [found[w.tag] for w in wanted] == [MODEL.chunks[w.digest] for w in wanted]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    async def test_many_small_ones_come_in_one_response(self, served: Served) -> None:
        book, call = RequestBook(TINY.cid), served.open_stream()
        await call.write(book.encode_request(all_wanted(TINY)[:MAX_IN_FLIGHT]))
        answers = book.take_response(await read(call))
        assert len(answers.found) == MAX_IN_FLIGHT
        call.cancel()

    async def test_what_is_not_there_is_said_and_the_rest_comes(self, served: Served) -> None:
        book, call = RequestBook(MODEL.cid), served.open_stream()
        first = all_wanted(MODEL)[0]
        await call.write(
            book.encode_request([first, Wanted(1, bytes(32), 7), Wanted(2, first.digest, first.length - 1)])
        )
        answers = book.take_response(await read(call))
        assert [tag for tag, _ in answers.found] == [0]
        assert answers.missing == [1, 2]
        call.cancel()

    async def test_chunks_of_a_file_that_is_still_being_fetched_are_served(self, served: Served) -> None:
        content = Content.of({"next.bin": random.Random(9).randbytes(4 * CHUNK)})
        with served.store.open_blob(content.manifest.files[0], content.manifest.hash) as blob:
            chunk = blob.missing()[2]
            blob.write(chunk, content.chunks[chunk.digest])
            book, call = RequestBook(content.cid), served.open_stream()
            await call.write(book.encode_request(all_wanted(content)))
            answers = book.take_response(await read(call))
        assert answers.found == [(2, content.chunks[chunk.digest])]
        assert answers.missing == [0, 1, 3]
        call.cancel()

    async def test_a_disk_that_fails_is_a_chunk_that_is_not_there(self, served: Served) -> None:
        served.store.is_broken = True
        book, call = RequestBook(MODEL.cid), served.open_stream()
        await call.write(book.encode_request(all_wanted(MODEL)[:1]))
        assert book.take_response(await read(call)).missing == [0]
        call.cancel()


class TestBounds:
    async def test_a_client_that_reads_nothing_makes_it_read_ahead_no_further_than_that(self, served: Served) -> None:
        book, call = RequestBook(BIG.cid), served.open_stream()
        await call.write(book.encode_request(all_wanted(BIG)))
        await wait_until(lambda: served.store.reads > 2)
        await asyncio.sleep(0.5)  # nothing to wait for: it is to do nothing
        assert served.store.reads <= 3 + BUFFERED_BY_GRPC
        while book.unanswered:
            book.take_response(await read(call))
        assert served.store.reads == 64
        call.cancel()

    async def test_a_client_that_takes_nothing_loses_the_stream(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(provider_stream, "SEND_TIMEOUT_S", 0.3)
        caplog.set_level(logging.INFO, service.__name__)
        book, call = RequestBook(BIG.cid), served.open_stream()
        await call.write(book.encode_request(all_wanted(BIG)))
        await wait_until(lambda: "call refused" in caplog.text)  # it has lost patience
        assert served.store.reads <= 3 + BUFFERED_BY_GRPC
        with pytest.raises(grpc.aio.AioRpcError, match="you do not take what you asked for"):
            await read_to_the_end(call)

    async def test_more_unanswered_chunks_than_allowed_end_the_stream(self, served: Served) -> None:
        call = served.open_stream()
        wanted = all_wanted(BIG) * (MAX_IN_FLIGHT // 64) + all_wanted(BIG)[:40]
        await call.write(RequestBook(BIG.cid).encode_request(wanted))
        assert (await status_of(call))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_as_many_as_allowed_may_be_asked_for_at_any_time(self, served: Served) -> None:
        """A client fills its window as soon as an answer is there."""
        book, call = RequestBook(TINY.cid), served.open_stream()
        wanted = all_wanted(TINY)
        asked = 0
        for _ in range(20):
            count = MAX_IN_FLIGHT - len(book.unanswered)
            more = [Wanted(asked + n, wanted[(asked + n) % 500].digest, 1000) for n in range(count)]
            asked += count
            await call.write(book.encode_request(more))
            book.take_response(await read(call))
        call.cancel()

    async def test_an_idle_stream_is_ended(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        book, call = RequestBook(MODEL.cid), served.open_stream()
        for wanted in all_wanted(MODEL)[:2]:
            await call.write(book.encode_request([wanted]))
            book.take_response(await read(call))
            monkeypatch.setattr(provider_stream, "IDLE_S", 0.3)  # after the next question, which may be a moment late
        assert await status_of(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "the stream was idle")

    async def test_a_peer_may_have_some_calls_at_a_time(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "MAX_CALLS_PER_PEER", 2)
        calls = [served.open_stream() for _ in range(2)]
        for call in calls:
            book = RequestBook(MODEL.cid)
            await call.write(book.encode_request(all_wanted(MODEL)[:1]))
            await read(call)
        assert (await status_of(served.open_stream()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls[0].cancel()
        await wait_until(lambda: served.servicer.calls_served == 1)
        assert await get_manifest(served.channel, MODEL.cid, asyncio.Semaphore()) == MODEL.manifest.encode()
        calls[1].cancel()

    async def test_there_is_a_limit_for_all_peers_together(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "MAX_CALLS", 0)
        assert (await status_of(served.open_stream()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_clients_that_vanish_leave_nothing_behind(self, served: Served) -> None:
        for _ in range(5):
            call = served.open_stream()
            await call.write(RequestBook(BIG.cid).encode_request(all_wanted(BIG)))
            await read(call)
            call.cancel()
        await wait_until(lambda: served.servicer.calls_served == 0)


class TestMalformedRequests:
    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(b"\xff\xff\xff", id="no protobuf"),
            pytest.param(b"", id="nothing wanted"),
            pytest.param(bytes(MAX_REQUEST_BYTES + 1), id="too large"),
            pytest.param(b"\x12\x00" * (MAX_REQUEST_BYTES // 2), id="many empty chunks"),
            pytest.param(
                content_pb2.ChunkRequest(
                    root=MODEL.cid.to_bytes(), wanted=[content_pb2.WantedChunk(digest=b"short", length=1)]
                ).SerializeToString(),
                id="bad digest",
            ),
        ],
    )
    async def test_they_end_the_stream_and_nothing_else(self, served: Served, raw: bytes) -> None:
        call, other = served.open_stream(), served.open_stream()
        await call.write(raw)
        assert (await status_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        book = RequestBook(MODEL.cid)
        await other.write(book.encode_request(all_wanted(MODEL)[:1]))
        assert book.take_response(await read(other)).found
        other.cancel()

    async def test_one_in_the_middle_of_much_data_ends_the_stream(self, served: Served) -> None:
        call = served.open_stream()
        await call.write(RequestBook(BIG.cid).encode_request(all_wanted(BIG)))
        await read(call)
        await call.write(b"\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await wait_until(lambda: served.servicer.calls_served == 0)

    async def test_a_manifest_request_without_a_content_id_is_refused(self, served: Served) -> None:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = served.channel.unary_stream(f"/{SERVICE}/GetManifest")
        call = method(content_pb2.ManifestRequest(cid=b"nonsense").SerializeToString())
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestManifests:
    async def test_one_comes_in_parts(self, served: Served) -> None:
        long = Content.of({f"file-{number:06}": b"" for number in range(30_000)})
        served.store.put_manifest(long.cid, long.manifest.encode())
        assert len(long.manifest.encode()) > MAX_CHUNK
        assert await get_manifest(served.channel, long.cid, asyncio.Semaphore()) == long.manifest.encode()

    async def test_one_that_is_not_there_is_said_so(self, served: Served) -> None:
        with pytest.raises(NetworkError, match="no such manifest here"):
            await get_manifest(served.channel, Cid.of(b"other"), asyncio.Semaphore())

    async def test_calls_at_a_time_share_the_bytes(self, served: Served) -> None:
        got = await asyncio.gather(*(get_manifest(served.channel, MODEL.cid, asyncio.Semaphore()) for _ in range(8)))
        assert set(got) == {MODEL.manifest.encode()}
        await wait_until(lambda: served.servicer.calls_served == 0)
