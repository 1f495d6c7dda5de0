"""Requests and messages: answers, failures of either side, limits, cancellation, many at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Container

import pytest
from patience import PATIENCE_S
from swarm_pairs import connected
from waiting import until

from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerId
from lattica.swarm import Swarm, connection, swarm
from lattica.swarm.connection import MAX_OUTBOUND_STREAMS
from lattica.swarm.multistream import negotiate
from lattica.swarm.mux import MuxStream

ECHO, SLOW, BROKEN, SILENT = "/test/echo/1", "/test/slow/1", "/test/broken/1", "/test/silent/1"
LIMIT = 4 << 20


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message


async def broken(peer: PeerId, message: bytes) -> bytes:
    raise ZeroDivisionError("a bug in a handler")


async def silent(peer: PeerId, message: bytes) -> bytes | None:
    return None


async def slow(peer: PeerId, message: bytes) -> bytes:
    await asyncio.sleep(int(message) / 1000)
    return b"done"


def serve(bob: Swarm) -> None:
    for protocol, handler in ((ECHO, echo), (BROKEN, broken), (SILENT, silent), (SLOW, slow)):
        bob.serve_requests(protocol, handler, LIMIT)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 65_000, 65_536, 300_000, LIMIT])
async def test_a_message_of_any_size_comes_back(size: int) -> None:
    """Around the borders of varints, of Noise messages (64 KiB) and of yamux' window (256 KiB)."""
    message = random.Random(size).randbytes(size)
    async with connected() as (alice, bob, _):
        serve(bob)
        assert await alice.request(bob.key.peer_id, ECHO, message, LIMIT) == message


async def test_the_handler_learns_who_asks() -> None:
    async with connected() as (alice, bob, _):

        async def who(peer: PeerId, message: bytes) -> bytes:
            return str(peer).encode()

        for swarm_ in (alice, bob):
            swarm_.serve_requests("/test/who/1", who, 10)
        assert (await alice.request(bob.key.peer_id, "/test/who/1", b"", 100)).decode() == str(alice.key.peer_id)
        assert (await bob.request(alice.key.peer_id, "/test/who/1", b"", 100)).decode() == str(bob.key.peer_id)


async def test_sent_messages_arrive_without_an_answer() -> None:
    async with connected() as (alice, bob, _):
        got: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(peer: PeerId, message: bytes) -> None:
            got.put_nowait(message)

        bob.serve_requests("/test/news/1", take, 100)
        for number in range(50):
            await alice.send(bob.key.peer_id, "/test/news/1", b"%d" % number)
        async with asyncio.timeout(10):
            assert {await got.get() for _ in range(50)} == {b"%d" % number for number in range(50)}


async def test_a_protocol_that_is_not_served_is_said_so() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        for operation in (
            alice.request(bob.key.peer_id, "/test/nothing/1", b"x" * 5000, 100),
            alice.send(bob.key.peer_id, "/test/nothing/1", b"x"),
            alice.open_stream(bob.key.peer_id, "/test/nothing/1"),
        ):
            with pytest.raises(StreamError, match="does not serve /test/nothing/1"):
                await operation
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"


async def test_a_protocol_can_be_served_no_more() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        bob.stop_serving(ECHO)
        bob.stop_serving("/test/never-served/1")
        with pytest.raises(StreamError, match="does not serve"):
            await alice.request(bob.key.peer_id, ECHO, b"x", 10)
        assert await alice.request(bob.key.peer_id, SLOW, b"0", 10) == b"done"


async def test_a_request_to_a_peer_that_is_not_connected_fails_at_once() -> None:
    async with connected() as (alice, _, _):
        with pytest.raises(StreamError, match="not connected"):
            await alice.request(IdentityKey.generate().peer_id, ECHO, b"x", 10)


async def test_a_handler_that_fails_costs_its_stream_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """In py-libp2p's own host an exception in a handler ends the swarm."""
    async with connected() as (alice, bob, _), asyncio.TaskGroup() as tasks:
        serve(bob)
        patient = tasks.create_task(alice.request(bob.key.peer_id, SLOW, b"200", 10))
        for _ in range(20):
            with pytest.raises(StreamError):
                await alice.request(bob.key.peer_id, BROKEN, b"x", 10)
            assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"
        assert await patient == b"done"
        assert len(alice.connections()) == len(bob.connections()) == 1
    failures = [record for record in caplog.records if record.exc_info]
    assert len(failures) == 20
    assert all("a bug in a handler" in str(record.exc_info) for record in failures), (
        "one log entry each, with the reason"
    )


