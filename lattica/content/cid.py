"""Content IDs: what a chunk, a file or a manifest is called, which is what it hashes to.

Source: https://github.com/multiformats/cid
"""

from __future__ import annotations

import base64
import enum
import hashlib
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeAlias

import base58
import blake3

from lattica.errors import MalformedCidError
from lattica.identity.base36 import base36_decode
from lattica.identity.varint import decode_varint

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that can be read without copying them. (`collections.abc.Buffer` is in Python 3.12 and later only.)"""

DIGEST_SIZE: Final = 32
"""Bytes of every digest, with either hash function."""

MAX_CID_TEXT: Final = 128
"""Longest text that is looked at; ours have 59 characters. Base58 takes time quadratic in the length."""

_VERSION = 1
_RAW = 0x55
_OTHER_CODECS = {
    0x70: "a dag-pb node, which is how IPFS names files and folders",
    0x71: "a dag-cbor node of IPLD",
    0x72: "a libp2p key: it is a peer ID, or a name in IPNS",
    0x0129: "a dag-json node of IPLD",
}
_EXPECTED = "expected 59 characters that start with bafkr4i (BLAKE3) or bafkrei (SHA-256)"


class Hasher(Protocol):
    """A running digest."""

    def update(self, data: Buffer, /) -> object:
        """Take more bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far, 32 bytes."""


class HashFunction(enum.IntEnum):
    """What makes the digests of a manifest. The value is its multihash code."""

    SHA2_256 = 0x12
    BLAKE3 = 0x1E

    def digest(self, data: Buffer) -> bytes:
        """The 32-byte digest of ``data``, made in the calling thread alone, without the GIL."""
        if self is HashFunction.BLAKE3:
            return blake3.blake3(data).digest()
        return hashlib.sha256(data).digest()

    def hasher(self) -> Hasher:
        """A running digest; give it a mebibyte or more at a time, then BLAKE3 uses several cores."""
        if self is HashFunction.BLAKE3:
            return blake3.blake3(max_threads=blake3.blake3.AUTO)
        return hashlib.sha256()


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """A CIDv1 of raw bytes.

    Attributes:
        hash: What made the digest.
        digest: 32 bytes.
    """

    hash: HashFunction
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_SIZE:
            raise MalformedCidError(self.digest[:DIGEST_SIZE].hex(), f"a digest has {DIGEST_SIZE} bytes")

    @classmethod
    def of(cls, data: Buffer, function: HashFunction = HashFunction.BLAKE3) -> Self:
        """The content ID of ``data``."""
        return cls(function, function.digest(data))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form: base32 (``b…``, which `str` gives), base36 (``k…``) or base58 (``z…``).

        Raises:
            MalformedCidError: It is not a CIDv1 of raw bytes with a hash function that we know.
        """
        return cls._read(_decode_text(text), text)

    @classmethod
    def from_bytes(cls, raw: Buffer) -> Self:
        """Read the binary form, 36 bytes.

        Raises:
            MalformedCidError: As for `parse`.
        """
        return cls._read(bytes(raw), bytes(raw[:MAX_CID_TEXT]).hex())

    @classmethod
    def _read(cls, raw: bytes, text: str) -> Self:
        if raw[:2] == b"\x12\x20" and len(raw) == 2 + DIGEST_SIZE:
            raise MalformedCidError(text, "it is a CIDv0 of IPFS (dag-pb), not one of raw bytes; " + _EXPECTED)
        try:
            version, at = decode_varint(raw)
            codec, at = decode_varint(raw, at)
            function, at = decode_varint(raw, at)
            size, at = decode_varint(raw, at)
        except ValueError as error:
            raise MalformedCidError(text, f"it is cut off or no content ID at all; {_EXPECTED}") from error
        if version != _VERSION:
            raise MalformedCidError(text, f"it has version {version}; {_EXPECTED}")
        if codec != _RAW:
            kind = _OTHER_CODECS.get(codec, f"data of the kind {codec:#x}")
            raise MalformedCidError(text, f"it names {kind}; Lattica's name raw bytes")
        if function not in list(HashFunction):
            raise MalformedCidError(text, f"its hash function {function:#x} is neither BLAKE3 nor SHA-256")
        if size != DIGEST_SIZE or len(raw) - at != size:
            raise MalformedCidError(text, f"its digest is not {DIGEST_SIZE} bytes long; {_EXPECTED}")
        return cls(HashFunction(function), raw[at:])

    def to_bytes(self) -> bytes:
        """The binary form, 36 bytes."""
        return bytes((_VERSION, _RAW)) + self.multihash

    @property
    def multihash(self) -> bytes:
        """The binary form without version and codec, 34 bytes: the key of provider records."""
        return bytes((self.hash, DIGEST_SIZE)) + self.digest

    def __str__(self) -> str:
        return "b" + _base32_encode(self.to_bytes())

    def __repr__(self) -> str:
        return f"Cid({self})"


def _decode_text(text: str) -> bytes:
    """The bytes of a multibase text; a CIDv0 has no multibase prefix and is decoded too."""
    if not 1 < len(text) <= MAX_CID_TEXT:
        raise MalformedCidError(text, _EXPECTED)
    try:
        match text[0]:
            case "b":
                return _base32_decode(text[1:])
            case "k" if text == text.lower():
                return base36_decode(text[1:])
            case "z" if text.isalnum():  # the library strips white space
                return base58.b58decode(text[1:])
            case "Q" if len(text) == 46 and text.isalnum():
                return base58.b58decode(text)
    except ValueError as error:
        raise MalformedCidError(text, f"a character of it is wrong or missing; {_EXPECTED}") from error
    if text.startswith(("12D3Koo", "16Uiu2")):
        raise MalformedCidError(text, "it is a peer ID, not a content ID; " + _EXPECTED)
    raise MalformedCidError(text, _EXPECTED)


def _base32_encode(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _base32_decode(text: str) -> bytes:
    """The bytes of lower-case base32 without padding; raises `ValueError` on anything else."""
    if not text.isascii() or not text.isalnum() or text != text.lower():
        raise ValueError("not base32")
    data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    if _base32_encode(data) != text:  # the bits behind the last byte must be zero, so that a CID has one spelling
        raise ValueError("not canonical")
    return data
