"""Who may write what: grants and revocations, and what follows from all that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import takewhile
from typing import Annotated, Any, NamedTuple, Self, TypeAlias

import msgspec

from lattica.errors import EntryRefusedError
from lattica.store.entry import MARK_BYTES, MAX_SEQ, Entry, Kind
from lattica.store.namespace import Genesis, Policy

MAX_PATHS = 64
"""Subtrees of one grant."""
MAX_PATH_BYTES = 256
MAX_CONTROL_ENTRIES = 100_000
"""Entries of one control chain: each costs memory in every replica, for ever."""
MAX_GRANTS_EACH = 256
"""Rights that one author may give another: each entry of the latter is held against all of them."""
MAX_STATE = 512 << 20
"""Bytes of a checkpoint's state."""
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


class Cut(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """How far a checkpoint goes in one author's chain of data.

    Attributes:
        author: Whose.
        seq: Number of the last entry that it covers.
        mark: The first 16 bytes of that entry's hash.
    """

    author: _Author
    seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)]
    mark: Annotated[bytes, msgspec.Meta(min_length=MARK_BYTES, max_length=MARK_BYTES)]


class Checkpoint(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Puts a state in the place of all data entries up to a cut through the chains. Only the owner's count.

    What it covers is settled: no revocation and no proof of fraud takes it back.

    Attributes:
        cut: For each author that has written; none depends on what is beyond the cut.
        state: BLAKE3 hash of the state there, as `lattica.store.state` has it in bytes.
        size: How many bytes these are.
    """

    cut: Annotated[tuple[Cut, ...], msgspec.Meta(min_length=1, max_length=1 << 15)]
    state: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_STATE)]


Action: TypeAlias = Grant | Revoke | Checkpoint


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
    action: Action


class ControlDump(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A control entry as a snapshot holds it; see `Control`."""

    seq: int
    mark: bytes
    owner_seen: int
    kind: Kind
    payload: bytes


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


class Scope:
    """What some rights cover together.

    Args:
        rights: Each covers the containers of its paths, and all below these.
    """

    def __init__(self, rights: Iterable[Right]) -> None:
        self._paths: set[str] = set()
        self._is_everything = False
        for right in rights:
            self._paths.update(right.paths)
            self._is_everything |= not right.paths

    def covers(self, name: str) -> bool:
        """Whether a container of this name may be written."""
        if self._is_everything or name in self._paths:
            return True
        return any(name[:at] in self._paths for at, letter in enumerate(name) if letter == "/")


_KINDS: Mapping[type[Action], Kind] = {Grant: Kind.GRANT, Revoke: Kind.REVOKE, Checkpoint: Kind.CHECKPOINT}
_decode: Mapping[Kind, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(action) for action, kind in _KINDS.items()
}
encode_action = msgspec.msgpack.Encoder().encode


def kind_of(action: Action) -> Kind:
    """The kind of an entry that says this."""
    return _KINDS[type(action)]


def read_action(entry: Entry) -> Action:
    """What a control entry says; raises `EntryRefusedError` if that is malformed."""
    try:
        action: Action = _decode[entry.body.kind].decode(entry.body.payload)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefusedError("it is malformed") from error
    return action


def dump_control(control: Control) -> ControlDump:
    """A control entry, for `load_control`."""
    seq, mark, owner_seen, action = control
    return ControlDump(seq, mark, owner_seen, kind_of(action), encode_action(action))


def load_control(dump: ControlDump) -> Control:
    """The control entry that was dumped. Raises `msgspec.DecodeError`."""
    return Control(dump.seq, dump.mark, dump.owner_seen, _decode[dump.kind].decode(dump.payload))


class Rights:
    """What follows from a set of control entries; the same whatever their order was.

    The owner's come first, then those of the admins whom the owner's make, so that no two can revoke each other. A
    right that a revocation does not name stays: of a grant and a revocation that know nothing of each other, the grant
    wins.

    Attributes:
        counting: For each author how many of its control entries, from the first, count.
        checkpoints: The owner's, by number.
        size: How many control entries there are.
    """

    def __init__(self, genesis: Genesis, chains: Mapping[bytes, Iterable[Control]] | None = None) -> None:
        self._owner = genesis.owner.raw
        end = genesis.limits.stranger_entries or MAX_SEQ
        self._everybody = [Right(b"", 0, EVERYBODY, (), end)] if genesis.policy is Policy.OPEN else []
        self._chains = {author: list(controls) for author, controls in (chains or {}).items()}
        self.size = sum(map(len, self._chains.values()))
        self._evaluate()

    @classmethod
    def load(cls, genesis: Genesis, dump: Mapping[bytes, Iterable[ControlDump]]) -> Self:
        """What `dump` gave. Raises `msgspec.DecodeError`."""
        return cls(
            genesis, {author: [load_control(control) for control in controls] for author, controls in dump.items()}
        )

    def dump(self) -> dict[bytes, list[ControlDump]]:
        """All control entries, for `load`."""
        return {author: [dump_control(control) for control in controls] for author, controls in self._chains.items()}

    def _evaluate(self) -> None:
        self._writers: dict[bytes, list[Right]] = {}
        self._cuts: dict[tuple[bytes, bytes], int] = {}
        self._grants: Counter[tuple[bytes, bytes]] = Counter()
        self._found: dict[bytes, list[Right]] = {}
        self._floors: dict[bytes, int] = {}
        self.checkpoints: dict[int, Checkpoint] = {}
        owners = self._chains.get(self._owner, [])
        self._admins = _Admins(owners)
        self.counting = {self._owner: len(owners)}
        for control in owners:
            self._count(self._owner, control)
        for author, controls in self._chains.items():
            if author != self._owner:
                good = self._admins.counting(author, controls)
                self.counting[author] = len(good)
                for control in good:
                    self._count(author, control)

    def add(self, author: bytes, control: Control) -> None:
        """Take in the next entry of a chain.

        That takes the same time however many there are, unless the owner makes or revokes an admin.
        """
        chain = self._chains.setdefault(author, [])
        chain.append(control)
        self.size += 1
        if self._is_simple(author, control):
            self.counting[author] = len(chain)
            self._count(author, control)
        else:
            self._evaluate()

    def _is_simple(self, author: bytes, control: Control) -> bool:
        """Whether the entry counts, as all before it do, and changes nothing about others."""
        if author == self._owner:
            return not self._admins.hang_on(control)
        all_count = self.counting.get(author, 0) == len(self._chains[author]) - 1
        return all_count and self._admins.allow(author, control.seq, control.owner_seen)

    def _count(self, granter: bytes, control: Control) -> None:
        action = control.action
        by_owner = granter == self._owner
        if isinstance(action, Checkpoint):
            self._settle(control.seq, action)
            return
        self._found.pop(action.author, None)
        if isinstance(action, Revoke):
            key = action.author, action.right
            if by_owner or not self._admins.is_right(*key):
                self._cuts[key] = min(self._cuts.get(key, MAX_SEQ), action.last)
        elif by_owner or action.role is Role.WRITER:
            right = Right(granter, control.seq, control.mark, action.paths, MAX_SEQ)
            self._writers.setdefault(action.author, []).append(right)
            self._grants[granter, action.author] += 1

    def _settle(self, seq: int, checkpoint: Checkpoint) -> None:
        self.checkpoints[seq] = checkpoint
        for cut in checkpoint.cut:
            self._floors[cut.author] = max(cut.seq, self.floor(cut.author))
        self._found.clear()

    def floor(self, author: bytes) -> int:
        """Number of the author's last data entry that a checkpoint covers: up to there all is settled."""
        return self._floors.get(author, 0)

    def grants(self, granter: bytes, author: bytes) -> int:
        """How many rights the one has given the other, those that have ended included."""
        return self._grants[granter, author]

    @property
    def authors(self) -> set[bytes]:
        """The owner, and to whom something was granted, though it may have been revoked."""
        return {self._owner, *self._writers}

    def names(self, author: bytes) -> bool:
        """Whether it is one of `authors`."""
        return author == self._owner or author in self._writers

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
        found = self._found.get(author)
        if found is None:
            found = self._ended(author, [*self._writers.get(author, ()), *self._everybody])
            self._found[author] = found
        ended = self._ended(author, capabilities)
        return [*found, *ended] if ended else found

    def ended(self, author: bytes, right: Right) -> Right:
        """A right that the author brings, with its end."""
        return self._ended(author, [right])[0]

    def _ended(self, author: bytes, rights: Iterable[Right]) -> list[Right]:
        floor = self.floor(author)
        return [
            right._replace(last=max(floor, min(right.last, self._cuts.get((author, right.mark), MAX_SEQ))))
            for right in rights
        ]


class _Admins:
    """Whom the owner's entries make admins, and up to which entry."""

    def __init__(self, owners: Iterable[Control]) -> None:
        self._rights: dict[bytes, dict[bytes, int]] = {}
        self._cuts: dict[tuple[bytes, bytes], int] = {}
        for seq, mark, _, action in owners:
            if isinstance(action, Revoke):
                key = action.author, action.right
                self._cuts[key] = min(self._cuts.get(key, MAX_SEQ), action.last_control)
            elif isinstance(action, Grant) and action.role is Role.ADMIN:
                self._rights.setdefault(action.author, {})[mark] = seq

    def is_right(self, author: bytes, mark: bytes) -> bool:
        """Whether the right of this name makes the author an admin."""
        return mark in self._rights.get(author, ())

    def hang_on(self, control: Control) -> bool:
        """Whether who is an admin hangs on this entry of the owner's."""
        action = control.action
        if isinstance(action, Revoke):
            return self.is_right(action.author, action.right)
        return isinstance(action, Grant) and action.role is Role.ADMIN

    def allow(self, author: bytes, seq: int, owner_seen: int) -> bool:
        """Whether the entry counts."""
        return any(
            granted <= owner_seen and seq <= self._cuts.get((author, mark), MAX_SEQ)
            for mark, granted in self._rights.get(author, {}).items()
        )

    def counting(self, author: bytes, controls: Iterable[Control]) -> list[Control]:
        """Those of an author's entries, from the first, that it was an admin for."""
        return list(takewhile(lambda control: self.allow(author, control.seq, control.owner_seen), controls))
