"""How far a replica knows a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from blake3 import blake3

from lattica.store.entry import ChainId
from lattica.store.namespace import NamespaceId

_DOMAIN = b"lattica-store-frontier/2:"


class Head(NamedTuple):
    """The last entry of a chain that counts.

    Attributes:
        seq: Its number.
        hash: Its hash, 32 bytes.
    """

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """The last entry of each chain, which chains are frozen, and what was folded. With equal ones states are equal.

    Attributes:
        namespace: Of what.
        heads: Of each chain that has entries that count.
        frozen: For each chain whose author's fraud is proven the number from which on none counts.
        base: Number of the owner's checkpoint whose state stands for what it covers; 0: there is none.
    """

    namespace: NamespaceId
    heads: Mapping[ChainId, Head]
    frozen: Mapping[ChainId, int]
    base: int = 0

    def with_heads(self, heads: Mapping[ChainId, Head]) -> Frontier:
        """This one with some heads replaced."""
        return replace(self, heads={**self.heads, **heads}) if heads else self

    def digest(self) -> bytes:
        """32 bytes that stand for all of it."""
        hasher = blake3(_DOMAIN + self.namespace.raw)
        for chain, head in sorted(self.heads.items()):
            hasher.update(_name(chain) + head.seq.to_bytes(8) + head.hash)
        hasher.update(b"frozen")
        for chain, seq in sorted(self.frozen.items()):
            hasher.update(_name(chain) + seq.to_bytes(8))
        hasher.update(b"base" + self.base.to_bytes(8))
        return hasher.digest()


def _name(chain: ChainId) -> bytes:
    return bytes((chain.lane, len(chain.author))) + chain.author
