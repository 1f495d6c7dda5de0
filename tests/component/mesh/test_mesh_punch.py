"""The punch's driver against peers that refuse, lie, stall or vanish; real punches are in `tests/netlab`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from black_hole import black_hole
from descriptors import descriptors, wait_closed_since

from lattica.errors import PunchFailedError, RemoteProtocolError, StreamError
from lattica.identity import PeerAddress
from lattica.mesh import punch_candidates, punch_machine
from lattica.mesh.listener import open_listener
from lattica.mesh.punch import answer_punch, punch, refuse_punch
from lattica.mesh.punch_machine import Action, Initiator
from lattica.mesh.punch_messages import Connect, Offer, Outcome, PunchMessage, Result, Sync, decode_punch, encode_punch
from lattica.mesh.stun import STUN_FIRST_BYTE, Endpoint
from lattica.mesh.stun_report import NatMapping
from lattica.mesh.stun_server import answer_stun


class MemorySignal:
    """One end of a stream in memory; made in pairs."""

    def __init__(self, inbox: asyncio.Queue[bytes | None], outbox: asyncio.Queue[bytes | None]) -> None:
        self._inbox, self._outbox = inbox, outbox

    async def send(self, message: bytes) -> None:
        await self._outbox.put(message)

    async def receive(self, limit: int) -> bytes | None:
        return await self._inbox.get()

    async def say(self, message: PunchMessage) -> None:
        await self.send(encode_punch(message))

    async def hear(self) -> PunchMessage:
        async with asyncio.timeout(30):
            data = await self._inbox.get()
        assert data is not None
        return decode_punch(data)

    def end(self) -> None:
        self._outbox.put_nowait(None)


def signal_pair() -> tuple[MemorySignal, MemorySignal]:
    one: asyncio.Queue[bytes | None] = asyncio.Queue()
    two: asyncio.Queue[bytes | None] = asyncio.Queue()
    return MemorySignal(one, two), MemorySignal(two, one)


async def never(sock: socket.socket, remote: PeerAddress) -> None:
    raise AssertionError(f"connected to {remote}")


@pytest.fixture
async def servers() -> AsyncIterator[list[PeerAddress]]:
    async with open_listener("127.0.0.1", 0, {STUN_FIRST_BYTE: answer_stun}) as listener:
        listener.start()
        yield [PeerAddress.tcp("127.0.0.1", listener.port)]


# A documentation address, which nobody has; it is never dialled here.
FAR = Offer(mapped=Endpoint("203.0.113.9", 5000), mapping=NatMapping.ENDPOINT_INDEPENDENT, port_step=0)
NOWHERE = Offer(mapped=Endpoint("127.0.0.1", 5000), mapping=None, port_step=None)


@contextlib.asynccontextmanager
async def initiating(servers: list[PeerAddress]) -> AsyncIterator[tuple[asyncio.Task[None], MemorySignal]]:
    """A punch that runs, and the peer's end of its signal."""
    ours, theirs = signal_pair()
    task: asyncio.Task[None] = asyncio.create_task(punch(ours, servers, never))
    try:
        yield task, theirs
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def answering(servers: list[PeerAddress]) -> AsyncIterator[tuple[asyncio.Task[None], MemorySignal]]:
    ours, theirs = signal_pair()
    task = asyncio.create_task(answer_punch(ours, servers, never))
    try:
        yield task, theirs
    finally:
        task.cancel()
        await asyncio.wait([task])


Side = Callable[[list[PeerAddress]], AbstractAsyncContextManager[tuple[asyncio.Task[None], MemorySignal]]]


async def ended(task: asyncio.Task[None]) -> None:
    done, _ = await asyncio.wait([task], timeout=30)
    assert done


async def failure(task: asyncio.Task[None]) -> str:
    await ended(task)
    error = task.exception()
    assert isinstance(error, PunchFailedError)
    return error.attempts["punch"]


async def test_a_refusal_is_passed_on_with_the_peers_reason(servers: list[PeerAddress]) -> None:
    async with initiating(servers) as (task, peer):
        await refuse_punch(peer, "too many punches now")
        assert await failure(task) == "the peer says: too many punches now"


async def test_a_peer_that_ends_the_stream_ends_the_punch(servers: list[PeerAddress]) -> None:
    async with initiating(servers) as (task, peer):
        assert isinstance(await peer.hear(), Connect)
        peer.end()
        assert await failure(task) == "the peer ended the stream"
    async with answering(servers) as (task, peer):
        peer.end()
        await ended(task)
        assert task.exception() is None


async def test_a_stream_that_is_lost_ends_the_punch(servers: list[PeerAddress]) -> None:
    class Lost(MemorySignal):
        async def receive(self, limit: int) -> bytes | None:
            raise StreamError("reset")

    ours, _ = signal_pair()
    with pytest.raises(PunchFailedError, match="the stream to the peer was lost: reset"):
        await punch(Lost(ours._inbox, ours._outbox), servers, never)