async def test_a_handler_that_refuses_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (alice, bob, _):

        async def refuse(peer: PeerId, message: bytes) -> bytes:
            raise RemoteProtocolError("nonsense", peer)

        bob.serve_requests("/test/refuse/1", refuse, 100)
        with pytest.raises(StreamError):
            await alice.request(bob.key.peer_id, "/test/refuse/1", b"x", 10)
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_handler_that_answers_nothing_is_an_error_for_the_asker_only_in_time() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await alice.request(bob.key.peer_id, SILENT, b"x", 10)
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"


async def test_a_handler_that_is_too_slow_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "HANDLER_TIMEOUT_S", 0.05)
    async with connected() as (alice, bob, _):
        cancelled = asyncio.Event()

        async def endless(peer: PeerId, message: bytes) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        bob.serve_requests("/test/endless/1", endless, 100)
        async with asyncio.timeout(20):
            with pytest.raises(StreamError):
                await alice.request(bob.key.peer_id, "/test/endless/1", b"x", 10)
            await cancelled.wait()


async def test_a_stream_on_which_nothing_is_asked_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def last(peer: PeerId, message: bytes) -> bytes:
        monkeypatch.setattr(swarm, "REQUEST_IDLE_S", 0.2)
        return message

    async with connected() as (alice, bob, _):
        bob.serve_requests(ECHO, last, LIMIT)
        async with asyncio.timeout(20), await alice.open_stream(bob.key.peer_id, ECHO) as stream:
            await stream.write_message(b"one")
            assert await stream.read_message(10) == b"one"
            assert await stream.read_message(10) is None


async def test_several_requests_go_over_one_stream() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        async with await alice.open_stream(bob.key.peer_id, ECHO) as stream:
            for number in range(20):
                await stream.write_message(b"%d" % number)
            assert [await stream.read_message(10) for _ in range(20)] == [b"%d" % number for number in range(20)]
            await stream.close()
            assert await stream.read_message(10) is None


async def test_a_request_over_the_handlers_limit_is_refused_without_reading_it() -> None:
    async with connected() as (alice, bob, _):
        seen: list[int] = []

        async def count(peer: PeerId, message: bytes) -> bytes:
            seen.append(len(message))
            return b"ok"

        bob.serve_requests("/test/small/1", count, 1000)
        assert await alice.request(bob.key.peer_id, "/test/small/1", bytes(1000), 10) == b"ok"
        for size in (1001, 200_000, LIMIT):
            with pytest.raises(StreamError):
                await alice.request(bob.key.peer_id, "/test/small/1", bytes(size), 10)
        assert await alice.request(bob.key.peer_id, "/test/small/1", b"", 10) == b"ok"
        assert seen == [1000, 0]


async def test_an_answer_over_the_askers_limit_is_the_peers_fault() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        with pytest.raises(RemoteProtocolError, match="101 bytes, 100 allowed") as caught:
            await alice.request(bob.key.peer_id, ECHO, bytes(101), 100)
        assert caught.value.peer_id == str(bob.key.peer_id)
        assert await alice.request(bob.key.peer_id, ECHO, bytes(100), 100) == bytes(100)


async def test_six_hundred_requests_at_once_are_all_answered() -> None:
    """More than the streams that either side allows at one time: the rest wait for their turn."""
    async with connected() as (alice, bob, _):
        serve(bob)
        async with asyncio.timeout(30):
            answers = await asyncio.gather(
                *(alice.request(bob.key.peer_id, ECHO, b"%d" % number, 100) for number in range(600))
            )
        assert answers == [b"%d" % number for number in range(600)]


