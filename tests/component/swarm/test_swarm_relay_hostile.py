"""Clients, relays and targets that mean harm: each costs itself a stream, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from circuits import Circuits, behind_a_relay, echo
from descriptors import descriptors, opened_since
from swarm_pairs import connected, listening
from waiting import until

from lattica._proto import circuit_pb2
from lattica.errors import NetworkError, PeerUnreachableError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm import RelayLimits, Stream, Swarm, open_swarm, raw, relay_client, relay_pump, relay_server, transport
from lattica.swarm.mux import MuxStream
from lattica.swarm.relay_wire import (
    HOP,
    MAX_RELAY_MESSAGE,
    STOP,
    CircuitLimit,
    RelayStatus,
    StatusMessage,
    decode_hop,
    decode_stop,
    encode_hop_connect,
    encode_hop_status,
    encode_reservation,
    encode_reserve,
    encode_stop_connect,
    encode_stop_status,
    framed,
)

ECHO = "/test/echo/1"
SOMEBODY = IdentityKey.generate().peer_id


@contextlib.asynccontextmanager
async def victims(limits: RelayLimits | None = None) -> AsyncIterator[tuple[Circuits, Swarm]]:
    """A relay, a target, a client with a circuit that has to survive, and the attacker, connected to the relay."""
    async with behind_a_relay(limits) as net, open_swarm(IdentityKey.generate()) as attacker:
        net.target.serve_requests(ECHO, echo, 1000)
        await net.client.connect(net.target.key.peer_id, [net.address])
        before = net.client.connections()
        await attacker.connect(net.relay.key.peer_id, [net.at])
        yield net, attacker
        assert await net.client.request(net.target.key.peer_id, ECHO, b"x", 10) == b"x"
        assert net.client.connections() == before
        assert attacker.is_connected(net.relay.key.peer_id)
        await until(lambda: net.relay.relay_counters().circuits == 1)
        assert net.relay.relay_counters().reservations == 1


async def ask_hop(swarm: Swarm, relay: PeerId, request: bytes) -> RelayStatus | None:
    """The status that a relay answers to ``request``; ``None`` if it drops the stream."""
    stream = await swarm.open_stream(relay, HOP)
    try:
        await stream.write_message(request)
        answer = await stream.read_message(MAX_RELAY_MESSAGE)
    except StreamError:
        return None
    assert answer is not None
    message = decode_hop(answer, relay)
    assert isinstance(message, StatusMessage)
    return message.status


def hop(**fields: object) -> bytes:
    return circuit_pb2.HopMessage(**fields).SerializeToString()  # type: ignore[arg-type]


CONNECT, STATUS = circuit_pb2.HopMessage.CONNECT, circuit_pb2.HopMessage.STATUS


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"\xff\xff\xff", RelayStatus.MALFORMED_MESSAGE, id="garbage"),
        pytest.param(b"", RelayStatus.MALFORMED_MESSAGE, id="empty"),
        pytest.param(b"\x08\x63", RelayStatus.MALFORMED_MESSAGE, id="unknown-type"),
        pytest.param(hop(type=CONNECT), RelayStatus.MALFORMED_MESSAGE, id="connect-to-nobody"),
        pytest.param(
            hop(type=CONNECT, peer=circuit_pb2.CircuitPeer(id=bytes(2000))), RelayStatus.MALFORMED_MESSAGE, id="no-id"
        ),
        pytest.param(hop(type=STATUS, status=100), RelayStatus.UNEXPECTED_MESSAGE, id="an-answer"),
        pytest.param(encode_hop_connect(SOMEBODY), RelayStatus.NO_RESERVATION, id="no-reservation"),
        pytest.param(bytes(MAX_RELAY_MESSAGE + 1), None, id="oversized"),
    ],
)
async def test_a_bad_request_costs_its_stream_and_one_log_line(
    request_: bytes, status: RelayStatus | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with victims() as (net, attacker):
        with caplog.at_level(logging.INFO, logger="lattica.swarm"):
            caplog.clear()
            assert await ask_hop(attacker, net.relay.key.peer_id, request_) == status
        lines = [record.getMessage() for record in caplog.records if str(attacker.key.peer_id) in record.getMessage()]
        assert len(lines) == 1, lines


async def test_a_circuit_to_oneself_is_refused() -> None:
    async with victims() as (net, attacker):
        relay = net.relay.key.peer_id
        assert await ask_hop(attacker, relay, encode_reserve()) == RelayStatus.OK
        assert await ask_hop(attacker, relay, encode_hop_connect(attacker.key.peer_id)) == RelayStatus.PERMISSION_DENIED
        await attacker.disconnect(relay)
        await until(lambda: net.relay.relay_counters().reservations == 1)
        await attacker.connect(relay, [net.at])


async def test_a_circuit_to_the_relay_itself_is_refused() -> None:
    async with victims() as (net, attacker):
        relay = net.relay.key.peer_id
        assert await ask_hop(attacker, relay, encode_hop_connect(relay)) == RelayStatus.NO_RESERVATION


async def test_a_client_that_says_nothing_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with victims() as (net, attacker):
        monkeypatch.setattr(relay_server, "HOP_TIMEOUT_S", 0.2)
        streams = [await attacker.open_stream(net.relay.key.peer_id, HOP) for _ in range(20)]
        async with asyncio.timeout(20):
            for stream in streams:
                with pytest.raises(StreamError):
                    await stream.read_message(10)


async def test_a_target_that_refuses_or_babbles_fails_its_circuits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has reserved, and answers STOP with anything but an agreement, or not at all."""
    answers = iter([encode_stop_status(RelayStatus.PERMISSION_DENIED), b"\xff\xff", bytes(9000), b"", None])
    async with victims(RelayLimits(circuits_per_client=1)) as (net, attacker):
        monkeypatch.setattr(relay_server, "STOP_TIMEOUT_S", 0.5)
        held = asyncio.Event()

        async def stop(stream: Stream) -> None:
            assert await stream.read_message(MAX_RELAY_MESSAGE) is not None
            if (answer := next(answers)) is None:
                await held.wait()
            else:
                await stream.write_message(answer)

        attacker.serve_streams(STOP, stop)
        assert await ask_hop(attacker, net.relay.key.peer_id, encode_reserve()) == RelayStatus.OK
        async with open_swarm(IdentityKey.generate()) as caller:
            for _ in range(5):
                with pytest.raises(PeerUnreachableError, match="CONNECTION_FAILED"):
                    await caller.connect(attacker.key.peer_id, [PeerAddress.circuit(net.at)])
        held.set()
        assert net.relay.relay_counters().refused_total["connection_failed"] == 5
        await attacker.disconnect(net.relay.key.peer_id)
        await until(lambda: net.relay.relay_counters().reservations == 1)
        await attacker.connect(net.relay.key.peer_id, [net.at])


