"""Signed entries: what a namespace consists of."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
from blake3 import blake3
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from lattica.errors import AddressError, EntryRefusedError
from lattica.identity import IdentityKey, PeerId
from lattica.store.clock import MAX_TIME
from lattica.store.namespace import HASH_BYTES, MAX_ENTRY_LIMIT, Genesis, NamespaceId

MAX_SEQ = 2**48
MARK_BYTES = 16
"""Bytes of a hash by which entries name others: two of one author that share them cost some 2^64 tries."""
MAX_DEPS = 1 << 12
"""Chains that one entry may name."""
SIGNATURE_BYTES = 64
OVERHEAD = 256
"""Bytes that an entry may have beside its payload and its dependencies."""
DEP_BYTES = 72
"""Bytes of a dependency, at most, of authors with Ed25519 keys."""

_DOMAIN = b"lattica-store-entry/1:"


class Lane(IntEnum):
    """Each author has two chains: what it says about rights, and what it writes."""

    CONTROL = 0
    DATA = 1


class Kind(IntEnum):
    """What an entry's payload is."""

    UPDATE = 0
    GRANT = 1
    REVOKE = 2
    CHECKPOINT = 3
    JOIN = 4


_DATA = frozenset((Kind.UPDATE, Kind.JOIN))


class ChainId(NamedTuple):
    """One author's chain.

    Attributes:
        author: Peer ID, as bytes.
        lane: Which of the two.
    """

    author: bytes
    lane: int


_Author: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=34, max_length=64)]
_Seq: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)]
_Mark: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=MARK_BYTES, max_length=MARK_BYTES)]


class Dep(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """An entry of another chain that an author has seen, and all before it.

    Attributes:
        author: Whose.
        lane: Which chain.
        seq: The entry's number.
        mark: The first 16 bytes of its hash.
    """

    author: _Author
    lane: Lane
    seq: _Seq
    mark: _Mark


class Body(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What an author signs.

    Attributes:
        author: Peer ID, as bytes.
        lane: Which of its chains this goes on.
        kind: What the payload is.
        seq: Number in the chain, from 1; may leave some out, if the entry resumes after one that counts.
        after: Number of the entry before it; 0 at first.
        prev: That entry's hash; at first the namespace's ID.
        time: Hybrid time.
        deps: What else the author has seen since.
        payload: A Yjs update, or what is granted, revoked or folded, or a capability.
    """

    author: _Author
    lane: Lane
    kind: Kind
    seq: _Seq
    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
    prev: Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
    time: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
    deps: Annotated[tuple[Dep, ...], msgspec.Meta(max_length=MAX_DEPS)]
    payload: bytes


class Entry(msgspec.Struct, frozen=True, eq=False):
    """A signed entry; two with equal hashes are one.

    Attributes:
        chain: The chain that it belongs to.
        body: What was signed.
        signed: Its bytes.
        hash: Of these; the signature does not count.
        signature: 64 bytes.
        raw: As stored and sent.
    """

    chain: ChainId
    body: Body
    signed: bytes
    hash: bytes
    signature: bytes
    raw: bytes

    @property
    def mark(self) -> bytes:
        """How others name it."""
        return self.hash[:MARK_BYTES]


_encode = msgspec.msgpack.Encoder().encode
_decode_signed = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_decode_body = msgspec.msgpack.Decoder(Body).decode


def sign_entry(key: IdentityKey, namespace: NamespaceId, body: Body) -> Entry:
    """The entry of ``body``, whose author ``key`` is."""
    signed = _encode(body)
    signature = key.sign(_DOMAIN + namespace.raw + signed)
    return _entry(namespace, body, signed, signature)


def read_entry(raw: bytes, namespace: NamespaceId) -> Entry:
    """Parse an entry; its signature is not checked yet. It is kept and passed on in one form, however it was wrapped.

    Raises:
        EntryRefusedError: It is malformed.
    """
    try:
        signed, signature = _decode_signed(raw)
        body = _decode_body(signed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("it is malformed") from error
    if len(signature) != SIGNATURE_BYTES:
        raise EntryRefusedError("its signature has the wrong length")
    if body.after >= body.seq or (body.kind in _DATA) is not (body.lane is Lane.DATA):
        raise EntryRefusedError("it contradicts itself")
    return _entry(namespace, body, signed, signature)


def check_size(entry: Entry, genesis: Genesis) -> None:
    """Raise `EntryRefusedError` if it is too large. The owner's checkpoints, which name all authors, may be larger."""
    names_all = entry.body.kind is Kind.CHECKPOINT and entry.body.author == genesis.owner.raw
    most = MAX_ENTRY_LIMIT if names_all else genesis.limits.entry
    if len(entry.raw) > most:
        raise EntryRefusedError(f"it has {len(entry.raw)} bytes of at most {most}")


def _entry(namespace: NamespaceId, body: Body, signed: bytes, signature: bytes) -> Entry:
    chain = ChainId(body.author, body.lane)
    return Entry(chain, body, signed, _hash(namespace, signed), signature, _encode((signed, signature)))


class Verifier:
    """Checks signatures; keeps the authors' keys at hand.

    By libsodium, which takes half the time of OpenSSL. All replicas have to use one of the two: of signatures that
    nobody honest makes, they do not refuse the same ones.
    """

    def __init__(self, namespace: NamespaceId) -> None:
        self._prefix = _DOMAIN + namespace.raw
        self._keys: dict[bytes, bytes] = {}

    def verify(self, entry: Entry) -> None:
        """Raise `EntryRefusedError` unless its author has signed the entry, for this namespace."""
        key = self._key_of(entry)
        try:
            crypto_sign_open(entry.signature + self._prefix + entry.signed, key)
        except BadSignatureError as error:
            raise EntryRefusedError("its signature is wrong") from error

    def question(self, entry: Entry) -> bytes:
        """What `lattica.store.signature_process` needs to check the signature: key, signature, and what was signed.

        Raises:
            EntryRefusedError: Its author has no key to sign with.
        """
        return self._key_of(entry) + entry.signature + self._prefix + entry.signed

    def _key_of(self, entry: Entry) -> bytes:
        author = entry.body.author
        key = self._keys.get(author)
        if key is None:
            if len(self._keys) >= MAX_DEPS:
                self._keys.clear()
            key = self._keys[author] = _public_key(author)
        return key


def _public_key(author: bytes) -> bytes:
    try:
        key = PeerId(author).public_key()
    except AddressError as error:
        raise EntryRefusedError("its author is no peer") from error
    if key is None:
        raise EntryRefusedError("its author has no Ed25519 key")
    return key.public_bytes_raw()


def _hash(namespace: NamespaceId, signed: bytes) -> bytes:
    return blake3(_DOMAIN + namespace.raw + signed).digest()
