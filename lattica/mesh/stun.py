"""STUN's Binding request and its answers (RFC 8489): what address does my packet come from? Pure: bytes in, bytes out.

Written here instead of taken from `aioice`, which takes 0.1 s to import (mDNS and dnspython come along) and answers
hostile messages with `struct.error` and `UnicodeDecodeError`. Over TCP a message is framed by its own header.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from lattica.errors import RemoteProtocolError

HEADER_BYTES = 20
MAX_STUN_MESSAGE = 548
"""Bytes of a message that fit any IPv4 path (RFC 8489, section 6.1); a request takes 20, its answer 32 or 44."""
TRANSACTION_BYTES = 12
STUN_FIRST_BYTE = 0x00
"""Of every Binding request; its answers begin with 0x01."""
MAX_UNKNOWN = 4
"""Types of attributes that an error names; so an answer is never much longer than its request."""

_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_PORT = struct.Struct("!H")
_SECOND_PORT = 0xD2A7
"""Ours, of the range that whoever does not know it passes over (section 18.3.2): two bytes, a port of the same address.

OTHER-ADDRESS of RFC 5780 would promise a second address as well, and its clients would believe what it makes them see.
"""
_XOR_MAPPED_ADDRESS = 0x0020
_ERROR_CODE = 0x0009
_UNKNOWN_ATTRIBUTES = 0x000A
_FIRST_OPTIONAL = 0x8000
_NO_MEANING_HERE = frozenset({0x0006, 0x0008, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E, 0x0024, 0x0025})
"""Credentials and ICE's: a server without users may pass over them (FINGERPRINT and SOFTWARE are optional anyway)."""
_IPV4, _IPV6 = 1, 2


