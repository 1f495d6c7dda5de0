"""libp2p peer IDs for Ed25519 keys.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import base58
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lattica.errors import AddressError
from lattica.identity.base36 import base36_decode, base36_encode

MAX_PEER_ID_BYTES = 64
"""Longest peer ID accepted. SHA-256 IDs take 34 bytes and inlined Ed25519 keys 38."""

_ED25519_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
"""identity multihash, 36 bytes: protobuf PublicKey {Type: Ed25519, Data: 32 bytes}."""
_SHA256_PREFIX = bytes((0x12, 0x20))
_CID_V1_LIBP2P_KEY = bytes((0x01, 0x72))


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """Who a peer is: the multihash of its public key.

    Equal bytes are the same peer; hashable and ordered, so that it serves as a key.

    Attributes:
        raw: The multihash, 34 to 64 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        inlined = self.raw.startswith(_ED25519_PREFIX) and len(self.raw) == len(_ED25519_PREFIX) + 32
        hashed = self.raw.startswith(_SHA256_PREFIX) and len(self.raw) == len(_SHA256_PREFIX) + 32
        other_inlined = (
            self.raw[:1] == b"\x00" and 2 < len(self.raw) <= MAX_PEER_ID_BYTES and self.raw[1] == len(self.raw) - 2
        )
        if not (inlined or hashed or other_inlined):
            raise AddressError(self.raw[:MAX_PEER_ID_BYTES].hex(), "these bytes are not a peer ID")

    def __hash__(self) -> int:
        return hash(self.raw)  # which the bytes remember; a tuple around them, as dataclasses hash, does not

    @classmethod
    def from_public_key(cls, key: Ed25519PublicKey) -> Self:
        """The peer ID of an Ed25519 public key (the key itself, inlined)."""
        return cls(_ED25519_PREFIX + key.public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read either text form: base58btc (``12D3Koo…``, ``Qm…``) or a base36 CIDv1 (``k51…``).

        Raises:
            AddressError: It is neither.
        """
        if not text or len(text) > 2 * MAX_PEER_ID_BYTES:
            raise AddressError(text, "a peer ID has about 52 characters and starts with 12D3Koo")
        try:
            if text.startswith("k"):
                cid = base36_decode(text[1:])
                if not cid.startswith(_CID_V1_LIBP2P_KEY):
                    raise AddressError(text, "this content ID does not name a peer")
                return cls(cid[len(_CID_V1_LIBP2P_KEY) :])
            return cls(base58.b58decode(text))
        except (ValueError, AddressError) as error:
            raise AddressError(text, "a peer ID has about 52 characters and starts with 12D3Koo") from error

    def public_key(self) -> Ed25519PublicKey | None:
        """The Ed25519 key inside, or ``None`` for the ID of another kind of key."""
        if not self.raw.startswith(_ED25519_PREFIX):
            return None
        try:
            return Ed25519PublicKey.from_public_bytes(self.raw[len(_ED25519_PREFIX) :])
        except (ValueError, UnsupportedAlgorithm):
            return None

    @property
    def dns_label(self) -> str:
        """The ID as base36 CIDv1: a valid DNS label (at most 63 characters), used in certificates."""
        return "k" + base36_encode(_CID_V1_LIBP2P_KEY + self.raw)

    @property
    def short(self) -> str:
        """The last eight characters, for logs and tables; not unique."""
        return str(self)[-8:]

    def __str__(self) -> str:
        return base58.b58encode(self.raw).decode("ascii")

    def __repr__(self) -> str:
        return f"PeerId({self})"
