"""Streams as a protocol's author sees them: order, ends, resets, backpressure, cancelled reads."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
import trio
import trio.testing
from swarm_pairs import connected
from waiting import until

from lattica.errors import RemoteProtocolError, StreamError
from lattica.swarm import Stream, mux

PROTOCOL = "/test/stream/1"


async def test_messages_go_both_ways_in_order() -> None:
    async with connected() as (alice, bob, _):

        async def reverse(stream: Stream) -> None:
            assert stream.peer_id == alice.key.peer_id
            assert stream.protocol == PROTOCOL
            while (message := await stream.read_message(1000)) is not None:
                await stream.write_message(message[::-1])

        bob.serve_streams(PROTOCOL, reverse)
        async with await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            assert stream.peer_id == bob.key.peer_id
            for number in range(50):
                await stream.write_message(b"message %d" % number)
            answers = [await stream.read_message(1000) for _ in range(50)]
        assert answers == [(b"message %d" % number)[::-1] for number in range(50)]


async def test_a_closed_side_can_still_read() -> None:
    """Half-close: "that was all I have to say" and then the answer."""
    async with connected() as (alice, bob, _):

        async def count(stream: Stream) -> None:
            total = 0
            while data := await stream.read_some(10_000):
                total += len(data)
            await stream.write_message(b"%d" % total)

        bob.serve_streams(PROTOCOL, count)
        async with await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            await stream.write(bytes(123_456))
            await stream.close()
            assert await stream.read_message(100) == b"123456"
            assert await stream.read_message(100) is None
            assert await stream.read_some(100) == b"", "and again"
            with pytest.raises(StreamError):
                await stream.write(b"more")


async def test_a_block_that_raises_resets_the_stream() -> None:
    """The other side must not take half of a conversation for a whole one."""
    async with connected() as (alice, bob, _):
        ends: asyncio.Queue[object] = asyncio.Queue()

        async def listen(stream: Stream) -> None:
            try:
                ends.put_nowait(await stream.read_message(100))
            except StreamError as error:
                ends.put_nowait(error)
                raise

        async def fail() -> None:
            async with await alice.open_stream(bob.key.peer_id, PROTOCOL):
                raise KeyError("mine")

        bob.serve_streams(PROTOCOL, listen)
        with pytest.raises(KeyError):
            await fail()
        async with await alice.open_stream(bob.key.peer_id, PROTOCOL):
            pass
        async with asyncio.timeout(30):
            found = [await ends.get(), await ends.get()]
        assert isinstance(found[0], StreamError)
        assert found[1] is None


@pytest.mark.parametrize("how", ["finish", "reset"])
async def test_a_machine_that_stalls_while_it_says_goodbye_says_it_all_the_same(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another frame is under way at that moment, so that the time for it is over before it was tried."""
    async with connected() as (alice, bob, _):
        ends: asyncio.Queue[object] = asyncio.Queue()

        async def listen(stream: Stream) -> None:
            try:
                ends.put_nowait(await stream.read_message(100))
            except StreamError as error:
                ends.put_nowait(error)

        bob.serve_streams(PROTOCOL, listen)
        stream = await alice.open_stream(bob.key.peer_id, PROTOCOL)
        await until(lambda: alice.peer_info(bob.key.peer_id) and bob.peer_info(alice.key.peer_id))
        monkeypatch.setattr(mux, "CLOSE_TIMEOUT_S", 0.3)
        link = alice._host.connection_to(bob.key.peer_id)
        assert link is not None

        async def stall() -> None:
            async with trio.open_nursery() as nursery, link._muxed._write_lock:
                nursery.start_soon(getattr(stream._muxed, how))
                await trio.testing.wait_all_tasks_blocked()
                time.sleep(0.5)  # noqa: ASYNC251 - that is the stall
                await trio.testing.wait_all_tasks_blocked()

        await alice._thread.call(stall)
        async with asyncio.timeout(20):
            end = await ends.get()
        assert end is None if how == "finish" else isinstance(end, StreamError)
        assert await alice.ping(bob.key.peer_id) > 0


async def test_a_handler_that_fails_resets_the_stream() -> None:
    async with connected() as (alice, bob, _):

        async def fail(stream: Stream) -> None:
            await stream.read_message(100)
            raise ZeroDivisionError

        bob.serve_streams(PROTOCOL, fail)
        async with await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            await stream.write_message(b"x")
            with pytest.raises(StreamError):
                await stream.read_message(100)
            with pytest.raises(StreamError):
                await stream.write(bytes(10_000_000))


async def test_a_message_cut_off_in_the_middle_is_an_error() -> None:
    async with connected() as (alice, bob, _):

        async def half(stream: Stream) -> None:
            await stream.write(b"\x0ahalf")
            await stream.close()

        async def length_only(stream: Stream) -> None:
            await stream.write(b"\x80")
            await stream.close()

        for number, handler in enumerate((half, length_only)):
            bob.serve_streams(f"{PROTOCOL}{number}", handler)
            async with await alice.open_stream(bob.key.peer_id, f"{PROTOCOL}{number}") as stream:
                with pytest.raises(StreamError, match="middle of a message"):
                    await stream.read_message(100)


