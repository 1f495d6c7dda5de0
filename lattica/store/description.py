"""Who may write a document, and has written it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lattica.identity import PeerId
from lattica.store.control import EVERYBODY, Right
from lattica.store.entry import MAX_SEQ, ChainId, Lane
from lattica.store.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorInfo:
    """One author, as far as this replica knows.

    Attributes:
        peer: Who.
        role: ``owner``, ``admin`` or ``writer``; empty if it may not write any more.
        paths: Names of containers below which it may write; none: everything that its role allows.
        entries: How many of its data entries count, and are kept.
        covered: Number of its last data entry for which a checkpoint's state stands; 0: for none.
        controls: How many of its grants, revocations and checkpoints count.
        frozen: Whether a fraud of it is proven: from it on nothing that it writes counts.
    """

    peer: PeerId
    role: str
    paths: Sequence[str]
    entries: int
    covered: int
    controls: int
    frozen: bool


def describe_authors(ledger: Ledger) -> list[AuthorInfo]:
    """Everybody who was granted a right, or has entries that count, or a proven fraud; the owner first."""
    owner = ledger.genesis.owner.raw
    found = {*ledger.rights.authors, *(author for author, _ in ledger.chains), *(author for author, _ in ledger.frozen)}
    return [_describe(ledger, author) for author in sorted(found, key=lambda author: (author != owner, author))]


def _describe(ledger: Ledger, author: bytes) -> AuthorInfo:
    data = ledger.chain(ChainId(author, Lane.DATA))
    standing = [right for right in ledger.rights_of(author) if _stands(ledger, right, data.head)]
    return AuthorInfo(
        peer=PeerId(author),
        role=_role(ledger, author, standing),
        paths=_paths(standing),
        entries=len(data) - (data.base > 0),  # of those that are covered the last one is remembered
        covered=data.base,
        controls=len(ledger.chain(ChainId(author, Lane.CONTROL))),
        frozen=any(ChainId(author, lane) in ledger.frozen for lane in Lane),
    )


def _stands(ledger: Ledger, right: Right, head: int) -> bool:
    """Whether it was not revoked, nor used up."""
    return right.last == MAX_SEQ or (
        right.mark == EVERYBODY and head < right.last == ledger.genesis.limits.stranger_entries
    )


def _role(ledger: Ledger, author: bytes, standing: Sequence[Right]) -> str:
    if author == ledger.genesis.owner.raw:
        return "owner"
    if ledger.rights.may_control(author, MAX_SEQ, MAX_SEQ):
        return "admin"
    return "writer" if standing else ""


def _paths(standing: Sequence[Right]) -> list[str]:
    if any(not right.paths for right in standing):
        return []
    return sorted({path for right in standing for path in right.paths})
