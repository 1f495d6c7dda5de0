"""A swarm's end: no thread, no socket and no task of it stays, whatever was going on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest
import trio
from held import Held
from patience import PATIENCE_S
from swarm_pairs import connected, listening

from lattica.errors import StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.accepting import accept
from lattica.swarm import Stream, Swarm, open_swarm, raw
from lattica.swarm.multistream import propose

ECHO, NEVER = "/test/echo/1", "/test/never/1"


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message


async def never(peer: PeerId, message: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def use() -> None:
    async with connected() as (alice, bob, _):
        bob.serve_requests(ECHO, echo, 100)
        assert await alice.request(bob.key.peer_id, ECHO, b"x", 100) == b"x"


async def test_nothing_is_left_after_the_end() -> None:
    before = Held()
    for _ in range(5):
        await use()
    assert before.since() == []


async def test_while_it_runs_a_swarm_has_one_thread() -> None:
    before = set(threading.enumerate())
    async with open_swarm(IdentityKey.generate()):
        assert len(set(threading.enumerate()) - before) == 1


async def test_nothing_is_left_when_the_block_raises() -> None:
    """And its error comes out as it is."""

    async def fail() -> None:
        async with connected() as (alice, bob, _):
            await alice.ping(bob.key.peer_id)
            raise KeyError("mine")

    before = Held()
    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert before.since() == []


async def test_nothing_is_left_when_the_block_is_cancelled() -> None:
    async def run() -> None:
        async with connected():
            await asyncio.Event().wait()

    before = Held()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(), 0.2)
    assert before.since() == []


@pytest.mark.parametrize("closer", ["alice", "bob"])
async def test_a_stop_while_requests_and_streams_are_in_flight(closer: str) -> None:
    """Each ends with a `StreamError`, at once and not after the handler's half minute, whichever side stops."""
    before = Held()
    key, other = IdentityKey.generate(), IdentityKey.generate()
    async with asyncio.timeout(25), asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as outer:
        stacks = {"alice": contextlib.AsyncExitStack(), "bob": contextlib.AsyncExitStack()}
        for stack in stacks.values():
            await outer.enter_async_context(stack)
        alice = await stacks["alice"].enter_async_context(open_swarm(key))
        bob = await stacks["bob"].enter_async_context(open_swarm(other))
        address = await stacks["bob"].enter_async_context(listening(bob))
        running = asyncio.Semaphore(0)

        async def report(peer: PeerId, message: bytes) -> bytes:
            running.release()
            return await never(peer, message)

        async def hold(stream: Stream) -> None:
            running.release()
            await stream.read_message(10)

        bob.serve_requests(NEVER, report, 100)
        bob.serve_streams("/test/hold/1", hold)
        await alice.connect(bob.key.peer_id, [address])
        waiting = [tasks.create_task(stream_error(alice.request(bob.key.peer_id, NEVER, b"", 10))) for _ in range(50)]
        stream = await alice.open_stream(bob.key.peer_id, "/test/hold/1")
        waiting.append(tasks.create_task(stream_error(stream.read_message(10))))
        for _ in range(51):
            await running.acquire()
        await stacks[closer].aclose()
        await asyncio.gather(*waiting)
    assert before.since() == []


async def stream_error(operation: object) -> None:
    with pytest.raises(StreamError):
        await operation  # type: ignore[misc]


async def test_a_stop_while_a_dial_hangs() -> None:
    """In the handshake, with a peer that says nothing."""
    before = Held()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = PeerAddress.tcp(*server.getsockname())
        async with asyncio.timeout(PATIENCE_S - 5), asyncio.TaskGroup() as tasks:
            async with open_swarm(IdentityKey.generate()) as alice:
                dial = tasks.create_task(stream_error(alice.connect(IdentityKey.generate().peer_id, [address])))
                sock, _ = await accept(server)
                await asyncio.get_running_loop().sock_recv(sock, 1)
            await dial
            sock.close()
    assert before.since() == []


async def test_a_stop_while_a_handshake_hangs() -> None:
    before = Held()
    async with asyncio.timeout(PATIENCE_S - 5):
        async with open_swarm(IdentityKey.generate()) as bob, listening(bob) as address:
            with socket.create_connection((address.host, address.port)) as sock:
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_recv(sock, 1)
    assert before.since() == []


