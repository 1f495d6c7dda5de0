"""What a namespace is: a genesis that its owner has signed, and whose hash is its name."""

from __future__ import annotations

import secrets
from base64 import b32decode, b32encode
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature

from lattica.errors import AddressError, EntryRefusedError, NamespaceError
from lattica.identity import IdentityKey, PeerId
from lattica.identity.peer_id import MAX_PEER_ID_BYTES

HASH_BYTES = 32
MAX_GENESIS = 4096
"""Bytes of a genesis."""
MAX_TITLE = 200
"""Characters of a namespace's title; none of them controls a terminal."""
MAX_ENTRY_LIMIT = 1 << 20
"""Bytes that a genesis may allow an entry; a message of gRPC holds some."""

MAX_AUTHORS = 15_000
"""Authors that a replica of any namespace holds: as many as a checkpoint can name, which is an entry of the largest
size."""
MAX_STRANGERS = 1024
"""Of these, strangers in an open namespace, unless its genesis says otherwise. Proofs of their frauds may take 256 KiB
each in memory, with entries of the usual size."""

_DOMAIN = b"lattica-store-genesis/1:"
_ONE_LINE = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
_TEXT_LENGTH = 52


@dataclass(frozen=True, slots=True, order=True)
class NamespaceId:
    """The name of a namespace: the BLAKE3 hash of its genesis.

    Attributes:
        raw: 32 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != HASH_BYTES:
            raise NamespaceError(f"a namespace's ID has {HASH_BYTES} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form: ``n`` and 52 letters and digits. Raises `NamespaceError`."""
        try:
            if len(text) != _TEXT_LENGTH + 1 or text[0] != "n":
                raise ValueError
            found = cls(b32decode(text[1:].upper() + "===="))
            if str(found) != text:
                raise ValueError
        except ValueError as error:
            reason = f"{text[:80]!r} is no namespace's ID: it has 53 letters and digits and starts with n"
            raise NamespaceError(reason) from error
        return found

    @property
    def multihash(self) -> bytes:
        """The key under which its replicas are found in the DHT."""
        return b"\x1e\x20" + self.raw

    def __str__(self) -> str:
        return "n" + b32encode(self.raw).decode("ascii").rstrip("=").lower()


class Policy(StrEnum):
    """Who may write: everybody, those who are in the log, or those too who bring a capability of the owner's."""

    OPEN = "open"
    ALLOW_LIST = "allow-list"
    CAPABILITY = "capability"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a namespace takes.

    Attributes:
        entry: Bytes of one entry, at most.
        strangers: Authors to whom nothing was granted that a replica of an open namespace holds, at most. Which they
            are differs from replica to replica once it has heard of more.
        stranger_entries: The last number that an entry of such an author may have; 0: any.
    """

    entry: int = 1 << 16
    strangers: int = MAX_STRANGERS
    stranger_entries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The beginning of a namespace; made by `create_genesis` or `read_genesis`.

    Attributes:
        namespace: Its ID.
        owner: Who made it, and may grant and revoke.
        policy: Who may write.
        title: For people; not unique.
        limits: What it takes.
        raw: As stored and sent.
    """

    namespace: NamespaceId
    owner: PeerId
    policy: Policy
    title: str
    limits: Limits
    raw: bytes


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    owner: Annotated[bytes, msgspec.Meta(max_length=MAX_PEER_ID_BYTES)]
    policy: Policy
    title: Annotated[str, msgspec.Meta(max_length=MAX_TITLE, pattern=_ONE_LINE)]
    entry: Annotated[int, msgspec.Meta(ge=256, le=MAX_ENTRY_LIMIT)]
    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    strangers: Annotated[int, msgspec.Meta(ge=0, le=MAX_AUTHORS)] = MAX_STRANGERS
    stranger_entries: Annotated[int, msgspec.Meta(ge=0, le=1 << 48)] = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_signed = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode


def create_genesis(
    key: IdentityKey, *, title: str = "", policy: Policy = Policy.ALLOW_LIST, limits: Limits | None = None
) -> Genesis:
    """A new namespace of ``key``'s. No two are alike.

    Raises:
        NamespaceError: The title is too long or cannot be printed, or a limit is out of range.
    """
    limits = limits or Limits()
    salt = secrets.token_bytes(16)
    body = _Body(key.peer_id.raw, policy, title, limits.entry, salt, limits.strangers, limits.stranger_entries)
    try:
        signed = _encode(body)
        _decode_body(signed)
    except (msgspec.DecodeError, UnicodeError, OverflowError) as error:
        raise NamespaceError(f"no namespace can be like this: {error}") from error
    return _genesis(body, signed, _encode((signed, key.sign(_DOMAIN + signed))))


def read_genesis(raw: bytes, namespace: NamespaceId | None = None) -> Genesis:
    """Check a genesis: that its owner has signed it, and that it is the one of ``namespace``.

    Raises:
        EntryRefusedError: It is not, or it is malformed.
    """
    if len(raw) > MAX_GENESIS:
        raise EntryRefusedError(f"a genesis has {len(raw)} bytes of at most {MAX_GENESIS}")
    try:
        signed, signature = _decode_signed(raw)
        body = _decode_body(signed)
        genesis = _genesis(body, signed, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, AddressError) as error:
        raise EntryRefusedError("a genesis is malformed") from error
    if namespace is not None and genesis.namespace != namespace:
        raise EntryRefusedError(f"a genesis is of {genesis.namespace}, not of {namespace}")
    key = genesis.owner.public_key()
    try:
        if key is None:
            raise EntryRefusedError("a genesis's owner has no Ed25519 key")
        key.verify(signature, _DOMAIN + signed)
    except InvalidSignature as error:
        raise EntryRefusedError("a genesis has a wrong signature") from error
    return genesis


def _genesis(body: _Body, signed: bytes, raw: bytes) -> Genesis:
    return Genesis(
        namespace=NamespaceId(blake3(_DOMAIN + signed).digest()),
        owner=PeerId(body.owner),
        policy=body.policy,
        title=body.title,
        limits=Limits(entry=body.entry, strangers=body.strangers, stranger_entries=body.stranger_entries),
        raw=raw,
    )
