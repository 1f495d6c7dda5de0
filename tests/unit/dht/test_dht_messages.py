from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import kad_pb2
from lattica.dht.limits import (
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES_PER_PEER,
    MAX_CLOSER_PEERS,
    MAX_KEY_BYTES,
    MAX_PROVIDERS_PER_KEY,
    MAX_PROVIDERS_PER_RESPONSE,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    K,
)
from lattica.dht.messages import Message, MessageType, bounded_addresses, decode_request, decode_response, encode
from lattica.dht.peer_info import PeerInfo
from lattica.errors import RemoteProtocolError
from lattica.identity import PeerId

SENDER = PeerId(b"\x12\x20" + b"s" * 32)

peer_ids = st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest))
addresses = st.lists(st.binary(min_size=1, max_size=40), max_size=4, unique=True).map(tuple)
peers = st.builds(PeerInfo, peer_ids, addresses)
messages = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    key=st.binary(min_size=1, max_size=MAX_KEY_BYTES),
    closer_peers=st.lists(peers, max_size=K + 1).map(tuple),
    provider_peers=st.lists(peers, max_size=8).map(tuple),
)


def find_node(key: bytes = b"key") -> Message:
    return Message(type=MessageType.FIND_NODE, key=key)


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode_response(encode(message), message, SENDER) == message


def test_the_wire_is_libp2ps() -> None:
    """Laid out by hand from the spec: type (1), key (2), closerPeers (8), providerPeers (9) of id (1), addrs (2)."""
    peer = b"\x0a\x22" + b"\x12\x20" + b"p" * 32 + b"\x12\x08" + b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"
    wire = b"\x08\x03" + b"\x12\x03key" + b"\x42" + bytes([len(peer)]) + peer + b"\x4a" + bytes([len(peer)]) + peer
    info = PeerInfo(PeerId(b"\x12\x20" + b"p" * 32), (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1",))
    message = Message(type=MessageType.GET_PROVIDERS, key=b"key", closer_peers=(info,), provider_peers=(info,))
    assert encode(message) == wire
    assert decode_response(wire, message, SENDER) == message


def test_fields_that_we_do_not_use_are_skipped() -> None:
    cluster_level, record, connection = (
        b"\x50\x0a",
        b"\x1a\x05\x0a\x03abc",
        b"\x42\x26\x0a\x22" + SENDER.raw + b"\x18\x01",
    )
    message = decode_response(encode(find_node()) + cluster_level + record + connection, find_node(), SENDER)
    assert message == Message(type=MessageType.FIND_NODE, key=b"key", closer_peers=(PeerInfo(SENDER),))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_decoded_or_refused(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert isinstance(decode_request(data, SENDER), Message)
    with suppress(RemoteProtocolError):
        assert isinstance(decode_response(data, find_node(), SENDER), Message)


@given(messages, st.data())
def test_a_damaged_message_is_decoded_or_refused(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RemoteProtocolError):
        assert isinstance(decode_request(bytes(damaged), SENDER), Message)


def many_peers(count: int) -> list[kad_pb2.KadPeer]:
    return [kad_pb2.KadPeer(id=b"\x12\x20" + number.to_bytes(32, "big")) for number in range(count)]


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        pytest.param(b"\xff", "not a Kademlia message", id="not protobuf"),
        pytest.param(b"\x08\x09\x12\x01k", "unknown message type 9", id="unknown type"),
        pytest.param(b"\x08\x04", "without a key", id="no key"),
        pytest.param(b"", "PUT_VALUE without a key", id="empty"),
        pytest.param(b"\x08\x04\x12\x51" + bytes(81), "key of 81 bytes", id="long key"),
        pytest.param(b"\x08\x04\x12\x01k\x42\x03\x0a\x01x", "without a valid peer ID", id="bad peer ID"),
        pytest.param(b"\x08\x04\x12\x01k\x42\x00", "without a valid peer ID", id="empty peer record"),
        pytest.param(
            kad_pb2.KadMessage(
                type=kad_pb2.KAD_MESSAGE_TYPE_FIND_NODE, key=b"k", closer_peers=many_peers(41)
            ).SerializeToString(),
            "41 closer peers",
            id="too many peers",
        ),
        pytest.param(bytes(MAX_REQUEST_BYTES + 1), "a message of 16385 bytes", id="too long"),
    ],
)
def test_a_malformed_request_is_refused_with_the_reason(wire: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        decode_request(wire, SENDER)
    assert caught.value.peer_id == str(SENDER)


def test_ping_needs_no_key() -> None:
    assert decode_request(b"\x08\x05", SENDER) == Message(type=MessageType.PING)


def test_a_response_of_another_type_or_for_another_key_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="answered FIND_NODE with PING"):
        decode_response(b"\x08\x05", find_node(), SENDER)
    with pytest.raises(RemoteProtocolError, match="another key"):
        decode_response(encode(find_node(b"other")), find_node(), SENDER)


def test_a_response_may_leave_the_key_out() -> None:
    assert decode_response(b"\x08\x04", find_node(), SENDER) == Message(type=MessageType.FIND_NODE)


def test_a_response_of_ten_thousand_peers_is_refused() -> None:
    wire = kad_pb2.KadMessage(type=kad_pb2.KAD_MESSAGE_TYPE_FIND_NODE, closer_peers=many_peers(10_000))
    with pytest.raises(RemoteProtocolError, match="10000 closer peers"):
        decode_response(wire.SerializeToString(), find_node(), SENDER)


def test_providers_beyond_the_limit_are_ignored() -> None:
    request = Message(type=MessageType.GET_PROVIDERS, key=b"key")
    wire = kad_pb2.KadMessage(type=kad_pb2.KAD_MESSAGE_TYPE_GET_PROVIDERS, provider_peers=many_peers(5_000))
    assert len(decode_response(wire.SerializeToString(), request, SENDER).provider_peers) == MAX_PROVIDERS_PER_RESPONSE


@given(st.lists(st.binary(max_size=600), max_size=40))
def test_addresses_are_bounded_in_number_and_size_and_not_repeated(given_addresses: list[bytes]) -> None:
    kept = bounded_addresses(given_addresses)
    assert len(kept) <= MAX_ADDRESSES_PER_PEER
    assert len(set(kept)) == len(kept)
    assert all(0 < len(address) <= MAX_ADDRESS_BYTES for address in kept)
    assert set(kept) <= set(given_addresses)


def test_the_longest_response_that_we_send_is_one_that_we_accept() -> None:
    def fattest(number: int) -> PeerInfo:
        room = MAX_ADDRESS_BYTES - 2
        everywhere = tuple(bytes([number, place]) + bytes(room) for place in range(MAX_ADDRESSES_PER_PEER))
        return PeerInfo(PeerId(b"\x12\x20" + bytes([number]) * 32), everywhere)

    message = Message(
        type=MessageType.GET_PROVIDERS,
        key=bytes(MAX_KEY_BYTES),
        closer_peers=tuple(fattest(number) for number in range(K + 1)),
        provider_peers=tuple(fattest(number) for number in range(MAX_PROVIDERS_PER_KEY + 1)),
    )
    assert len(encode(message)) < MAX_RESPONSE_BYTES
    assert decode_response(encode(message), message, SENDER) == message
    assert MAX_CLOSER_PEERS > K + 1
