"""Entries by hand, honest ones and others, for what no replica would write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger_replicas import key_of
from msgspec.structs import replace
from yjs_bytes import item, update

from lattica.identity import IdentityKey
from lattica.store.chain import client_id
from lattica.store.control import EVERYBODY, Grant, Revoke, Role, encode_action
from lattica.store.entry import Body, ChainId, Dep, Entry, Kind, Lane, sign_entry
from lattica.store.ledger import Fraud, Ledger, Verdict
from lattica.store.namespace import Limits, Policy, create_genesis

OWNER, ADMIN, WRITER, OTHER, STRANGER = (key_of(number) for number in range(1, 6))
NOTHING = b"\0\0"
"""An update without structs and deletions."""
NULL = b"\x01\x7e"


def value(root: str = "list:log", key: str | None = None, **where: Any) -> bytes:
    """The struct of one null."""
    return item(8, NULL, root=root, key=key, **where)


def dep(entry: Entry) -> Dep:
    """A reference to the entry."""
    return Dep(entry.body.author, entry.body.lane, entry.body.seq, entry.mark)


class Forge:
    """A namespace with a ledger, and everybody's keys."""

    def __init__(self, policy: Policy = Policy.ALLOW_LIST, *, limit: int = 1 << 16) -> None:
        self.genesis = create_genesis(OWNER, policy=policy, limits=Limits(entry=limit))
        self.namespace = self.genesis.namespace
        self.ledger = Ledger(self.genesis)
        self.entries: list[Entry] = []

    def freeze(self, one: Entry, other: Entry) -> None:
        """Begin anew with a proof of fraud, and with those of the entries that still can be added."""
        self.ledger = Ledger(self.genesis, {**self.ledger.frozen, one.chain: Fraud(one.body.seq, one.raw, other.raw)})
        entries, self.entries = self.entries, []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> Verdict:
        verdict = self.ledger.add(entry)
        if verdict in (Verdict.ADDED, Verdict.CUTS):
            self.entries.append(entry)
        return verdict

    def next(self, key: IdentityKey, lane: Lane, kind: Kind, payload: bytes, deps: Sequence[Entry] = ()) -> Body:
        chain = self.ledger.chain(ChainId(key.peer_id.raw, lane))
        return Body(
            author=key.peer_id.raw,
            lane=lane,
            kind=kind,
            seq=chain.head + 1,
            after=chain.head,
            prev=chain.head_hash,
            time=chain.time + 1,
            deps=tuple(dep(entry) for entry in deps),
            payload=payload,
        )

    def sign(self, key: IdentityKey, body: Body, **changes: Any) -> Entry:
        return sign_entry(key, self.namespace, replace(body, **changes))

    # data

    def client(self, key: IdentityKey, first: int = 1) -> int:
        return client_id(self.namespace, key.peer_id.raw, first)

    def update(self, key: IdentityKey, *structs: bytes, first: int = 1, clock: int | None = None, **more: Any) -> bytes:
        """An update with these structs of the author's epoch, by default going on where it is."""
        if clock is None:
            clock = self.ledger.chain(ChainId(key.peer_id.raw, Lane.DATA)).clock
        return update({self.client(key, first): (clock, structs)} if structs else {}, **more)

    def data(self, key: IdentityKey, *structs: bytes, deps: Sequence[Entry] = (), **changes: Any) -> Entry:
        """The author's next entry, that appends to a list unless told otherwise."""
        payload = changes.pop("payload", None) or self.update(key, *(structs or (value(),)))
        return self.sign(key, self.next(key, Lane.DATA, Kind.UPDATE, payload, deps), **changes)

    def write(self, key: IdentityKey, *structs: bytes, deps: Sequence[Entry] = (), **changes: Any) -> Entry:
        """Add such an entry."""
        entry = self.data(key, *structs, deps=deps, **changes)
        assert self.add(entry) is Verdict.ADDED
        return entry

    def resumed(self, key: IdentityKey, after: Entry | None, seq: int, deps: Sequence[Entry] = ()) -> Entry:
        """An entry that goes on after one, and leaves out what is between."""
        payload = update({self.client(key, seq): (0, [value()])})
        body = self.next(key, Lane.DATA, Kind.UPDATE, payload, deps)
        last, prev = (after.body.seq, after.hash) if after else (0, self.namespace.raw)
        return self.sign(key, body, seq=seq, after=last, prev=prev, time=1 << 40)

    # control

    def action(self, key: IdentityKey, action: Grant | Revoke, deps: Sequence[Entry] = (), **changes: Any) -> Entry:
        kind = Kind.GRANT if isinstance(action, Grant) else Kind.REVOKE
        return self.sign(key, self.next(key, Lane.CONTROL, kind, encode_action(action), deps), **changes)

    def grant(
        self,
        key: IdentityKey,
        whom: IdentityKey,
        role: Role = Role.WRITER,
        paths: tuple[str, ...] = (),
        deps: Sequence[Entry] = (),
    ) -> Entry:
        entry = self.action(key, Grant(whom.peer_id.raw, role, paths), deps)
        assert self.add(entry) is Verdict.ADDED
        return entry

    def revocation(
        self, key: IdentityKey, whom: IdentityKey, right: Entry | None, *, last: int | None = None, **changes: Any
    ) -> Entry:
        """A revocation of a right, or of everybody's, by default from what is here on."""
        data, control = (self.ledger.chain(ChainId(whom.peer_id.raw, lane)) for lane in (Lane.DATA, Lane.CONTROL))
        mark = EVERYBODY if right is None else right.mark
        last_control = changes.pop("last_control", control.head)
        action = Revoke(whom.peer_id.raw, mark, data.head if last is None else last, last_control)
        return self.action(key, action, **changes)

    def revoke(self, key: IdentityKey, whom: IdentityKey, right: Entry | None, **changes: Any) -> Entry:
        entry = self.revocation(key, whom, right, **changes)
        assert self.add(entry) in (Verdict.ADDED, Verdict.CUTS)
        return entry
