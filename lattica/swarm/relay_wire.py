"""The messages of libp2p's circuit relay v2: what a client, a relay and a target say to each other.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from google.protobuf.message import DecodeError

from lattica._proto import circuit_pb2
from lattica.errors import AddressError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, PeerId, seal
from lattica.identity.varint import encode_varint

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_RELAY_MESSAGE = 4096
"""Bytes of one message; go-libp2p's limit too."""
MAX_RELAY_ADDRESSES = 16
"""Addresses of a relay that one reservation may bring; the rest is ignored."""
VOUCHER_DOMAIN = b"libp2p-relay-rsvp"
"""Domain string of a voucher's envelope."""
VOUCHER_CODEC = b"\x03\x02"
"""Multicodec ``libp2p-relay-rsvp``."""


class RelayStatus(IntEnum):
    """How a relay or a target answers."""

    OK = circuit_pb2.RELAY_STATUS_OK
    RESERVATION_REFUSED = circuit_pb2.RELAY_STATUS_RESERVATION_REFUSED
    RESOURCE_LIMIT_EXCEEDED = circuit_pb2.RELAY_STATUS_RESOURCE_LIMIT_EXCEEDED
    PERMISSION_DENIED = circuit_pb2.RELAY_STATUS_PERMISSION_DENIED
    CONNECTION_FAILED = circuit_pb2.RELAY_STATUS_CONNECTION_FAILED
    NO_RESERVATION = circuit_pb2.RELAY_STATUS_NO_RESERVATION
    MALFORMED_MESSAGE = circuit_pb2.RELAY_STATUS_MALFORMED_MESSAGE
    UNEXPECTED_MESSAGE = circuit_pb2.RELAY_STATUS_UNEXPECTED_MESSAGE

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


