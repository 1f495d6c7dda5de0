"""The first bytes of a pipe: each side proves that it belongs to the link. Pure: bytes in, bytes out.

The client sends ``magic, token length, token, nonce, MAC`` and the server answers ``status, MAC``; then the pipe
carries the link's TLS. So a dialled address that belongs to somebody else (the same private address in another LAN) is
noticed before the pipe is chosen, in one round trip, and nobody without a link reaches the gRPC server.

The token is the server's own note to itself, sealed with a key that follows from its identity: it stores nothing, and
links outlive a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lattica.errors import AddressError, NetworkError, RemoteProtocolError
from lattica.identity import PeerId

MAGIC = b"LATPIPE\x01"
"""Starts with ``L``: no TLS record, no multistream header, no STUN message does."""
NONCE_BYTES = 16
MAC_BYTES = 32
MAX_TOKEN = 128
"""Bytes of a token; ours take 74."""
HEAD_BYTES = len(MAGIC) + 1
ANSWER_BYTES = 1 + MAC_BYTES
_AEAD_NONCE = 12


class Status(IntEnum):
    """What the server says to a preface."""

    OK = 0
    REFUSED = 1
    """The token is unknown or expired: ask for a new link."""
    BUSY = 2
    """Too many pipes, or the node is closing."""


class LinkRefusedError(NetworkError):
    """The peer is there, but takes no pipe: it does not know the link, which has expired or is another identity's."""


class PeerBusyError(LinkRefusedError):
    """The peer is there, but takes no pipe now: it has too many, or is closing."""


@dataclass(frozen=True, slots=True)
class PipeTicket:
    """What the client of a link needs to open its pipes.

    Attributes:
        token: Opaque; at most `MAX_TOKEN` bytes.
        secret: 32 bytes, known to the two peers only.
    """

    token: bytes
    secret: bytes


class TicketOffice:
    """Issues tickets for our links and recognises them on inbound pipes; keeps no state."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(hashlib.sha256(b"lattica pipe token" + key).digest())
        self._secrets = hashlib.sha256(b"lattica pipe secret" + key).digest()

    def issue(self, client: PeerId, expires_at: int) -> PipeTicket:
        """A ticket for ``client``; ``expires_at`` is in seconds since the epoch, by our clock alone."""
        nonce = secrets.token_bytes(_AEAD_NONCE)
        token = nonce + self._aead.encrypt(nonce, struct.pack("!Q", expires_at) + client.raw, MAGIC)
        return PipeTicket(token, self._secret(token))

    def recognise(self, token: bytes, now: float) -> tuple[PeerId, bytes]:
        """The client and the secret of a token of ours; raises `LinkRefusedError` if it is not ours or has expired."""
        try:
            note = self._aead.decrypt(token[:_AEAD_NONCE], token[_AEAD_NONCE:], MAGIC)
            (expires_at,) = struct.unpack_from("!Q", note)
            client = PeerId(note[8:])
        except (InvalidTag, ValueError, struct.error, AddressError) as error:
            raise LinkRefusedError("pipe with an unknown token") from error
        if now > expires_at:
            raise LinkRefusedError("pipe with an expired token")
        return client, self._secret(token)

    def _secret(self, token: bytes) -> bytes:
        return hmac.digest(self._secrets, token, "sha256")


def encode_preface(ticket: PipeTicket, nonce: bytes) -> bytes:
    """What the client of a link sends first on a new pipe."""
    return MAGIC + bytes((len(ticket.token),)) + ticket.token + nonce + _mac(ticket.secret, b"client", nonce)


def rest_of_preface(head: bytes) -> int:
    """How many bytes follow the first `HEAD_BYTES` of a preface; raises `RemoteProtocolError` if it is none."""
    if len(head) < HEAD_BYTES or head[: len(MAGIC)] != MAGIC:
        raise RemoteProtocolError("pipe without a preface of this version")
    token = head[len(MAGIC)]
    if not 0 < token <= MAX_TOKEN:
        raise RemoteProtocolError(f"pipe token of {token} bytes")
    return token + NONCE_BYTES + MAC_BYTES


def check_preface(office: TicketOffice, rest: bytes, now: float) -> tuple[PeerId, bytes]:
    """The client that sent a preface, and our answer to it.

    Raises:
        LinkRefusedError: The token is not ours, has expired, or the client does not know the link's secret.
    """
    token, nonce, mac = rest[: -NONCE_BYTES - MAC_BYTES], rest[-NONCE_BYTES - MAC_BYTES : -MAC_BYTES], rest[-MAC_BYTES:]
    client, secret = office.recognise(token, now)
    if not hmac.compare_digest(mac, _mac(secret, b"client", nonce)):
        raise LinkRefusedError("pipe with a wrong code")
    return client, bytes((Status.OK,)) + _mac(secret, b"server", nonce)


def encode_refusal(status: Status) -> bytes:
    """The answer to a preface that is not accepted."""
    return bytes((status,)) + bytes(MAC_BYTES)


def check_answer(ticket: PipeTicket, nonce: bytes, answer: bytes) -> None:
    """Check what the server said to our preface.

    Raises:
        LinkRefusedError: The server does not know the link, or is busy.
        RemoteProtocolError: It is not the server of this link.
    """
    if len(answer) != ANSWER_BYTES:
        raise RemoteProtocolError("the answer to a preface is too short")
    status, mac = answer[0], answer[1:]
    if status == Status.REFUSED:
        raise LinkRefusedError("the peer does not know this link any more")
    if status == Status.BUSY:
        raise PeerBusyError("the peer takes no more pipes now")
    if status != Status.OK or not hmac.compare_digest(mac, _mac(ticket.secret, b"server", nonce)):
        raise RemoteProtocolError("the address belongs to somebody else")


def _mac(secret: bytes, side: bytes, nonce: bytes) -> bytes:
    return hmac.digest(secret, MAGIC + side + nonce, "sha256")