async def test_a_peer_that_reads_nothing_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers are full and a frame of ours is on the way: the frame gets half a second, not the usual 20."""
    monkeypatch.setattr(raw, "SEND_TIMEOUT_S", 1000.0)
    before = Held()
    async with (
        asyncio.timeout(50),
        open_swarm(IdentityKey.generate()) as alice,
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as address,
    ):

        async def talk(stream: Stream) -> None:
            await stream.write(bytes(200_000))

        bob.serve_streams("/test/talk/1", talk)
        await alice.connect(bob.key.peer_id, [address])
        await alice._thread.call(ask_and_read_nothing, alice, bob.key.peer_id)
        await bob._thread.call(wait_stuck, bob, alice.key.peer_id)
    assert before.since() == []


async def ask_and_read_nothing(alice: Swarm, bob: PeerId) -> None:
    """In trio: a hundred streams whose answers fill all buffers between the two."""
    link = alice._host.connection_to(bob)
    assert link is not None

    async def read_nothing(n: int | None = None) -> bytes:
        await trio.Event().wait()
        return b""

    link._raw.read = read_nothing  # type: ignore[method-assign]
    for _ in range(100):
        stream = await link._new_stream(link._outbound)
        await propose(stream, "/test/talk/1")


async def wait_stuck(bob: Swarm, alice: PeerId) -> None:
    """In trio: until one and the same send has been under way for a while."""
    link = bob._host.connection_to(alice)
    assert link is not None
    with trio.fail_after(40):
        sending, since = None, trio.current_time()
        while trio.current_time() - since < 0.3:
            if link._raw._sending is not sending:
                sending, since = link._raw._sending, trio.current_time()
            await trio.sleep(0.01)
    assert link._muxed._write_lock.locked()


async def test_two_swarms_in_one_process_stop_in_either_order() -> None:
    before = Held()
    for first_out in (0, 1):
        keys = [IdentityKey.generate(), IdentityKey.generate()]
        stacks = [contextlib.AsyncExitStack(), contextlib.AsyncExitStack()]
        swarms = [await stack.enter_async_context(open_swarm(key)) for stack, key in zip(stacks, keys, strict=True)]
        async with listening(swarms[1]) as address:
            await swarms[0].connect(keys[1].peer_id, [address])
            assert await swarms[0].ping(keys[1].peer_id) > 0
        lost = asyncio.Event()
        swarms[1 - first_out].subscribe(disconnected=lambda info, lost=lost: lost.set())  # type: ignore[misc]
        await stacks[first_out].aclose()
        async with asyncio.timeout(10):
            await lost.wait()
        await stacks[1 - first_out].aclose()
    assert before.since() == []


async def test_after_the_end_every_operation_says_so() -> None:
    async with connected() as (alice, bob, address):
        bob.serve_requests(ECHO, echo, 100)
        stream = await alice.open_stream(bob.key.peer_id, ECHO)
    await stream_error(alice.connect(bob.key.peer_id, [address]))
    await stream_error(alice.request(bob.key.peer_id, ECHO, b"", 10))
    await stream_error(alice.ping(bob.key.peer_id))
    await stream_error(stream.write(b"x"))
    await stream_error(stream.read_message(10))
    near, far = socket.socketpair()
    with far:
        await stream_error(alice.adopt(near, address))
        assert near.fileno() == -1, "a socket handed over is closed in any case"


async def test_a_task_cancelled_by_the_end_stays_cancelled() -> None:
    """Its ``async with stream`` runs after the swarm is gone; that must not turn the cancellation into an error."""
    async with asyncio.TaskGroup() as tasks:
        opened, gone = asyncio.Event(), asyncio.Event()

        async def user(alice: Swarm, bob: Swarm) -> None:
            async with await alice.open_stream(bob.key.peer_id, ECHO):
                opened.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.shield(gone.wait())

        async with connected() as (alice, bob, _):
            bob.serve_requests(ECHO, echo, 100)
            task = tasks.create_task(user(alice, bob))
            await opened.wait()
            task.cancel()
        gone.set()
    assert task.cancelled()


async def test_handlers_are_cancelled_at_the_end() -> None:
    async with connected() as (alice, bob, _):
        ended, running = asyncio.Event(), asyncio.Event()

        async def handler(peer: PeerId, message: bytes) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        bob.serve_requests(NEVER, handler, 100)
        await alice.send(bob.key.peer_id, NEVER, b"")
        await running.wait()
        assert not ended.is_set()
    assert ended.is_set()
