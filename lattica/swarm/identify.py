"""libp2p identify: what a peer says of itself after connecting.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from lattica._proto import identify_pb2, identity_pb2
from lattica.errors import AddressError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, PeerId, seal_peer_record, unseal_peer_record

logger = logging.getLogger(__name__)

IDENTIFY = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
MAX_IDENTIFY = 64 * 1024
"""Bytes of one identify message; go-libp2p reads at most 64 KiB too (8 KiB plus a signed record)."""
MAX_ADDRESSES = 64
"""Addresses taken from a peer; the rest is ignored."""
MAX_PROTOCOLS = 256
"""Protocols taken from a peer."""
MAX_PROTOCOL_NAME = 256
"""Characters of a protocol ID; longer ones are ignored. Real ones take about 30."""
MAX_AGENT = 128
"""Characters of the agent string kept."""
PROTOCOL_VERSION = "lattica/1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """What a peer said of itself.

    Attributes:
        peer_id: The peer, authenticated by its connection.
        agent: Its program and version; not to be trusted.
        protocols: Protocol IDs that it serves.
        addresses: Where it says it listens.
        observed: The address from which it sees us; ``None`` if it did not say, or sees a relay only.
    """

    peer_id: PeerId
    agent: str
    protocols: frozenset[str]
    addresses: tuple[PeerAddress, ...]
    observed: PeerAddress | None


def encode_identify(
    key: IdentityKey,
    *,
    agent: str,
    protocols: Collection[str],
    addresses: Sequence[PeerAddress],
    observed: PeerAddress,
    seq: int,
) -> bytes:
    """Our own identify message for a peer that we see at ``observed``."""
    raw = tuple(address.to_bytes() for address in addresses)
    public_key = identity_pb2.PublicKey(
        type=identity_pb2.KEY_TYPE_ED25519, data=key.public_key.public_bytes_raw()
    ).SerializeToString()
    return identify_pb2.Identify(
        public_key=public_key,
        listen_addrs=raw,
        protocols=sorted(protocols),
        observed_addr=observed.to_bytes(),
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        signed_peer_record=seal_peer_record(key, seq, raw),
    ).SerializeToString()


def decode_identify(peer_id: PeerId, raw: bytes) -> PeerInfo:
    """Read ``peer_id``'s identify message. Addresses of a valid signed record win over unsigned ones.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    message = identify_pb2.Identify()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError("malformed identify message", peer_id) from error
    addresses: Sequence[bytes] = message.listen_addrs
    if message.signed_peer_record:
        record = unseal_peer_record(message.signed_peer_record)
        if record.peer_id != peer_id:
            raise RemoteProtocolError("identify message with another peer's record", peer_id)
        addresses = record.addresses
    return PeerInfo(
        peer_id=peer_id,
        agent="".join(char for char in _text(message.agent_version)[:MAX_AGENT] if char.isprintable()),
        protocols=frozenset(
            name for name in map(_text, message.protocols[:MAX_PROTOCOLS]) if len(name) <= MAX_PROTOCOL_NAME
        ),
        addresses=tuple(address.with_peer(peer_id) for address in _addresses(addresses[:MAX_ADDRESSES])),
        observed=next(iter(_addresses([message.observed_addr])), None),
    )


def _text(value: str | bytes) -> str:
    """A proto2 string field: protobuf hands out bytes where a peer put something else than UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _addresses(raw: Sequence[bytes]) -> list[PeerAddress]:
    parsed = []
    for one in raw:
        try:
            parsed.append(PeerAddress.from_bytes(one))
        except AddressError as error:  # a kind of address that we do not know is no fault of the peer's
            logger.debug("identify address ignored reason=%s", error.reason)
    return parsed
