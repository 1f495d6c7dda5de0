"""Signed envelopes and peer records.

Sources: libp2p RFC 0002 (signed envelopes) and RFC 0003 (peer routing records),
https://github.com/libp2p/specs/tree/master/RFC
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from lattica._proto import identity_pb2
from lattica.errors import AddressError, RemoteProtocolError
from lattica.identity.keys import IdentityKey
from lattica.identity.peer_id import PeerId
from lattica.identity.varint import encode_varint

PEER_RECORD_DOMAIN = b"libp2p-peer-record"
"""Domain string of RFC 0003."""
PEER_RECORD_CODEC = b"\x03\x01"
"""Multicodec ``libp2p-peer-record``, as RFC 0003 puts it into ``payload_type``."""
MAX_ENVELOPE = 64 * 1024
"""Bytes of an envelope accepted at most; libp2p's identify reads no more than that either."""
MAX_RECORD_ADDRESSES = 64
"""Addresses taken from one peer record; the rest is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPayload:
    """What a valid envelope held.

    Attributes:
        signer: Who signed.
        payload_type: What kind of payload the signer says it is.
        payload: The signed bytes.
    """

    signer: PeerId
    payload_type: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """A peer's own statement of its addresses.

    Attributes:
        peer_id: The peer.
        seq: Grows with each new record; the highest wins.
        addresses: Binary multiaddrs.
    """

    peer_id: PeerId
    seq: int
    addresses: tuple[bytes, ...]


def seal(key: IdentityKey, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """An envelope around ``payload``, signed for ``domain``, so that it means nothing in another protocol."""
    return identity_pb2.SignedEnvelope(
        public_key=identity_pb2.PublicKey(type=identity_pb2.KEY_TYPE_ED25519, data=key.public_key.public_bytes_raw()),
        payload_type=payload_type,
        payload=payload,
        signature=key.sign(_signed_bytes(domain, payload_type, payload)),
    ).SerializeToString()


def unseal(envelope: bytes, domain: bytes) -> SealedPayload:
    """Check an envelope's signature and return what is inside.

    Raises:
        RemoteProtocolError: It is malformed, too large, not signed with Ed25519, or the signature is wrong.
    """
    message, key = _parse(envelope)
    try:
        key.verify(message.signature, _signed_bytes(domain, message.payload_type, message.payload))
    except InvalidSignature as error:
        raise RemoteProtocolError("signed envelope with a wrong signature") from error
    return _sealed(message, key)


def peek(envelope: bytes) -> SealedPayload:
    """What is inside an envelope whose signature is **not** checked: to see whether it is worth checking.

    Raises:
        RemoteProtocolError: It is malformed, too large, or not with an Ed25519 key.
    """
    return _sealed(*_parse(envelope))


def _parse(envelope: bytes) -> tuple[identity_pb2.SignedEnvelope, Ed25519PublicKey]:
    if len(envelope) > MAX_ENVELOPE:
        raise RemoteProtocolError(f"signed envelope of {len(envelope)} bytes, {MAX_ENVELOPE} allowed")
    message = identity_pb2.SignedEnvelope()
    try:
        message.ParseFromString(envelope)
        if message.public_key.type != identity_pb2.KEY_TYPE_ED25519:
            raise RemoteProtocolError("signed envelope with a key that is not Ed25519")
        return message, Ed25519PublicKey.from_public_bytes(message.public_key.data)
    except DecodeError as error:
        raise RemoteProtocolError("malformed signed envelope") from error
    except ValueError as error:
        raise RemoteProtocolError("signed envelope with a malformed key") from error


def _sealed(message: identity_pb2.SignedEnvelope, key: Ed25519PublicKey) -> SealedPayload:
    return SealedPayload(signer=PeerId.from_public_key(key), payload_type=message.payload_type, payload=message.payload)


def seal_peer_record(key: IdentityKey, seq: int, addresses: tuple[bytes, ...]) -> bytes:
    """Our own addresses (binary multiaddrs) as a signed envelope."""
    record = identity_pb2.PeerRecord(
        peer_id=key.peer_id.raw,
        seq=seq,
        addresses=[identity_pb2.PeerRecord.AddressInfo(multiaddr=address) for address in addresses],
    )
    return seal(key, PEER_RECORD_DOMAIN, PEER_RECORD_CODEC, record.SerializeToString())


def unseal_peer_record(envelope: bytes) -> PeerRecord:
    """The peer record inside an envelope; `RemoteProtocolError` unless the peer it is about signed it."""
    sealed = unseal(envelope, PEER_RECORD_DOMAIN)
    if sealed.payload_type != PEER_RECORD_CODEC:
        raise RemoteProtocolError("signed envelope that holds no peer record", sealed.signer)
    message = identity_pb2.PeerRecord()
    try:
        message.ParseFromString(sealed.payload)
        subject = PeerId(message.peer_id)
    except (DecodeError, AddressError) as error:
        raise RemoteProtocolError("malformed peer record", sealed.signer) from error
    if subject != sealed.signer:
        raise RemoteProtocolError(f"peer record about {subject} signed by another peer", sealed.signer)
    addresses = tuple(info.multiaddr for info in message.addresses[:MAX_RECORD_ADDRESSES])
    return PeerRecord(peer_id=subject, seq=message.seq, addresses=addresses)


def _signed_bytes(domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    parts = (domain, payload_type, payload)
    return b"".join(encode_varint(len(part)) + part for part in parts)
