"""Who may write what: grants and revocations, and what follows from all that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import takewhile
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from lattica.errors import EntryRefusedError
from lattica.store.entry import MARK_BYTES, MAX_SEQ, Entry, Kind
from lattica.store.namespace import Genesis, Policy

MAX_PATHS = 64
"""Subtrees of one grant."""
MAX_PATH_BYTES = 256
MAX_CONTROL_ENTRIES = 100_000
"""Entries of one control chain: each costs memory in every replica, for ever."""
EVERYBODY = b""
"""Names the right that everybody has in an open namespace, in revocations."""


class Role(StrEnum):
    """What is granted: to write; or also to grant and revoke the right to write."""

    WRITER = "writer"
    ADMIN = "admin"


_Author: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=34, max_length=64)]
_Path: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATH_BYTES)]


class Grant(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Gives an author a right, from the entries on that have seen it.

    Attributes:
        author: Who gets it.
        role: What.
        paths: Names of containers that it may write, and of all below these; none: everything.
    """

    author: _Author
    role: Role
    paths: Annotated[tuple[_Path, ...], msgspec.Meta(max_length=MAX_PATHS)] = ()


class Revoke(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Ends one right of an author.

    Attributes:
        author: Whose.
        right: Which: the first 16 bytes of the hash of the grant, or of the capability; or `EVERYBODY`.
        last: Number of the author's last entry of data that counts by this right; 0 if none does.
        last_control: The same of its control entries.
    """

    author: _Author
    right: Annotated[bytes, msgspec.Meta(max_length=MARK_BYTES)]
    last: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
    last_control: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)] = 0


class Control(NamedTuple):
    """One control entry, as far as it matters for rights.

    Attributes:
        seq: Its number.
        mark: Names it.
        owner_seen: The last of the owner's control entries that its author had seen.
        action: What it says.
    """

    seq: int
    mark: bytes
    owner_seen: int
    action: Grant | Revoke


class Right(NamedTuple):
    """A right to write.

    Attributes:
        granter: Whose control entry gives it; empty if that is not a condition.
        seq: That entry's number.
        mark: Names the right in revocations.
        paths: What may be written; none: everything.
        last: Number of the last entry that counts by it.
    """

    granter: bytes
    seq: int
    mark: bytes
    paths: tuple[str, ...]
    last: int

    def covers(self, name: str) -> bool:
        """Whether a container of this name may be written."""
        return not self.paths or any(name == path or name.startswith(f"{path}/") for path in self.paths)


_decode: Mapping[Kind, msgspec.msgpack.Decoder[Grant] | msgspec.msgpack.Decoder[Revoke]] = {
    Kind.GRANT: msgspec.msgpack.Decoder(Grant),
    Kind.REVOKE: msgspec.msgpack.Decoder(Revoke),
}
encode_action = msgspec.msgpack.Encoder().encode


def read_action(entry: Entry) -> Grant | Revoke:
    """What a control entry says; raises `EntryRefusedError` if that is malformed."""
    try:
        return _decode[entry.body.kind].decode(entry.body.payload)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("it is malformed") from error


class Rights:
    """What follows from a set of control entries; the same whatever their order was.

    The owner's come first, then those of the admins whom the owner's make, so that no two can revoke each other. A
    right that a revocation does not name stays: of a grant and a revocation that know nothing of each other, the grant
    wins.

    Attributes:
        counting: For each author how many of its control entries, from the first, count.
    """

    def __init__(self, genesis: Genesis, chains: Mapping[bytes, Iterable[Control]]) -> None:
        self._owner = genesis.owner.raw
        self._is_open = genesis.policy is Policy.OPEN
        self._writers: dict[bytes, list[Right]] = {}
        self._cuts: dict[tuple[bytes, bytes], int] = {}
        self.counting: dict[bytes, int] = {}
        owners = list(chains.get(self._owner, ()))
        self.counting[self._owner] = len(owners)
        self._add(self._owner, owners, by_owner=True)
        self._admins = _Admins(owners)
        for author, controls in chains.items():
            if author != self._owner:
                good = self._admins.counting(author, controls)
                self.counting[author] = len(good)
                self._add(author, good, by_owner=False)

    def _add(self, granter: bytes, controls: Iterable[Control], *, by_owner: bool) -> None:
        for seq, mark, _, action in controls:
            if isinstance(action, Grant):
                if by_owner or action.role is Role.WRITER:
                    right = Right(granter, seq, mark, action.paths, MAX_SEQ)
                    self._writers.setdefault(action.author, []).append(right)
            elif by_owner or not self._is_admin_right(action):
                key = action.author, action.right
                self._cuts[key] = min(self._cuts.get(key, MAX_SEQ), action.last)

    def _is_admin_right(self, revoke: Revoke) -> bool:
        return (revoke.author, revoke.right) in self._admins.rights

    @property
    def authors(self) -> set[bytes]:
        """The owner, and to whom something was granted, though it may have been revoked."""
        return {self._owner, *self._writers}

    def may_control(self, author: bytes, seq: int, owner_seen: int) -> bool:
        """Whether a control entry counts, with what its author had seen of the owner's entries."""
        return author == self._owner or self._admins.allow(author, seq, owner_seen)

    def was_admin(self, author: bytes, owner_seen: int) -> bool:
        """Whether one of these entries of the owner's made the author an admin, whatever came then."""
        return author == self._owner or self._admins.allow(author, 0, owner_seen)

    def of(self, author: bytes, capabilities: Iterable[Right] = ()) -> list[Right]:
        """The author's rights, with their ends; the owner's single one has none."""
        if author == self._owner:
            return [Right(b"", 0, b"", (), MAX_SEQ)]
        found = [*self._writers.get(author, ()), *capabilities]
        if self._is_open:
            found.append(Right(b"", 0, EVERYBODY, (), MAX_SEQ))
        return [right._replace(last=self._cuts.get((author, right.mark), MAX_SEQ)) for right in found]


class _Admins:
    """Whom the owner's entries make admins, and up to which entry."""

    def __init__(self, owners: Iterable[Control]) -> None:
        self.rights: dict[tuple[bytes, bytes], int] = {}
        self._cuts: dict[tuple[bytes, bytes], int] = {}
        for seq, mark, _, action in owners:
            if isinstance(action, Revoke):
                key = action.author, action.right
                self._cuts[key] = min(self._cuts.get(key, MAX_SEQ), action.last_control)
            elif action.role is Role.ADMIN:
                self.rights[action.author, mark] = seq

    def allow(self, author: bytes, seq: int, owner_seen: int) -> bool:
        """Whether the entry counts."""
        return any(
            author == admin and granted <= owner_seen and seq <= self._cuts.get((admin, mark), MAX_SEQ)
            for (admin, mark), granted in self.rights.items()
        )

    def counting(self, author: bytes, controls: Iterable[Control]) -> list[Control]:
        """Those of an author's entries, from the first, that it was an admin for."""
        return list(takewhile(lambda control: self.allow(author, control.seq, control.owner_seen), controls))
