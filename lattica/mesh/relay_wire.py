"""What is said on a relay's port before it joins two sockets. Pure: bytes in, bytes out.

Both peers dial the relay. The client sends ``magic, kind DIAL, length, token``, the target ``magic, kind ACCEPT,
length, session, secret``; each gets one status byte, and after `RelayStatus.OK` the bytes are the other peer's.

The target mints the tokens of its clients itself, with a key that the relay derives from its own identity, the target's
peer ID and the lease's end: the relay stores nothing, leases outlive its restart, and no token is good for another
target.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from lattica.errors import AddressError, NetworkError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.identity.peer_id import MAX_PEER_ID_BYTES

RELAY_MAGIC = b"RELAYv1"
"""Starts with ``R``: no pipe, no TLS record, no multistream header, no STUN message does."""
HEAD_BYTES = len(RELAY_MAGIC) + 2
SESSION_BYTES = 16
SECRET_BYTES = 32
NONCE_BYTES = 16
KEY_BYTES = 32
MAC_BYTES = 32
ANSWER_BYTES = 1
MAX_TOKEN = 2 * (1 + MAX_PEER_ID_BYTES) + 2 * 8 + NONCE_BYTES + MAC_BYTES
"""Bytes of a token with the longest peer IDs; ours, with Ed25519 keys, take 142."""


class RelayStatus(IntEnum):
    """What the relay answers to a preface."""

    OK = 0
    """Joined: what follows is the other peer's."""
    FORGED = 1
    EXPIRED = 2
    TARGET_GONE = 3
    TARGET_REFUSES = 4
    TARGET_BUSY = 5
    TARGET_SILENT = 6
    CLIENT_OVER_LIMIT = 7
    TARGET_OVER_LIMIT = 8
    HOST_OVER_LIMIT = 9
    RELAY_FULL = 10
    UNKNOWN_SESSION = 11
    CLOSING = 12


_WORDS = {
    RelayStatus.FORGED: "the relay does not recognise the token: ask the peer for a new one",
    RelayStatus.EXPIRED: "the relay token has expired: ask the peer for a new one",
    RelayStatus.TARGET_GONE: "the peer is not connected to the relay",
    RelayStatus.TARGET_REFUSES: "the peer does not accept connections from the relay",
    RelayStatus.TARGET_BUSY: "the peer accepts no more pipes from the relay now",
    RelayStatus.TARGET_SILENT: "the peer did not come to the relay in time",
    RelayStatus.CLIENT_OVER_LIMIT: "we have as many pipes to this peer as the relay allows one client",
    RelayStatus.TARGET_OVER_LIMIT: "the peer has as many pipes as the relay allows",
    RelayStatus.HOST_OVER_LIMIT: "our network address has as many pipes as the relay allows",
    RelayStatus.RELAY_FULL: "the relay takes no more pipes now",
    RelayStatus.UNKNOWN_SESSION: "nobody waits at the relay for this connection any longer",
    RelayStatus.CLOSING: "the relay is closing",
}


class RelayRefusedError(NetworkError):
    """The relay does not join.

    Attributes:
        status: Why.
    """

    def __init__(self, status: RelayStatus) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return _WORDS[self.status]


class PrefaceKind(IntEnum):
    """Who dials the relay."""

    DIAL = 1
    """A client with a token."""
    ACCEPT = 2
    """The target, for a client that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayToken:
    """What a token says. It may be used more than once until it expires: a client opens several pipes.

    Attributes:
        target: The peer that minted it, to which it leads.
        client: For whom. Whoever holds the token may use it: the pipe's own preface proves who it is.
        expires_at: Seconds since the epoch, by the relay's clock.
        lease_expires_at: When the target's lease ends; part of its minting key.
        nonce: `NONCE_BYTES` that tell tokens apart.
    """

    target: PeerId
    client: PeerId
    expires_at: int
    lease_expires_at: int
    nonce: bytes


class MintingOffice:
    """The relay's side: gives out minting keys and recognises what was minted with them; keeps no state."""

    def __init__(self, seed: bytes) -> None:
        self._secret = hashlib.sha256(b"lattica relay minting" + seed).digest()

    def minting_key(self, target: PeerId, lease_expires_at: int) -> bytes:
        """The `KEY_BYTES` with which ``target`` mints tokens until ``lease_expires_at`` (seconds since the epoch)."""
        return hmac.digest(self._secret, b"mint" + struct.pack("!Q", lease_expires_at) + target.raw, "sha256")

    def recognise(self, raw: bytes, now: float) -> RelayToken:
        """What a token says; ``now`` in seconds since the epoch.

        Raises:
            RelayRefusedError: It was not minted with a key of ours (`FORGED`), or it has expired (`EXPIRED`).
        """
        token, mac = _parse_token(raw)
        key = self.minting_key(token.target, token.lease_expires_at)
        if not hmac.compare_digest(mac, _mac(key, raw[:-MAC_BYTES])):
            raise RelayRefusedError(RelayStatus.FORGED)
        if now > min(token.expires_at, token.lease_expires_at):
            raise RelayRefusedError(RelayStatus.EXPIRED)
        return token