async def test_a_client_that_reads_nothing_stalls_its_own_circuit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dozens of circuits over which a stalling client asks for data: the relay keeps a window of each, and no more."""
    monkeypatch.setattr(relay_pump, "HALF_CLOSED_S", 0.5)
    count = 80  # whose windows together are more than `MAX_BUFFERED`
    async with victims(RelayLimits(circuits_per_client=count)) as (net, attacker):
        sender = IdentityKey.generate()
        async with open_swarm(sender) as accomplice:
            sending = 0

            async def flood(stream: Stream) -> None:
                nonlocal sending
                assert await stream.read_message(MAX_RELAY_MESSAGE) is not None
                await stream.write_message(encode_stop_status(RelayStatus.OK))
                sending += 1
                stream._muxed.write_timeout = 60
                await stream.write(bytes(1 << 20))

            accomplice.serve_streams(STOP, flood)
            await accomplice.connect(net.relay.key.peer_id, [net.at])
            assert await ask_hop(accomplice, net.relay.key.peer_id, encode_reserve()) == RelayStatus.OK
            link = attacker._host.direct_connection_to(net.relay.key.peer_id)
            assert link is not None

            async def ask() -> MuxStream:
                return await link.open_stream(HOP, framed(encode_hop_connect(sender.peer_id)), circuit=True)

            streams = [await attacker._thread.call(ask) for _ in range(count)]
            await until(lambda: sending == count)
            await until(lambda: net.relay.relay_counters().bytes_total > count * 190_000, 40)
            await asyncio.sleep(0.5)
            assert await net.client.request(net.target.key.peer_id, ECHO, b"x", 10) == b"x"
            assert accomplice.is_connected(net.relay.key.peer_id), "what is buffered is within its windows"
            for stream in streams:
                await attacker._thread.call(stream.reset)
            await until(lambda: net.relay.relay_counters().circuits == 1, 20)
        await until(lambda: net.relay.relay_counters().reservations == 1)


# What a relay may do to a client and to a target


@contextlib.asynccontextmanager
async def hostile_relay(*answers: bytes | None) -> AsyncIterator[tuple[Swarm, Swarm, PeerAddress]]:
    """A client and its relay, which answers HOP requests with what it is told; ``None`` closes the stream."""
    async with (
        open_swarm(IdentityKey.generate()) as client,
        open_swarm(IdentityKey.generate()) as relay,
        listening(relay) as at,
    ):
        left = iter(answers)

        async def hop_handler(stream: Stream) -> None:
            await stream.read_message(MAX_RELAY_MESSAGE)
            if (answer := next(left)) is not None:
                await stream.write_message(answer)

        relay.serve_streams(HOP, hop_handler)
        await client.connect(relay.key.peer_id, [at])
        yield client, relay, at


NONSENSE = {
    "garbage": b"\xff\xff\xff",
    "empty": b"",
    "a-question": encode_reserve(),
    "oversized": bytes(MAX_RELAY_MESSAGE + 1),
    "no-status": hop(type=STATUS),
    "unknown-status": hop(type=STATUS) + b"\x28\x07",
    "ok-without-a-reservation": encode_hop_status(RelayStatus.OK),
    "nothing": None,
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_a_relay_that_answers_nonsense_gives_no_reservation(name: str) -> None:
    async with hostile_relay(NONSENSE[name]) as (client, relay, _):
        with pytest.raises(NetworkError) as caught:
            await client.reserve(relay.key.peer_id)
        assert isinstance(caught.value, RemoteProtocolError | StreamError)
        assert not client._host.relays._relays, "and it may not bring circuits"


@pytest.mark.parametrize("name", [name for name in NONSENSE if not name.startswith("ok")])
async def test_a_relay_that_answers_nonsense_brings_no_circuit(name: str) -> None:
    before = descriptors("socket")
    async with hostile_relay(NONSENSE[name]) as (client, relay, at):
        with pytest.raises(PeerUnreachableError):
            await client.connect(SOMEBODY, [PeerAddress.circuit(at)])
        assert client.is_connected(relay.key.peer_id)
    assert opened_since(before, "socket") == []


@pytest.mark.parametrize("status", [status for status in RelayStatus if status is not RelayStatus.OK])
async def test_each_refusal_of_a_relay_is_put_into_words(status: RelayStatus) -> None:
    refusal = encode_hop_status(status)
    async with hostile_relay(refusal, refusal) as (client, relay, at):
        with pytest.raises(StreamError, match=rf"{status.name}.*{status.words}"):
            await client.reserve(relay.key.peer_id)
        with pytest.raises(PeerUnreachableError, match=rf"{status.name}.*{status.words}"):
            await client.connect(SOMEBODY, [PeerAddress.circuit(at)])


async def test_a_reservation_has_bounds_whatever_the_relay_says() -> None:
    key = IdentityKey.generate()
    elsewhere = [PeerAddress.tcp("192.0.2.1", port) for port in range(1, 40)]

    def grant(expire: int) -> bytes:
        return encode_reservation(key, SOMEBODY, expire, elsewhere, CircuitLimit())

    async with hostile_relay(grant(0), grant((1 << 63) - 1)) as (client, relay, at):
        past = await client.reserve(relay.key.peer_id)
        future = await client.reserve(relay.key.peer_id)
        assert past.expires_in == relay_client.MIN_RESERVATION_S
        assert future.expires_in == relay_client.MAX_RESERVATION_S
        own = PeerAddress.circuit(at).with_peer(client.key.peer_id)
        assert past.addresses == (own,), "addresses of another peer are not ours to hand out"


async def test_a_circuit_on_which_the_relay_babbles_fails_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        open_swarm(IdentityKey.generate()) as client,
        open_swarm(IdentityKey.generate()) as relay,
        listening(relay) as at,
    ):
        ended = asyncio.Event()

        async def babble(stream: Stream) -> None:
            await stream.read_message(MAX_RELAY_MESSAGE)
            await stream.write_message(encode_hop_status(RelayStatus.OK))
            with contextlib.suppress(StreamError):
                for _ in range(50):
                    await stream.write(bytes(5000))
                while await stream.read_some(1000):
                    pass
            ended.set()

        relay.serve_streams(HOP, babble)
        await client.connect(relay.key.peer_id, [at])
        monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_S", 1.0)
        with pytest.raises(PeerUnreachableError, match="handshake"):
            await client.connect(SOMEBODY, [PeerAddress.circuit(at)])
        async with asyncio.timeout(20):
            await ended.wait()
        link = client._host.direct_connection_to(relay.key.peer_id)
        assert link is not None
        await until(lambda: link._muxed.bulk == 0)


async def ask_stop(relay: Swarm, target: PeerId, request: bytes) -> tuple[RelayStatus | None, Stream]:
    stream = await relay.open_stream(target, STOP)
    await stream.write_message(request)
    answer = await stream.read_message(MAX_RELAY_MESSAGE)
    assert answer is not None
    message = decode_stop(answer, target)
    assert isinstance(message, StatusMessage)
    return message.status, stream


async def test_circuits_are_taken_only_from_relays_at_which_we_have_reserved() -> None:
    async with connected() as (alice, bob, _):
        request = encode_stop_connect(SOMEBODY, CircuitLimit())
        status, _ = await ask_stop(alice, bob.key.peer_id, request)
        assert status == RelayStatus.PERMISSION_DENIED


async def test_a_target_survives_a_relay_that_means_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    async with behind_a_relay() as net:
        net.target.serve_requests(ECHO, echo, 1000)
        await net.client.connect(net.target.key.peer_id, [net.address])
        monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_S", 0.5)
        monkeypatch.setattr(raw, "GOODBYE_S", 0.2)
        target = net.target.key.peer_id
        for request, expected in [
            (b"\xff\xff", RelayStatus.MALFORMED_MESSAGE),
            (b"", RelayStatus.MALFORMED_MESSAGE),
            (encode_stop_status(RelayStatus.OK), RelayStatus.UNEXPECTED_MESSAGE),
            (encode_stop_connect(target, CircuitLimit()), RelayStatus.UNEXPECTED_MESSAGE),
        ]:
            assert (await ask_stop(net.relay, target, request))[0] == expected
        oversized = await net.relay.open_stream(target, STOP)
        await oversized.write_message(bytes(MAX_RELAY_MESSAGE + 1))
        with pytest.raises(StreamError):
            await oversized.read_message(10)
        with monkeypatch.context() as hurry:
            hurry.setattr(relay_client, "STOP_READ_TIMEOUT_S", 0.2)
            silent = await net.relay.open_stream(target, STOP)
            with pytest.raises(StreamError):
                await silent.read_message(10)
        for noise in (b"", b"\x13/multistream/1.0.0\n" * 100, bytes(200_000)):
            status, stream = await ask_stop(net.relay, target, encode_stop_connect(SOMEBODY, CircuitLimit()))
            assert status == RelayStatus.OK
            with contextlib.suppress(StreamError):
                await stream.write(noise)
                while await stream.read_some(1000):
                    pass
        assert not net.target.is_connected(SOMEBODY)
        assert await net.client.request(target, ECHO, b"x", 10) == b"x"
        link = net.target._host.direct_connection_to(net.relay.key.peer_id)
        assert link is not None
        await until(lambda: (link._inbound, link._inbound_circuits) == (0, 1))


async def test_a_relay_that_lies_about_who_calls_is_caught() -> None:
    async with behind_a_relay() as net:
        relay = net.relay._host.relay
        assert relay is not None
        honest = relay._reach
        lied_about = SOMEBODY

        async def reach(circuit: object) -> object:
            lie = type(circuit)(client=lied_about, target=net.target.key.peer_id)  # type: ignore[call-arg]
            return await honest(lie)  # type: ignore[arg-type]

        relay._reach = reach  # type: ignore[method-assign, assignment]
        with contextlib.suppress(PeerUnreachableError):  # the dialler may take it for a connection, for a round trip
            await net.client.connect(net.target.key.peer_id, [net.address])
        await until(lambda: not net.client.is_connected(net.target.key.peer_id))
        assert not net.target.is_connected(lied_about)
        assert not net.target.is_connected(net.client.key.peer_id)


async def test_cancelled_dials_leave_no_circuit_behind() -> None:
    """At any moment of it: relay dialled, circuit asked for, handshake under way."""
    async with behind_a_relay() as net:
        peer = net.target.key.peer_id
        for tenth in range(25):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tenth * 0.002):
                    await net.client.connect(peer, [net.address])
            await net.client.disconnect(peer)
        await until(lambda: not net.client.is_connected(peer))
        await until(lambda: net.relay.relay_counters().circuits == 0, 20)
        await net.client.connect(net.relay.key.peer_id, [net.at])
        for one, other in ((net.client, net.relay), (net.relay, net.client), (net.relay, net.target)):
            link = one._host.direct_connection_to(other.key.peer_id)
            assert link is not None
            await until(lambda link=link: link._muxed.bulk == 0)  # type: ignore[misc]
        await net.client.connect(peer, [net.address])
