"""The 256-bit keyspace in which peers and content have their places.

Keys are the SHA-256 of a peer ID's or a multihash's bytes, as integers; their distance is XOR. Source:
https://github.com/libp2p/specs/blob/master/kad-dht/README.md#distance
"""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Final, NewType

from lattica.dht.limits import MAX_KEY_BYTES, MAX_REFRESH_DEPTH

KEY_BITS: Final = 256

Key = NewType("Key", int)
"""A place in the keyspace, 0 to 2^256 - 1."""

_SHA256_MULTIHASH: Final = b"\x12\x20"
_MAX_VARINT_BYTES: Final = 9  # https://github.com/multiformats/unsigned-varint


def key_of(data: bytes) -> Key:
    """The place of a peer ID's bytes or of a multihash."""
    return Key(int.from_bytes(sha256(data).digest(), "big"))


def distance(a: Key, b: Key) -> int:
    """The XOR metric: 0 for equal keys, symmetric, and for each key there is just one at a given distance."""
    return a ^ b


def common_prefix_length(a: Key, b: Key) -> int:
    """Leading bits that two keys share: 0 to 256."""
    return KEY_BITS - (a ^ b).bit_length()


def preimage_sharing_prefix(local: Key, length: int, rng: random.Random) -> bytes:
    """Bytes in the form of a peer ID whose key shares exactly `length` leading bits with `local`.

    What FIND_NODE carries is hashed by the responder, so a bucket is refreshed with a preimage, and those are found by
    trying: 2^(length + 1) hashes on average, about 40 ms for the longest that is allowed, `MAX_REFRESH_DEPTH`.
    """
    if not 0 <= length <= MAX_REFRESH_DEPTH:
        raise ValueError(f"a preimage for {length} bits is too expensive; at most {MAX_REFRESH_DEPTH}")
    while True:
        candidate = _SHA256_MULTIHASH + rng.randbytes(32)
        if common_prefix_length(local, key_of(candidate)) == length:
            return candidate


def is_multihash(data: bytes) -> bool:
    """Whether `data` is one whole multihash (code, length, digest) of at most `MAX_KEY_BYTES`.

    Source: https://github.com/multiformats/multihash
    """
    if len(data) > MAX_KEY_BYTES:
        return False
    after_code = _varint_end(data, 0)
    if after_code is None:
        return False
    after_length = _varint_end(data, after_code)
    if after_length is None:
        return False
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[after_code:after_length]))
    return length == len(data) - after_length


def _varint_end(data: bytes, start: int) -> int | None:
    """Where the unsigned varint at `start` ends, or ``None`` if it does not, or not in its shortest form."""
    for end in range(start, min(start + _MAX_VARINT_BYTES, len(data))):
        if data[end] < 0x80:
            return None if data[end] == 0 and end > start else end + 1
    return None