def mint_token(key: bytes, token: RelayToken) -> bytes:
    """A token for a client, with the minting key of a lease."""
    note = _peer(token.target) + _peer(token.client)
    note += struct.pack("!QQ", token.expires_at, token.lease_expires_at) + token.nonce
    return note + _mac(key, note)


def encode_dial(token: bytes) -> bytes:
    """What a client sends first; raises `RemoteProtocolError` for what cannot be a token: its peer gave it to us."""
    if not 0 < len(token) <= MAX_TOKEN:
        raise RemoteProtocolError(f"relay token of {len(token)} bytes")
    return RELAY_MAGIC + bytes((PrefaceKind.DIAL, len(token))) + token


def encode_accept(session: bytes, secret: bytes) -> bytes:
    """What the target sends first."""
    return RELAY_MAGIC + bytes((PrefaceKind.ACCEPT, SESSION_BYTES + SECRET_BYTES)) + session + secret


def parse_head(head: bytes) -> tuple[PrefaceKind, int]:
    """Who dials, and how many bytes follow the first `HEAD_BYTES`; raises `RemoteProtocolError` if it is no preface."""
    if len(head) != HEAD_BYTES or not head.startswith(RELAY_MAGIC):
        raise RemoteProtocolError("no relay preface of this version")
    kind, length = head[-2:]
    if kind == PrefaceKind.DIAL and 0 < length <= MAX_TOKEN:
        return PrefaceKind.DIAL, length
    if kind == PrefaceKind.ACCEPT and length == SESSION_BYTES + SECRET_BYTES:
        return PrefaceKind.ACCEPT, length
    raise RemoteProtocolError(f"relay preface of kind {kind} with {length} bytes")


def parse_accept(body: bytes) -> tuple[bytes, bytes]:
    """Session and secret of an ACCEPT preface of the length that `parse_head` gave."""
    return body[:SESSION_BYTES], body[SESSION_BYTES:]


def check_status(answer: bytes) -> None:
    """Raise `RelayRefusedError` unless the relay's answer is OK; `RemoteProtocolError` if it is no answer."""
    try:
        (value,) = answer
        status = RelayStatus(value)
    except ValueError as error:
        raise RemoteProtocolError("the relay's answer is no status") from error
    if status is not RelayStatus.OK:
        raise RelayRefusedError(status)


def _peer(peer: PeerId) -> bytes:
    return bytes((len(peer.raw),)) + peer.raw


def _parse_token(raw: bytes) -> tuple[RelayToken, bytes]:
    """The fields and the code of a token that may be anything."""
    try:
        target, rest = _take_peer(raw)
        client, rest = _take_peer(rest)
        expires_at, lease_expires_at, nonce, mac = struct.unpack(f"!QQ{NONCE_BYTES}s{MAC_BYTES}s", rest)
    except (IndexError, AddressError, struct.error) as error:
        raise RelayRefusedError(RelayStatus.FORGED) from error
    token = RelayToken(
        target=target, client=client, expires_at=expires_at, lease_expires_at=lease_expires_at, nonce=nonce
    )
    return token, mac


def _take_peer(raw: bytes) -> tuple[PeerId, bytes]:
    end = 1 + raw[0]
    return PeerId(raw[1:end]), raw[end:]


def _mac(key: bytes, note: bytes) -> bytes:
    return hmac.digest(key, b"lattica relay token" + note, "sha256")