_WORDS = {
    RelayStatus.OK: "it agreed",
    RelayStatus.RESERVATION_REFUSED: "it gives no reservation now",
    RelayStatus.RESOURCE_LIMIT_EXCEEDED: "a limit of the relay is reached",
    RelayStatus.PERMISSION_DENIED: "it does not permit that",
    RelayStatus.CONNECTION_FAILED: "it could not connect to the peer",
    RelayStatus.NO_RESERVATION: "the peer has no reservation there",
    RelayStatus.MALFORMED_MESSAGE: "it could not read our message",
    RelayStatus.UNEXPECTED_MESSAGE: "it did not expect our message",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimit:
    """What a relay lets through one circuit.

    Attributes:
        duration: Seconds; 0 means without end.
        data: Bytes in each direction; 0 means any number.
    """

    duration: int = 0
    data: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveRequest:
    """HOP: a peer wants to be reached through the relay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """HOP: a client wants a circuit to ``peer``; STOP: ``peer`` wants one to the target.

    Attributes:
        peer: The other end.
        limit: What applies to the circuit; said to the target only.
    """

    peer: PeerId
    limit: CircuitLimit = CircuitLimit()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusMessage:
    """An answer.

    Attributes:
        status: ``None`` if it is one that we do not know.
        limit: What applies to circuits.
        expire: When a granted reservation ends, UTC in seconds since 1970; ``None`` without a reservation.
        addresses: Where the relay says it is, each with its peer ID.
    """

    status: RelayStatus | None
    limit: CircuitLimit = CircuitLimit()
    expire: int | None = None
    addresses: tuple[PeerAddress, ...] = ()


RelayMessage = ReserveRequest | ConnectRequest | StatusMessage


def framed(message: bytes) -> bytes:
    """``message`` with its length before it, as it begins a stream."""
    return encode_varint(len(message)) + message


def encode_reserve() -> bytes:
    """HOP, to a relay: let me be reached through you."""
    return circuit_pb2.HopMessage(type=circuit_pb2.HopMessage.RESERVE).SerializeToString()


def encode_hop_connect(target: PeerId) -> bytes:
    """HOP, to a relay: a circuit to ``target``."""
    peer = circuit_pb2.CircuitPeer(id=target.raw)
    return circuit_pb2.HopMessage(type=circuit_pb2.HopMessage.CONNECT, peer=peer).SerializeToString()


def encode_hop_status(status: RelayStatus, limit: CircuitLimit = CircuitLimit()) -> bytes:
    """HOP, from a relay: how it went, and what applies to the circuit."""
    return circuit_pb2.HopMessage(
        type=circuit_pb2.HopMessage.STATUS, status=_status(status), limit=_limit(limit)
    ).SerializeToString()


def encode_reservation(
    key: IdentityKey, peer: PeerId, expire: int, addresses: Sequence[PeerAddress], limit: CircuitLimit
) -> bytes:
    """HOP, from the relay with ``key``: ``peer`` can be reached through its ``addresses`` until ``expire``."""
    voucher = circuit_pb2.ReservationVoucher(relay=key.peer_id.raw, peer=peer.raw, expiration=expire)
    reservation = circuit_pb2.RelayReservation(
        expire=expire,
        addrs=_fitting([address.with_peer(key.peer_id).to_bytes(with_peer=True) for address in addresses]),
        voucher=seal(key, VOUCHER_DOMAIN, VOUCHER_CODEC, voucher.SerializeToString()),
    )
    return circuit_pb2.HopMessage(
        type=circuit_pb2.HopMessage.STATUS,
        status=circuit_pb2.RELAY_STATUS_OK,
        reservation=reservation,
        limit=_limit(limit),
    ).SerializeToString()


def encode_stop_connect(source: PeerId, limit: CircuitLimit) -> bytes:
    """STOP, to a target: ``source`` wants a circuit to you."""
    peer = circuit_pb2.CircuitPeer(id=source.raw)
    return circuit_pb2.StopMessage(
        type=circuit_pb2.StopMessage.CONNECT, peer=peer, limit=_limit(limit)
    ).SerializeToString()


def encode_stop_status(status: RelayStatus) -> bytes:
    """STOP, from a target: whether it takes the circuit."""
    return circuit_pb2.StopMessage(type=circuit_pb2.StopMessage.STATUS, status=_status(status)).SerializeToString()


def decode_hop(raw: bytes, sender: PeerId) -> RelayMessage:
    """A message of the HOP protocol; raises `RemoteProtocolError`."""
    message = circuit_pb2.HopMessage()
    _parse(message, raw, sender)
    if not message.HasField("type"):
        raise RemoteProtocolError("relay message without a type", sender)
    if message.type == circuit_pb2.HopMessage.RESERVE:
        return ReserveRequest()
    limit = CircuitLimit(duration=message.limit.duration, data=message.limit.data)
    if message.type == circuit_pb2.HopMessage.CONNECT:
        return ConnectRequest(peer=_peer(message.peer, sender), limit=limit)
    granted = message.HasField("reservation")
    return StatusMessage(
        status=_status_of(message.status),
        limit=limit,
        expire=message.reservation.expire if granted else None,
        addresses=tuple(_addresses(message.reservation.addrs)),
    )


def decode_stop(raw: bytes, sender: PeerId) -> RelayMessage:
    """A message of the STOP protocol; raises `RemoteProtocolError`."""
    message = circuit_pb2.StopMessage()
    _parse(message, raw, sender)
    if not message.HasField("type"):
        raise RemoteProtocolError("relay message without a type", sender)
    limit = CircuitLimit(duration=message.limit.duration, data=message.limit.data)
    if message.type == circuit_pb2.StopMessage.CONNECT:
        return ConnectRequest(peer=_peer(message.peer, sender), limit=limit)
    return StatusMessage(status=_status_of(message.status), limit=limit)


def _parse(message: circuit_pb2.HopMessage | circuit_pb2.StopMessage, raw: bytes, sender: PeerId) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError("malformed relay message", sender) from error


def _peer(peer: circuit_pb2.CircuitPeer, sender: PeerId) -> PeerId:
    try:
        return PeerId(peer.id)
    except AddressError as error:
        raise RemoteProtocolError("relay message without a peer ID", sender) from error


def _addresses(raw: Sequence[bytes]) -> list[PeerAddress]:
    addresses = []
    for one in raw[:MAX_RELAY_ADDRESSES]:
        try:
            addresses.append(PeerAddress.from_bytes(one))
        except AddressError:  # a kind of address that we do not know
            continue
    return addresses


def _fitting(addresses: Sequence[bytes]) -> Sequence[bytes]:
    """As many as a message takes, the rest of it being 400 bytes."""
    ends = itertools.accumulate(len(address) + 4 for address in addresses[:MAX_RELAY_ADDRESSES])
    return addresses[: sum(end <= MAX_RELAY_MESSAGE - 512 for end in ends)]


def _status(status: RelayStatus) -> circuit_pb2.RelayStatus.ValueType:
    return circuit_pb2.RelayStatus.Value(f"RELAY_STATUS_{status.name}")


def _status_of(number: int) -> RelayStatus | None:
    return RelayStatus(number) if number in _WORDS else None


def _limit(limit: CircuitLimit) -> circuit_pb2.CircuitLimit | None:
    if not limit.duration and not limit.data:
        return None
    return circuit_pb2.CircuitLimit(duration=limit.duration, data=limit.data)