async def test_waiting_for_a_turn_does_not_count_as_the_peers_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before take longer than a peer has to accept one stream."""
    monkeypatch.setattr(connection, "MAX_OUTBOUND_STREAMS", 4)
    async with connected() as (alice, bob, _), asyncio.TaskGroup() as tasks:
        answered, running = asyncio.Event(), 0

        async def answer(peer: PeerId, message: bytes) -> bytes:
            nonlocal running
            running += 1
            await answered.wait()
            return b"done"

        bob.serve_requests(SLOW, answer, LIMIT)
        await until(lambda: alice.peer_info(bob.key.peer_id) and bob.peer_info(alice.key.peer_id))
        link = alice._host.connection_to(bob.key.peer_id)
        assert link is not None

        def ask() -> asyncio.Task[bytes]:
            return tasks.create_task(alice.request(bob.key.peer_id, SLOW, b"", 10))

        requests = [ask() for _ in range(4)]
        await until(lambda: running == 4)
        with monkeypatch.context() as hurry:
            hurry.setattr(connection, "OPEN_TIMEOUT_S", 0.1)
            requests += [ask() for _ in range(8)]
            await until(lambda: link._outbound.statistics().tasks_waiting == 8)
            await asyncio.sleep(0.3)
        answered.set()
        assert await asyncio.gather(*requests) == [b"done"] * 12


async def test_requests_cancelled_at_any_moment_leave_the_connection_whole() -> None:
    """Noise numbers its messages and yamux counts its streams: a cancellation must break neither."""
    moment, patience = random.Random(1), 0.075

    async def ask(alice: Swarm, peer: PeerId, protocol: str, message: bytes) -> str:
        nonlocal patience
        try:
            async with asyncio.timeout(2 * patience * moment.random()):
                await alice.request(peer, protocol, message, LIMIT)
        except TimeoutError:
            patience *= 1.02  # stays about as long as an answer takes on this machine
            return "cancelled"
        patience *= 0.98
        return "answered"

    async with connected() as (alice, bob, _):
        serve(bob)
        outcomes: list[str] = []
        for _ in range(20):
            batch = [ask(alice, bob.key.peer_id, ECHO, bytes(moment.choice([10, 1000, 100_000]))) for _ in range(20)]
            outcomes += await asyncio.gather(*batch, ask(alice, bob.key.peer_id, SLOW, b"5"))
            assert await alice.request(bob.key.peer_id, ECHO, b"whole", 10) == b"whole"
        assert {"cancelled", "answered"} == set(outcomes), "the moments reach both sides of the answer"
        assert len(alice.connections()) == 1, "still the first connection"
        await everything_given_back(alice, bob)


async def everything_given_back(alice: Swarm, bob: Swarm) -> None:
    """No slot and no record of a stream is left on either side."""

    async def left(one: Swarm, other: Swarm) -> tuple[int, int, int, int]:
        async def count() -> tuple[int, int, int, int]:
            link = one._host.connection_to(other.key.peer_id)
            assert link is not None
            muxed = link._muxed
            return (
                MAX_OUTBOUND_STREAMS - link._outbound.value,
                muxed.stream_backlog_limit - muxed.stream_backlog_semaphore.value,
                len(muxed.streams) + len(muxed.stream_buffers) + len(muxed.stream_events),
                link._inbound,
            )

        return await one._thread.call(count)

    async with asyncio.timeout(20):
        while any(await left(alice, bob)) or any(await left(bob, alice)):
            await asyncio.sleep(0.01)


async def test_failed_requests_give_everything_back() -> None:
    async with connected() as (alice, bob, _):
        serve(bob)
        for _ in range(2):
            outcomes = await asyncio.gather(
                *(alice.request(bob.key.peer_id, BROKEN, b"x", 10) for _ in range(50)),
                *(alice.request(bob.key.peer_id, "/test/nothing/1", b"x", 10) for _ in range(50)),
                *(alice.request(bob.key.peer_id, ECHO, bytes(100), 10) for _ in range(50)),
                *(bob.ping(alice.key.peer_id) for _ in range(50)),
                return_exceptions=True,
            )
            assert all(isinstance(outcome, NetworkError | float) for outcome in outcomes)
        await everything_given_back(alice, bob)


async def test_requests_waiting_for_a_turn_fail_when_the_connection_does() -> None:
    async with connected() as (alice, bob, address):
        running, more = 0, asyncio.Event()

        async def endless(peer: PeerId, message: bytes) -> bytes:
            nonlocal running
            running += 1
            more.set()
            await asyncio.Event().wait()
            return b""

        serve(bob)
        bob.serve_requests("/test/endless/1", endless, 100)
        async with asyncio.TaskGroup() as tasks:
            requests = [
                tasks.create_task(fails(alice.request(bob.key.peer_id, "/test/endless/1", b"", 10)))
                for _ in range(2 * MAX_OUTBOUND_STREAMS)
            ]
            async with asyncio.timeout(30):
                while running < MAX_OUTBOUND_STREAMS:
                    await more.wait()
                    more.clear()
            await bob.disconnect(alice.key.peer_id)
            async with asyncio.timeout(PATIENCE_S - 5):  # not when they lose patience
                assert all(await asyncio.gather(*requests))
        await alice.connect(bob.key.peer_id, [address])
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 10) == b"x"


async def fails(operation: object) -> bool:
    with pytest.raises(StreamError):
        await operation  # type: ignore[misc]
    return True


async def test_a_protocol_that_ceases_to_be_served_during_negotiation_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay that closes, or finds that it is behind a NAT, does so whatever has just been asked of it."""
    async with connected() as (alice, bob, _):
        serve(bob)

        async def negotiate_late(stream: MuxStream, served: Container[str]) -> str | None:
            protocol = await negotiate(stream, served)
            if protocol == ECHO:
                bob.stop_serving(ECHO)
            return protocol

        monkeypatch.setattr(connection, "negotiate", negotiate_late)
        with pytest.raises(StreamError):
            await alice.request(bob.key.peer_id, ECHO, b"late", LIMIT)
        assert await alice.request(bob.key.peer_id, SLOW, b"1", LIMIT) == b"done"
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