class Endpoint(NamedTuple):
    """An IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StunKind(IntEnum):
    """The messages of the Binding method that we know."""

    REQUEST = 0x0001
    RESPONSE = 0x0101
    ERROR = 0x0111


@dataclass(frozen=True, slots=True)
class StunMessage:
    """One message.

    Attributes:
        kind: What it is.
        transaction: 12 bytes that an answer has in common with its request.
        mapped: Where the request came from; of a `RESPONSE` only, which always has it.
        unknown: Types of attributes that its sender wants understood and we do not understand, `MAX_UNKNOWN` at most.
        second_port: Of a `RESPONSE`: another TCP port at which the server answers, if it has one.
    """

    kind: StunKind
    transaction: bytes
    mapped: Endpoint | None = None
    unknown: tuple[int, ...] = ()
    second_port: int | None = None


def encode_request(transaction: bytes) -> bytes:
    """Ask where this comes from."""
    return _encode(StunKind.REQUEST, transaction, b"")


def encode_response(transaction: bytes, mapped: Endpoint, second_port: int | None = None) -> bytes:
    """Say where a request came from, and at which other port we answer."""
    ip = ipaddress.ip_address(mapped.host)
    family = _IPV4 if ip.version == 4 else _IPV6
    value = struct.pack("!BBH", 0, family, mapped.port ^ _COOKIE >> 16) + _xor(ip.packed, transaction)
    body = _attribute(_XOR_MAPPED_ADDRESS, value)
    if second_port is not None:
        body += _attribute(_SECOND_PORT, _PORT.pack(second_port))
    return _encode(StunKind.RESPONSE, transaction, body)


def encode_unknown(transaction: bytes, unknown: tuple[int, ...]) -> bytes:
    """Refuse a request whose attributes we do not know (420)."""
    types = struct.pack(f"!{len(unknown)}H", *unknown)
    body = _attribute(_ERROR_CODE, struct.pack("!HBB", 0, 4, 20)) + _attribute(_UNKNOWN_ATTRIBUTES, types)
    return _encode(StunKind.ERROR, transaction, body)


def answer_request(data: bytes, source: Endpoint, second_port: int | None = None) -> bytes:
    """What a server says to a datagram or a message from ``source``; ``second_port`` is another one of its own.

    Raises:
        RemoteProtocolError: It is not a Binding request.
    """
    message = parse_stun(data)
    if message.kind is not StunKind.REQUEST:
        raise RemoteProtocolError(f"a STUN {message.kind.name.lower()} that nobody has asked for")
    if message.unknown:
        return encode_unknown(message.transaction, message.unknown)
    return encode_response(message.transaction, source, second_port)


def body_length(header: bytes) -> int:
    """How many bytes follow the first `HEADER_BYTES` of a message on a TCP connection.

    Raises:
        RemoteProtocolError: It is not STUN, or longer than `MAX_STUN_MESSAGE`.
    """
    if len(header) != HEADER_BYTES:
        raise RemoteProtocolError("a STUN message that ends within its header")
    _, length, cookie, _ = _HEADER.unpack(header)
    if cookie != _COOKIE or length % 4 or length > MAX_STUN_MESSAGE - HEADER_BYTES:
        raise RemoteProtocolError("not a STUN message, or too long for one")
    return int(length)


def parse_stun(data: bytes) -> StunMessage:
    """Read one whole message of the Binding method.

    Raises:
        RemoteProtocolError: It is malformed, of another method, or a response that names no address.
    """
    if body_length(data[:HEADER_BYTES]) != len(data) - HEADER_BYTES:
        raise RemoteProtocolError("a STUN message of another length than it says")
    kind, _, _, transaction = _HEADER.unpack_from(data)
    try:
        kind = StunKind(kind)
    except ValueError as error:
        raise RemoteProtocolError(f"a STUN message of type {kind:#06x}") from error
    mapped: Endpoint | None = None
    second_port: int | None = None
    unknown: list[int] = []
    for name, value in _attributes(data):
        if name == _XOR_MAPPED_ADDRESS and kind is StunKind.RESPONSE:
            mapped = mapped or _decode_address(value, transaction)  # of several the first counts (section 14)
        elif name == _SECOND_PORT and kind is StunKind.RESPONSE and len(value) == _PORT.size:
            second_port = _PORT.unpack(value)[0] or None
        elif name < _FIRST_OPTIONAL and kind is StunKind.REQUEST and name not in _NO_MEANING_HERE:
            unknown.append(name)
    if kind is StunKind.RESPONSE and mapped is None:
        raise RemoteProtocolError("a STUN response without an address")
    return StunMessage(kind, transaction, mapped, tuple(unknown[:MAX_UNKNOWN]), second_port)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], HEADER_BYTES
    while at < len(data):
        name, length = _ATTRIBUTE.unpack_from(data, at)  # four bytes are there: lengths are multiples of four
        at += _ATTRIBUTE.size
        if length > len(data) - at:
            raise RemoteProtocolError("a STUN attribute that is longer than its message")
        found.append((name, data[at : at + length]))
        at += length + -length % 4
    return found


def _decode_address(value: bytes, transaction: bytes) -> Endpoint:
    if len(value) < 4 or (value[1], len(value)) not in {(_IPV4, 8), (_IPV6, 20)}:
        raise RemoteProtocolError("a STUN response with a malformed address")
    (port,) = struct.unpack_from("!H", value, 2)
    packed = _xor(value[4:], transaction)
    ip = ipaddress.IPv4Address(packed) if value[1] == _IPV4 else ipaddress.IPv6Address(packed)
    return Endpoint(str(ip), port ^ _COOKIE >> 16)


def _encode(kind: StunKind, transaction: bytes, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body), _COOKIE, transaction) + body


def _attribute(name: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(name, len(value)) + value + bytes(-len(value) % 4)


def _xor(value: bytes, transaction: bytes) -> bytes:
    pad = struct.pack("!I", _COOKIE) + transaction
    return bytes(one ^ other for one, other in zip(value, pad, strict=False))
