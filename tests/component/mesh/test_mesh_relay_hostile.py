"""Who is turned away from a relay, and by whom: with which words, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import time
from collections.abc import AsyncIterator

import pytest
from relay_rooms import (
    CLIENT,
    OTHER,
    leaving_no_descriptors,
    open_relay,
    open_target,
    receive_all,
    receive_some,
    refusal,
    send_all,
)
from waiting import until

from lattica._proto import relay_pb2
from lattica.errors import NetworkError, StreamError
from lattica.identity import PeerId
from lattica.mesh import relay_acceptor as acceptor_module
from lattica.mesh import relay_server as server_module
from lattica.mesh.pipes import connect_tcp
from lattica.mesh.relay_client import dial_through, introduce
from lattica.mesh.relay_limits import SpliceLimits
from lattica.mesh.relay_session import RELAY_ACCEPT_PROTOCOL
from lattica.mesh.relay_wire import RELAY_MAGIC, RelayRefusedError, RelayStatus, RelayToken, encode_accept, mint_token

pytestmark = pytest.mark.usefixtures("nothing_leaks")
MB = 1_000_000


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    """A whole relay and its peers come and go: no descriptor of theirs stays."""
    async with leaving_no_descriptors():
        yield


async def test_forged_and_altered_tokens_are_refused() -> None:
    async with open_relay() as relay, open_target(relay) as target:
        token = target.token()
        now = int(time.time())
        forged = RelayToken(
            target=target.peer_id, client=CLIENT, expires_at=now + 60, lease_expires_at=now + 60, nonce=bytes(16)
        )
        altered = bytearray(token)
        altered[len(token) // 2] ^= 1
        for bad in (mint_token(bytes(32), forged), bytes(altered), token[:-1], token + b"\0", b"x", b"\xff" * 194):
            assert await refusal(relay.address, bad) is RelayStatus.FORGED
        assert relay.server.counts().refused == {"forged": 6}
        assert target.pipes.empty()


async def test_a_lease_mints_for_its_own_peer_only() -> None:
    async with open_relay() as relay, open_target(relay) as mallory, open_target(relay) as victim:
        lease = mallory.lease
        stolen = RelayToken(
            target=victim.peer_id,
            client=CLIENT,
            expires_at=lease.relay_expires_at,
            lease_expires_at=lease.relay_expires_at,
            nonce=bytes(16),
        )
        assert await refusal(relay.address, mint_token(lease.key, stolen)) is RelayStatus.FORGED


async def test_a_target_that_has_gone_is_told_at_once() -> None:
    async with open_relay() as relay, open_target(relay) as target:
        token = target.token()
        await target.swarm.disconnect(relay.peer_id)
        await until(lambda: not relay.swarm.is_connected(target.peer_id))
        assert await refusal(relay.address, token) is RelayStatus.TARGET_GONE


async def test_a_target_that_does_not_serve_its_relay_refuses() -> None:
    async with open_relay() as relay, open_target(relay, acceptor=False) as target:
        assert await refusal(relay.address, target.token()) is RelayStatus.TARGET_REFUSES


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (relay_pb2.ACCEPT_ANSWER_COMING, RelayStatus.TARGET_SILENT),
        (relay_pb2.ACCEPT_ANSWER_BUSY, RelayStatus.TARGET_BUSY),
        (relay_pb2.ACCEPT_ANSWER_UNSPECIFIED, RelayStatus.TARGET_REFUSES),
    ],
)
async def test_a_target_that_does_not_come(answer: relay_pb2.AcceptAnswer.ValueType, status: RelayStatus) -> None:
    wait_s = 0.3 if status is RelayStatus.TARGET_SILENT else 60.0
    async with open_relay(SpliceLimits(wait_s=wait_s)) as relay, open_target(relay, acceptor=False) as target:

        async def answers(_: PeerId, request: bytes) -> bytes:
            assert relay_pb2.AcceptRequest.FromString(request).client == CLIENT.raw
            return relay_pb2.AcceptResponse(answer=answer).SerializeToString()

        target.swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, answers, 1000)
        assert await refusal(relay.address, target.token()) is status
        await until(lambda: relay.server.counts().waiting == 0)


async def test_too_many_waiting_for_one_target_leave_room_for_another() -> None:
    limits = SpliceLimits(waiting_per_target=2, wait_s=60.0)
    async with (
        open_relay(limits) as relay,
        open_target(relay, acceptor=False) as silent,
        open_target(relay) as target,
    ):
        called = asyncio.Event()

        async def never_comes(_: PeerId, __: bytes) -> bytes:
            called.set()
            return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_COMING).SerializeToString()

        silent.swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, never_comes, 1000)
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(refusal(relay.address, silent.token())) for _ in range(2)]
            await until(lambda: relay.server.counts().waiting == 2)
            assert await refusal(relay.address, silent.token()) is RelayStatus.TARGET_OVER_LIMIT
            with (await target.open_pipe())[0]:
                assert called.is_set()
            assert relay.server.counts().waiting == 2
            relay.server.close()
        assert [one.result() for one in waiting] == [RelayStatus.CLOSING] * 2


@pytest.mark.parametrize("last_words", [b"", b"too soon"])
async def test_a_client_that_does_not_wait_frees_its_place_at_once(last_words: bytes) -> None:
    async with open_relay() as relay, open_target(relay, acceptor=False) as target:
        held = asyncio.Event()

        async def dawdles(_: PeerId, __: bytes) -> bytes:
            await held.wait()
            return b""

        target.swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, dawdles, 1000)
        async with asyncio.timeout(40):
            dialling = asyncio.ensure_future(dial_through(relay.address, target.token()))
            await until(lambda: relay.server.counts().waiting == 1)
            if last_words:
                with socket.create_connection((relay.address.host, relay.address.port)) as sock:
                    token = target.token(OTHER)
                    sock.sendall(RELAY_MAGIC + bytes((1, len(token))) + token)
                    await until(lambda: relay.server.counts().waiting == 2)
                    sock.sendall(last_words)
                    await until(lambda: relay.server.counts().waiting == 1)
            dialling.cancel()
            await until(lambda: relay.server.counts().waiting == 0)
        held.set()
        assert set(relay.server.counts().refused) == {"client_left"}
        with contextlib.suppress(asyncio.CancelledError):
            await dialling


async def test_who_does_not_know_the_secret_gets_nobodys_pipe() -> None:
    """Not even the right session helps, and the client still meets its target."""
    async with open_relay(SpliceLimits(wait_s=60.0)) as relay, open_target(relay, acceptor=False) as target:
        calls: asyncio.Queue[relay_pb2.AcceptRequest] = asyncio.Queue()

        async def coming(_: PeerId, request: bytes) -> bytes:
            calls.put_nowait(relay_pb2.AcceptRequest.FromString(request))
            return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_COMING).SerializeToString()

        target.swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, coming, 1000)
        async with asyncio.TaskGroup() as tasks:
            dialling = tasks.create_task(dial_through(relay.address, target.token()))
            call = await calls.get()
            for preface in (encode_accept(call.session, bytes(32)), encode_accept(bytes(16), call.secret)):
                with await connect_tcp(relay.address) as thief, pytest.raises(RelayRefusedError, match="nobody waits"):
                    await introduce(thief, preface, 20.0)
            with await connect_tcp(relay.address) as far:
                await introduce(far, encode_accept(call.session, call.secret), 20.0)
                with await dialling as near, await connect_tcp(relay.address) as late:
                    await send_all(near, b"hello", then_end=False)
                    assert await receive_some(far) == b"hello"
                    with pytest.raises(RelayRefusedError, match="nobody waits"):
                        await introduce(late, encode_accept(call.session, call.secret), 20.0)


@pytest.mark.parametrize(
    "noise", [RELAY_MAGIC + b"\x03\x10", RELAY_MAGIC + b"\x01\x00", b"RELAYv2\x01\x10", b"R" * 100]
)
async def test_what_is_no_preface_is_closed_without_a_word(noise: bytes) -> None:
    async with open_relay() as relay, open_target(relay) as target:
        with await connect_tcp(relay.address) as sock:
            await send_all(sock, noise, then_end=False)
            assert await receive_all(sock) == b""
        assert relay.server.counts().refused == {"malformed": 1}
        with (await target.open_pipe())[0]:
            pass


async def test_a_preface_that_is_not_finished_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PREFACE_TIMEOUT_S", 0.1)
    async with open_relay() as relay:
        with await connect_tcp(relay.address) as sock:
            await send_all(sock, RELAY_MAGIC + b"\x01\x80half", then_end=False)
            assert await receive_all(sock) == b""


async def test_a_stranger_cannot_have_us_dial(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_relay() as relay, open_target(relay) as target, open_relay() as stranger:
        await target.swarm.connect(stranger.peer_id, [stranger.address])
        await until(lambda: stranger.swarm.is_connected(target.peer_id))
        request = relay_pb2.AcceptRequest(session=bytes(16), secret=bytes(32), client=CLIENT.raw)
        with pytest.raises(StreamError):
            await stranger.swarm.request(target.peer_id, RELAY_ACCEPT_PROTOCOL, request.SerializeToString(), 1000)
        assert target.acceptor.accepting == 0
        assert stranger.server.counts().refused == {}
        assert [line for line in caplog.messages if "without a lease" in line]
        assert "handler failed" not in caplog.text
        with (await target.open_pipe())[0]:
            pass


async def test_a_relay_whose_lease_is_over_cannot_have_us_dial() -> None:
    async with open_relay() as relay, open_target(relay) as target:
        token = target.token()
        target.leases[relay.peer_id] = dataclasses.replace(target.lease, expires_at=time.monotonic())
        assert await refusal(relay.address, token) is RelayStatus.TARGET_REFUSES
        assert target.pipes.empty()


@pytest.mark.parametrize(
    "request_", [b"", b"\xff\xff", relay_pb2.AcceptRequest(session=bytes(16), secret=bytes(32)).SerializeToString()]
)
async def test_a_relay_that_asks_nonsense_loses_its_stream_only(request_: bytes) -> None:
    async with open_relay() as relay, open_target(relay) as target:
        with pytest.raises(StreamError):
            await relay.swarm.request(target.peer_id, RELAY_ACCEPT_PROTOCOL, request_, 1000)
        with (await target.open_pipe())[0]:
            pass


async def test_a_relay_cannot_have_us_accept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "ACCEPT_BURST", 3.0)
    monkeypatch.setattr(acceptor_module, "ACCEPT_RATE", 0.01)
    async with open_relay() as relay, open_target(relay) as target:
        for _ in range(3):
            with (await target.open_pipe())[0]:
                pass
        assert await refusal(relay.address, target.token()) is RelayStatus.TARGET_BUSY


async def test_a_client_that_dials_again_and_again_does_not_use_up_the_others_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor_module, "CLIENT_BURST", 2.0)
    monkeypatch.setattr(acceptor_module, "CLIENT_RATE", 0.01)
    async with open_relay() as relay, open_target(relay) as target:
        for _ in range(2):
            with (await target.open_pipe())[0]:
                pass
        assert await refusal(relay.address, target.token()) is RelayStatus.TARGET_BUSY
        with (await target.open_pipe(OTHER))[0]:
            pass


async def test_pipes_whose_clients_prove_nothing_take_up_a_bounded_number_of_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor_module, "MAX_ACCEPTING_PER_RELAY", 2)
    proven = asyncio.Event()
    async with open_relay() as relay, open_target(relay, until=proven) as target:
        first, second = await target.open_pipe(), await target.open_pipe(OTHER)
        with first[0], second[0]:
            assert target.acceptor.accepting == 2
            assert await refusal(relay.address, target.token()) is RelayStatus.TARGET_BUSY
            proven.set()
            await until(lambda: target.acceptor.accepting == 0)
            with (await target.open_pipe())[0]:
                pass


async def test_a_pipe_that_fails_with_us_costs_that_pipe_only(caplog: pytest.LogCaptureFixture) -> None:
    async with open_relay() as relay, open_target(relay) as target:
        target.failures = [ZeroDivisionError(), NetworkError("not you")]
        for _ in range(2):
            with (await target.open_pipe())[0] as near:
                assert await receive_all(near) == b""
        near, far = await target.open_pipe()
        with near:
            await send_all(near, b"hello", then_end=False)
            assert await receive_some(far) == b"hello"
    assert "relayed pipe failed" in caplog.text
