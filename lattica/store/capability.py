"""Capabilities: rights to write that travel with their holders, who need not be named in the log before."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, TypeAlias

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature

from lattica.errors import EntryRefusedError, StoreUsageError
from lattica.identity import IdentityKey
from lattica.store.control import MAX_PATH_BYTES, MAX_PATHS, Right
from lattica.store.entry import MARK_BYTES, MAX_SEQ
from lattica.store.namespace import Genesis

MAX_CAPABILITY = 32 << 10
"""Bytes of a capability."""
MAX_CAPABILITIES = 16
"""Capabilities that one author may present: each of its entries is held against all of them."""

_DOMAIN = b"lattica-store-capability/1:"
_Author: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=34, max_length=64)]
_Path: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATH_BYTES)]


class _Body(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    author: _Author
    paths: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=MAX_PATHS)]


_encode = msgspec.msgpack.Encoder().encode
_decode_signed = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode


def sign_capability(key: IdentityKey, genesis: Genesis, author: bytes, paths: tuple[str, ...] = ()) -> bytes:
    """The right of an author to write some containers, and all below them; without paths, everything.

    Raises:
        StoreUsageError: ``key`` is not the owner's, or there are too many paths, or too long ones.
    """
    if key.peer_id != genesis.owner:
        raise StoreUsageError("only the owner of a namespace can give capabilities for it")
    signed = _encode(_Body(author, paths))
    try:
        _decode_body(signed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreUsageError(f"no capability can be like this: {error}") from error
    return _encode((signed, key.sign(_DOMAIN + genesis.namespace.raw + signed)))


def read_capability(raw: bytes, genesis: Genesis, author: bytes) -> Right:
    """The right that a capability gives; named by the first bytes of its hash.

    Raises:
        EntryRefusedError: It is malformed, not the owner's, for another namespace, or not this author's.
    """
    if len(raw) > MAX_CAPABILITY:
        raise EntryRefusedError("its capability is too large")
    try:
        signed, signature = _decode_signed(raw)
        body = _decode_body(signed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("its capability is malformed") from error
    if body.author != author:
        raise EntryRefusedError("its capability is somebody else's")
    key = genesis.owner.public_key()
    try:
        if key is None:
            raise EntryRefusedError("the owner has no Ed25519 key")
        key.verify(signature, _DOMAIN + genesis.namespace.raw + signed)
    except InvalidSignature as error:
        raise EntryRefusedError("its capability is not signed by the owner") from error
    return Right(b"", 0, blake3(_DOMAIN + signed).digest(MARK_BYTES), body.paths, MAX_SEQ)


def capability_text(raw: bytes) -> str:
    """A capability as text, to be handed over."""
    return "cap" + urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def parse_capability(text: str) -> bytes:
    """What `capability_text` gave; raises `StoreUsageError`."""
    try:
        if not text.startswith("cap"):
            raise ValueError
        return urlsafe_b64decode(text[3:] + "=" * (-(len(text) - 3) % 4))
    except ValueError as error:
        raise StoreUsageError(f"{text[:40]!r} is no capability: it starts with cap") from error