@pytest.mark.parametrize("length", [b"\x65", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80" * 10, b"\x80\x00"])
async def test_an_absurd_length_is_refused_before_its_bytes_are_read(length: bytes) -> None:
    async with connected() as (alice, bob, _):

        async def lie(stream: Stream) -> None:
            await stream.write(length + bytes(50))
            await stream.read_message(10)

        bob.serve_streams(PROTOCOL, lie)
        async with asyncio.timeout(30), await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            with pytest.raises(RemoteProtocolError) as caught:
                await stream.read_message(100)
            assert caught.value.peer_id == str(bob.key.peer_id)


async def test_bulk_goes_both_ways_at_once() -> None:
    """Many times the window, so that it is refilled; one task reads while another writes."""
    size = 3_000_000
    data = random.Random(7).randbytes(size)
    async with connected() as (alice, bob, _):

        async def exchange(stream: Stream) -> bytes:
            async def write() -> None:
                await stream.write(data)
                await stream.close()

            received = bytearray()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(write())
                while some := await stream.read_some(50_000):
                    received += some
            return bytes(received)

        at_bob: asyncio.Queue[bytes] = asyncio.Queue()

        async def serve(stream: Stream) -> None:
            at_bob.put_nowait(await exchange(stream))

        bob.serve_streams(PROTOCOL, serve)
        async with asyncio.timeout(30), await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            assert await exchange(stream) == data
            assert await at_bob.get() == data


async def test_a_cancelled_read_loses_nothing() -> None:
    """The reader gives up and comes back at random moments: in a length, in a body, in a window update."""
    count, moment = 400, random.Random(3)
    sizes = [moment.choice([1, 200, 3000, 70_000]) for _ in range(count)]

    async with connected() as (alice, bob, _):

        async def talk(stream: Stream) -> None:
            for number, size in enumerate(sizes):
                message = number.to_bytes(4) + bytes(size)
                for start in range(0, len(message), 30_000):
                    prefix = bytes([*varint(len(message))]) if start == 0 else b""
                    await stream.write(prefix + message[start : start + 30_000])

        bob.serve_streams(PROTOCOL, talk)
        cancelled, patience = 0, 0.002
        async with asyncio.timeout(40), await alice.open_stream(bob.key.peer_id, PROTOCOL) as stream:
            for number, size in enumerate(sizes):
                while True:
                    try:
                        async with asyncio.timeout(2 * patience * moment.random()):
                            message = await stream.read_message(100_000)
                        patience *= 0.9
                        break
                    except TimeoutError:
                        cancelled += 1
                        patience *= 1.1  # stays about as long as a message takes on this machine
                assert message is not None
                assert int.from_bytes(message[:4]) == number
                assert len(message) == 4 + size
            assert await stream.read_message(100) is None
        assert cancelled > count // 10, "the moments hit reads that waited"


def varint(number: int) -> list[int]:
    low = [number & 0x7F]
    while number := number >> 7:
        low[-1] |= 0x80
        low.append(number & 0x7F)
    return low


async def test_a_stream_outlives_other_streams_and_idleness() -> None:
    async with connected() as (alice, bob, _):

        async def echo(stream: Stream) -> None:
            while (message := await stream.read_message(100)) is not None:
                await stream.write_message(message)

        bob.serve_streams(PROTOCOL, echo)
        async with await alice.open_stream(bob.key.peer_id, PROTOCOL) as quiet:
            for _ in range(20):
                async with await alice.open_stream(bob.key.peer_id, PROTOCOL) as other:
                    await other.write_message(b"x")
                    assert await other.read_message(10) == b"x"
            await quiet.write_message(b"still here")
            assert await quiet.read_message(100) == b"still here"


async def test_streams_left_behind_do_not_block_new_ones() -> None:
    """A caller that is cancelled between our opening a stream and its receiving it never had the stream."""
    async with connected() as (alice, bob, _):

        async def hold(stream: Stream) -> None:
            await stream.read_message(10)

        bob.serve_streams(PROTOCOL, hold)
        moment, patience = random.Random(5), 0.001
        opened = left = 0
        while left < 200 or opened < 20:
            try:
                async with asyncio.timeout(2 * patience * moment.random()):
                    stream = await alice.open_stream(bob.key.peer_id, PROTOCOL)
            except TimeoutError:
                left += 1
                patience *= 1.1  # stays about as long as opening takes on this machine
                continue
            opened += 1
            patience *= 0.9
            await stream.reset()
        async with asyncio.timeout(30):
            streams = [await alice.open_stream(bob.key.peer_id, PROTOCOL) for _ in range(100)]
            for stream in streams:
                await stream.close()
