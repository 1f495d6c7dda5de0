"""The Kademlia messages: libp2p's wire format to frozen dataclasses and back, with hard limits.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md#rpc-messages. Bytes here are one protobuf message
without its length prefix: framing is the transport's. Protobuf objects do not leave this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from google.protobuf.message import DecodeError

from lattica._proto import kad_pb2
from lattica.dht.limits import (
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES_PER_PEER,
    MAX_CLOSER_PEERS,
    MAX_KEY_BYTES,
    MAX_PROVIDERS_PER_RESPONSE,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
)
from lattica.dht.peer_info import PeerInfo
from lattica.errors import AddressError, RemoteProtocolError
from lattica.identity import PeerId


class MessageType(IntEnum):
    """What a message asks or answers; the numbers are the wire's."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request or a response.

    Records (PUT_VALUE, GET_VALUE) are not represented: nothing here stores opaque values yet.

    Attributes:
        type: What is asked; a response repeats it.
        key: A peer ID's bytes (FIND_NODE), a multihash (provider messages), a record's key (value messages); empty in
            PING and in the responses of some implementations.
        closer_peers: Peers nearer to the key.
        provider_peers: Who provides the key.
    """

    type: MessageType
    key: bytes = b""
    closer_peers: tuple[PeerInfo, ...] = ()
    provider_peers: tuple[PeerInfo, ...] = ()


def encode(message: Message) -> bytes:
    """The message as protobuf; addresses beyond the limits are left out, as receivers would ignore them."""
    wire = kad_pb2.KadMessage(
        type=kad_pb2.KadMessageType.ValueType(message.type),
        key=message.key,
        closer_peers=map(_encode_peer, message.closer_peers),
        provider_peers=map(_encode_peer, message.provider_peers),
    )
    return wire.SerializeToString()


def decode_request(data: bytes, sender: PeerId) -> Message:
    """The request in `data`.

    Raises:
        RemoteProtocolError: It is malformed or breaks a limit.
    """
    message = _decode(data, MAX_REQUEST_BYTES, sender)
    if not message.key and message.type is not MessageType.PING:
        raise RemoteProtocolError(f"{message.type.name} without a key", sender)
    return message


def decode_response(data: bytes, request: Message, sender: PeerId) -> Message:
    """The response in `data`, if it answers `request`.

    Raises:
        RemoteProtocolError: It is malformed, breaks a limit or answers something else.
    """
    message = _decode(data, MAX_RESPONSE_BYTES, sender)
    if message.type is not request.type:
        raise RemoteProtocolError(f"answered {request.type.name} with {message.type.name}", sender)
    # go leaves the key out of FIND_NODE responses, rust out of all of them.
    if message.key and message.key != request.key:
        raise RemoteProtocolError(f"answered {request.type.name} for another key", sender)
    return message


def bounded_addresses(addresses: Iterable[bytes]) -> tuple[bytes, ...]:
    """The first `MAX_ADDRESSES_PER_PEER` addresses that are neither empty, nor too long, nor repeated."""
    fitting = dict.fromkeys(address for address in addresses if 0 < len(address) <= MAX_ADDRESS_BYTES)
    return tuple(islice(fitting, MAX_ADDRESSES_PER_PEER))


def _encode_peer(peer: PeerInfo) -> kad_pb2.KadPeer:
    return kad_pb2.KadPeer(id=peer.peer_id.raw, addrs=bounded_addresses(peer.addresses))


def _decode(data: bytes, limit: int, sender: PeerId) -> Message:
    if len(data) > limit:
        raise RemoteProtocolError(f"a message of {len(data)} bytes; at most {limit} are accepted", sender)
    try:
        wire = kad_pb2.KadMessage.FromString(data)
        kind = MessageType(wire.type)
    except DecodeError as error:
        raise RemoteProtocolError("bytes that are not a Kademlia message", sender) from error
    except ValueError as error:
        raise RemoteProtocolError(f"unknown message type {wire.type}", sender) from error
    if len(wire.key) > MAX_KEY_BYTES:
        raise RemoteProtocolError(f"a key of {len(wire.key)} bytes; at most {MAX_KEY_BYTES} are accepted", sender)
    if len(wire.closer_peers) > MAX_CLOSER_PEERS:
        raise RemoteProtocolError(
            f"{len(wire.closer_peers)} closer peers; at most {MAX_CLOSER_PEERS} are accepted", sender
        )
    return Message(
        type=kind,
        key=wire.key,
        closer_peers=tuple(_decode_peer(peer, sender) for peer in wire.closer_peers),
        provider_peers=tuple(
            _decode_peer(peer, sender) for peer in islice(wire.provider_peers, MAX_PROVIDERS_PER_RESPONSE)
        ),
    )


def _decode_peer(wire: kad_pb2.KadPeer, sender: PeerId) -> PeerInfo:
    try:
        peer_id = PeerId(wire.id)
    except AddressError as error:
        raise RemoteProtocolError("a peer record without a valid peer ID", sender) from error
    return PeerInfo(peer_id, bounded_addresses(wire.addrs))
