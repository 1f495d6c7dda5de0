"""Signed records of who is present: told to others, and never kept on disk."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature

from lattica.errors import AddressError, EntryRefusedError, StoreValueError
from lattica.identity import IdentityKey, PeerId
from lattica.store.clock import MAX_SKEW_S
from lattica.store.namespace import NamespaceId
from lattica.store.values import MAX_DEPTH, Value, decode_value, encode_value, is_integer

MAX_PRESENCE_BYTES: Final = 4096
"""Of one record with its signature."""
MAX_TOLD_BYTES: Final = MAX_PRESENCE_BYTES - 256
"""Of what an author tells, in MessagePack."""
MIN_PRESENCE_S: Final = 1.0
"""The shortest time that a record is good for: three times as often it is told to everybody."""
MAX_PRESENCE_S: Final = 600.0
"""The longest time that a record is good for."""

_DOMAIN = b"lattica-store-presence/1:"
_MAX_TIME = 2**53

_Author: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=34, max_length=64)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIME)]


class PresenceBody(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """What an author signs. All times are in milliseconds, and since 1970.

    Attributes:
        author: Peer ID, as bytes.
        instance: When its process began to be present: what a later one says is newer.
        seq: Number of the record, from 1, in its instance.
        issued: When it was made.
        ttl: How long it is good for.
        value: MessagePack of what its author tells; of nothing if the author has gone.
    """

    author: _Author
    instance: _Time
    seq: Annotated[int, msgspec.Meta(ge=1, le=_MAX_TIME)]
    issued: _Time
    ttl: Annotated[int, msgspec.Meta(ge=int(MIN_PRESENCE_S * 1000), le=int(MAX_PRESENCE_S * 1000))]
    value: bytes


class PresenceRecord(NamedTuple):
    """A record, whose signature may not be checked yet.

    Attributes:
        author: Whose.
        body: What was signed.
        signed: Its bytes.
        signature: 64 bytes.
        raw: As sent.
        value: What its author tells; ``None`` if the author has gone.
    """

    author: PeerId
    body: PresenceBody
    signed: bytes
    signature: bytes
    raw: bytes
    value: Value

    @property
    def version(self) -> tuple[int, int, bytes]:
        """Of two records of one author the one with the higher version is the newer one."""
        return self.body.instance, self.body.seq, self.signed

    @property
    def stale_at(self) -> float:
        """From when on, in seconds since 1970, it is good nowhere, whatever its author's clock was."""
        return (self.body.issued + self.body.ttl) / 1000 + MAX_SKEW_S

    def check_time(self, now: float) -> None:
        """Raise `EntryRefusedError` if it is of the future, or stale, at ``now`` in seconds since 1970."""
        ahead = self.body.issued / 1000 - now
        if ahead > MAX_SKEW_S:
            raise EntryRefusedError(f"its time is {ahead:.0f} s ahead of ours; at most {MAX_SKEW_S:.0f} s are taken")
        if now >= self.stale_at:
            raise EntryRefusedError(f"it is stale: it was good until {now - self.stale_at + MAX_SKEW_S:.0f} s ago")


_encode = msgspec.msgpack.Encoder().encode
_decode_signed = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_decode_body = msgspec.msgpack.Decoder(PresenceBody).decode
_decode_any = msgspec.msgpack.Decoder().decode


def encode_told(value: object) -> bytes:
    """The bytes of what is to be told.

    Raises:
        StoreValueError: It is too large, or could not be kept in a document either.
    """
    told = _encode(encode_value(value, "presence"))
    if len(told) > MAX_TOLD_BYTES:
        raise StoreValueError("presence", f"it has {len(told)} bytes of at most {MAX_TOLD_BYTES}; tell less")
    return told


def decode_told(told: bytes) -> Value:
    """What was told.

    Raises:
        EntryRefusedError: It is malformed.
    """
    try:
        plain = _decode_any(told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise EntryRefusedError("it is malformed") from error
    _check_plain(plain, 0)
    return decode_value(plain)


def sign_presence(key: IdentityKey, namespace: NamespaceId, body: PresenceBody) -> PresenceRecord:
    """The record of ``body``, whose author ``key`` is."""
    signed = _encode(body)
    return read_presence(_encode((signed, key.sign(_DOMAIN + namespace.raw + signed))))


def read_presence(raw: bytes) -> PresenceRecord:
    """Parse a record; its signature is not checked yet.

    Raises:
        EntryRefusedError: It is malformed or too large.
    """
    if len(raw) > MAX_PRESENCE_BYTES:
        raise EntryRefusedError(f"it has {len(raw)} bytes of at most {MAX_PRESENCE_BYTES}")
    try:
        signed, signature = _decode_signed(raw)
        body = _decode_body(signed)
        author = PeerId(body.author)
    except (msgspec.DecodeError, UnicodeDecodeError, AddressError) as error:
        raise EntryRefusedError("it is malformed") from error
    return PresenceRecord(author, body, signed, signature, raw, decode_told(body.value))


def verify_presence(record: PresenceRecord, namespace: NamespaceId) -> None:
    """Raise `EntryRefusedError` unless its author has signed the record, for this namespace."""
    key = record.author.public_key()
    if key is None:
        raise EntryRefusedError("its author has no Ed25519 key")
    try:
        key.verify(record.signature, _DOMAIN + namespace.raw + record.signed)
    except InvalidSignature as error:
        raise EntryRefusedError("its signature is wrong") from error


def _check_plain(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise EntryRefusedError("it is nested too deeply")
    if type(value) is list:
        for one in value:
            _check_plain(one, depth + 1)
    elif type(value) is dict:
        for key, one in value.items():
            if type(key) is not str:
                raise EntryRefusedError("it has a key that is no text")
            _check_plain(one, depth + 1)
    elif not (value is None or type(value) in (bool, float, str, bytes) or is_integer(value)):
        raise EntryRefusedError("it holds what no document can")