@pytest.mark.parametrize("message", [b"", b"\xff" * 30, encode_punch(Sync(1)), encode_punch(Connect(3, FAR))])
async def test_a_peer_that_breaks_the_protocol_is_an_error(servers: list[PeerAddress], message: bytes) -> None:
    async with initiating(servers) as (task, peer):
        await peer.hear()
        await peer.send(message)
        await ended(task)
        assert isinstance(task.exception(), RemoteProtocolError)
    async with answering(servers) as (task, peer):
        await peer.send(message)
        await ended(task)
        assert isinstance(task.exception(), RemoteProtocolError)


async def test_a_silent_peer_is_given_up(servers: list[PeerAddress], monkeypatch: pytest.MonkeyPatch) -> None:
    learned = Initiator.learned

    def impatient(machine: Initiator, offer: Offer, now: float) -> Sequence[Action]:
        monkeypatch.setattr(punch_machine, "ANSWER_TIMEOUT_S", 0.3)  # it has all its time to learn its port
        return learned(machine, offer, now)

    monkeypatch.setattr(Initiator, "learned", impatient)
    async with initiating(servers) as (task, peer):
        assert "silent" in await failure(task)
        assert isinstance(await peer.hear(), Connect)
        assert await peer.hear() == Result(Outcome.FAILED, "the peer was silent for 0 s")
    async with answering(servers) as (task, peer):
        assert await peer.hear() == Result(Outcome.FAILED, "the peer was silent for 0 s")
        await ended(task)


async def test_without_servers_both_sides_say_why_and_end() -> None:
    async with initiating([]) as (task, peer):
        assert await peer.hear() == Result(Outcome.FAILED, "no STUN server is known")
        assert await failure(task) == "no STUN server is known"
    async with answering([]) as (task, peer):
        assert await peer.hear() == Result(Outcome.FAILED, "no STUN server is known")
        await ended(task)
        assert task.exception() is None


async def test_rounds_follow_each_other_each_from_a_new_port(
    servers: list[PeerAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_machine, "WINDOW_S", 0.05)
    ports = []
    async with initiating(servers) as (task, peer):
        for attempt in (1, 2, 3):
            connect = await peer.hear()
            assert isinstance(connect, Connect)
            assert connect.attempt == attempt
            ports.append(connect.offer.mapped.port)
            await peer.say(Connect(attempt, NOWHERE))
            assert await peer.hear() == Sync(attempt)
        assert await peer.hear() == Result(Outcome.FAILED, "nothing connected in 3 rounds")
        assert await failure(task) == "nothing connected in 3 rounds"
    assert len(set(ports)) == 3


async def test_a_peer_that_sends_faster_than_we_work_is_not_read(servers: list[PeerAddress]) -> None:
    ours, theirs = signal_pair()
    for _ in range(1000):
        await theirs.say(Connect(1, FAR))
    task = asyncio.create_task(answer_punch(ours, servers, never))
    await ended(task)
    assert isinstance(task.exception(), RemoteProtocolError)
    assert ours._inbox.qsize() >= 990


async def test_loopback_is_never_dialled_whatever_the_peer_says(
    servers: list[PeerAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`never` would be called, and a connection to the listener be seen."""
    with socket.create_server(("127.0.0.1", 0)) as victim:
        victim.setblocking(False)
        bait = Offer(
            mapped=Endpoint(*victim.getsockname()),
            mapping=None,
            port_step=None,
            hosts=(Endpoint(*victim.getsockname()),),
        )
        async with answering(servers) as (task, peer):
            await peer.say(Connect(1, bait))
            await peer.hear()
            await peer.say(Sync(1))
            await peer.say(Result(Outcome.FAILED, "that was all"))
            await ended(task)
            assert task.exception() is None
        monkeypatch.setattr(punch_machine, "WINDOW_S", 0.1)
        async with initiating(servers) as (task, peer):
            await peer.hear()
            await peer.say(Connect(1, bait))
            assert await peer.hear() == Sync(1)
            assert isinstance(await peer.hear(), Connect), "its whole round is over"
        with pytest.raises(BlockingIOError):
            victim.accept()


@pytest.mark.parametrize("stage", ["learning", "waiting", "punching"])
async def test_a_cancelled_punch_leaves_nothing_open(
    servers: list[PeerAddress], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_candidates, "_is_unicast", lambda ip: True)  # loopback, for once
    with black_hole() as hole:
        before = descriptors("socket")
        target = Offer(mapped=Endpoint(hole.host, hole.port), mapping=None, port_step=None)
        for side in (initiating, answering):
            await cancel_at(stage, side, servers, target)
        await wait_closed_since(before, "socket")  # the server notices in its own time


async def cancel_at(stage: str, side: Side, servers: list[PeerAddress], target: Offer) -> None:
    async with side(servers) as (task, peer):
        if stage != "learning":
            if side is answering:
                await peer.say(Connect(1, target))
            assert isinstance(await peer.hear(), Connect)
        if stage == "punching":
            if side is initiating:
                await peer.say(Connect(1, target))
                assert await peer.hear() == Sync(1)
            else:
                await peer.say(Sync(1))
            await asyncio.sleep(0.05)
        task.cancel()
        await ended(task)
        assert task.cancelled()
