"""Replicas of one namespace in memory, and authors that are not all honest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from blake3 import blake3
from msgspec.structs import replace
from pycrdt import Array, Doc, Map, Text, TransactionEvent
from yjs_bytes import item, uint, update

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.absorb import Absorbed, absorb, check_signatures, prove_fraud
from lattica.store.canonical import canonical_update, ordered_update
from lattica.store.chain import client_id
from lattica.store.control import EVERYBODY, Checkpoint, Grant, Revoke, Role, encode_action
from lattica.store.entry import ChainId, Entry, Kind, Lane, Verifier, sign_entry
from lattica.store.folding import (
    check_cut,
    checkpoint_of,
    counting_beyond,
    fold_at,
    folds_of,
    not_covered,
    own_rejected,
    state_of,
)
from lattica.store.graves import Worth
from lattica.store.ledger import Base, Fraud
from lattica.store.namespace import Genesis
from lattica.store.outdone import PlacesWritten, find_outdone, places_written, write_again
from lattica.store.postponed import PostponedPool
from lattica.store.replay import replay
from lattica.store.replica import Before, Replica, add_beyond
from lattica.store.settle import Settled, early_frauds, new_frauds, settle
from lattica.store.snapshot import bury_replaced, dump_snapshot, load_snapshot, take_snapshot
from lattica.store.state import Made, read_state

NOW = 1_700_000_000_000 << 16
ROOTS = ("map:settings", "list:log", "text:notes")


def key_of(number: int) -> IdentityKey:
    return IdentityKey.from_seed(bytes((number,)) * 32)


class SimReplica:
    """One replica, with its disk: a list."""

    def __init__(self, genesis: Genesis, key: IdentityKey) -> None:
        self.genesis = genesis
        self.key = key
        self.stored: list[Entry] = []
        self.frauds: dict[ChainId, Fraud] = {}
        self.early: dict[ChainId, Fraud] = {}
        self.refused: list[tuple[Entry, str]] = []
        self.verifier = Verifier(genesis.namespace)
        self.replica = Replica(genesis, key.peer_id.raw)
        self.state_raw = b""
        self.is_tired = False
        self.pool = PostponedPool()

    @property
    def base(self) -> Base | None:
        """The state that stands for what is not stored."""
        if not self.state_raw:
            return None
        return Base(self.replica.ledger.base, read_state(self.state_raw, blake3(self.state_raw).digest()))

    @property
    def digest(self) -> bytes:
        return self.replica.ledger.frontier().digest()

    @property
    def counting(self) -> list[Entry]:
        return [entry for entry in self.stored if self.counts(entry)]

    def counts(self, entry: Entry) -> bool:
        return self.replica.ledger.chain(entry.chain).mark(entry.body.seq) == entry.mark

    def state(self) -> dict[str, Any]:
        doc = self.replica.ydoc
        return {
            "map:settings": doc.get("map:settings", type=Map).to_py(),
            "list:log": doc.get("list:log", type=Array).to_py(),
            "text:notes": str(doc.get("text:notes", type=Text)),
        }

    # writing

    def write(self, number: int) -> Entry | None:
        """Write something, if that is allowed, and what it is can be told by the number."""
        return self.change(lambda doc: _WRITES[number % len(_WRITES)](doc, number))

    def change(self, write: Callable[[Doc[Any]], None]) -> Entry | None:
        """Write to the document, if that is allowed."""
        updates: list[bytes] = []

        def note(event: TransactionEvent) -> None:
            updates.append(event.update)

        subscription = self.replica.ydoc.observe(note)
        write(self.replica.ydoc)
        self.replica.ydoc.unobserve(subscription)
        if not updates:
            return None
        # yrs writes mappings in any order: what is written twice is to be the same entry.
        return self.keep(self.replica.write(self.key, ordered_update(updates[0]), NOW))

    def grant(self, author: IdentityKey, role: Role = Role.WRITER, paths: tuple[str, ...] = ()) -> Entry | None:
        return self.keep(self.replica.control(self.key, Grant(author.peer_id.raw, role, paths), NOW))

    def revoke(self, author: IdentityKey, right: bytes = EVERYBODY) -> Entry | None:
        data, control = (self.replica.ledger.chain(ChainId(author.peer_id.raw, lane)) for lane in reversed(Lane))
        action = Revoke(author.peer_id.raw, right, data.head, control.head)
        return self.keep(self.replica.control(self.key, action, NOW))

    def join(self, capability: bytes) -> Entry | None:
        return self.keep(self.replica.join(self.key, capability, NOW))

    def keep(self, entry: Entry) -> Entry | None:
        """Add an entry of ours; one that breaks the rules is given up, and the document is as it was."""
        try:
            self.replica.add_own(entry)
        except EntryRefusedError:
            self.restart()
            return None
        if not self.counts(entry):
            self.restart()
            return None
        self.stored.append(entry)
        self._settle(settle(self.replica, absorb(self.replica, ()), {}, self.stored, self.base))
        return entry

    # reading

    def receive(self, entries: Sequence[Entry], frauds: Iterable[Fraud] = ()) -> bool:
        """Take in what another sends; whether anything changed."""
        before = self.digest
        check_signatures(entries, self.verifier)
        absorbed = absorb(self.replica, entries)
        self.refused += absorbed.refused
        pairs = [(fraud.one, fraud.other) for fraud in frauds]
        known = {(entry.chain, entry.body.seq): entry for entry in [*self.stored, *absorbed.added]}
        for fork in absorbed.forks:
            rival = known[self.replica.ledger.rival(fork)]
            pairs += [(rival.raw, fork.raw), (fork.raw, rival.raw)]
        proven = [prove_fraud(self.genesis.namespace, one, other, self.verifier) for one, other in pairs]
        found = [*self.early.items(), *self.pool.take_frauds().items()]
        found += [(entry.chain, fraud) for entry, fraud in proven]
        self.early = early_frauds(self.replica, found)
        news = new_frauds(self.replica, found)
        must = absorbed.must_replay or bool(news)
        if self.is_tired and must and not absorbed.cuts:
            self.pool.hold(absorbed.resuming, news)
            news, must = {}, False
        self._settle(settle(self.replica, absorbed, news, self.stored if must else None, self.base))
        return self.digest != before

    def take_up(self) -> None:
        """Look again at what had to wait for a replay."""
        self.is_tired = False
        self.receive(self.pool.take_entries())

    def _settle(self, settled: Settled) -> None:
        dropped = {entry.hash for entry in settled.drop}
        self.stored = [entry for entry in [*self.stored, *settled.put] if entry.hash not in dropped]
        self.frauds.update(settled.frauds)
        self.replica = settled.replica

    def restart(self) -> None:
        self.replica, _ = replay(self.genesis, self.key.peer_id.raw, self.frauds, self.stored, self.base)

    # checkpoints

    def compact(self) -> bool:
        """Put the state in the place of all data, as the owner may."""
        self.take_up()
        while self.fold():
            pass
        ledger = self.replica.ledger
        if not folds_of(ledger) or ledger.unfolded:
            return False
        made = state_of(self.replica, self.replica.ydoc.client_id)
        checkpoint = checkpoint_of(made.folded.folds, made.raw)
        entry = self.replica.control(self.key, checkpoint, NOW)
        try:
            self.replica.add_own(entry)
        except EntryRefusedError:
            return False
        self._fold([*self.stored, entry], checkpoint, entry.body.seq, made)
        return True

    def fold(self) -> bool:
        """Drop what the next checkpoint covers, if all that is here; what follows from it must be its state."""
        ledger = self.replica.ledger
        seq = ledger.unfolded
        if not seq or not ledger.reaches(ledger.rights.checkpoints[seq]):
            return False
        checkpoint, client = ledger.rights.checkpoints[seq], self.replica.ydoc.client_id
        made = fold_at(self.genesis, self.frauds, self.stored, self.base, checkpoint, client)
        assert checkpoint_of(made.folded.folds, made.raw) == checkpoint
        self._fold(self.stored, checkpoint, seq, made)
        return True

    def _fold(self, entries: Sequence[Entry], checkpoint: Checkpoint, seq: int, made: Made) -> None:
        beyond = counting_beyond(self.replica, checkpoint, entries)
        before = Before(self.replica.ydoc, self.replica.ledger.items)
        self.replica.fold(seq, made.folded, add_beyond(made.folded, beyond))
        self.stored = not_covered(checkpoint, entries)
        self.state_raw = made.raw
        self._write_again(before, places_written(before.items, beyond, self.replica.own))

    def _write_again(self, before: Before, written: PlacesWritten) -> None:
        outdone = find_outdone(before, self.replica, written)
        self.stored += write_again(self.replica, self.key, outdone, lambda: NOW)

    def adopt(self, other: SimReplica) -> bool:
        """Take over the state that the other keeps in place of entries, if some of these are not here."""
        ledger, seq = self.replica.ledger, other.replica.ledger.base
        checkpoint = ledger.rights.checkpoints.get(seq)
        if seq <= ledger.base or checkpoint is None or ledger.reaches(checkpoint):
            return False
        state = read_state(other.state_raw, checkpoint.state)
        check_cut(checkpoint, state)
        before = Before(self.replica.ydoc, ledger.items)
        known, self.stored = self.stored, not_covered(checkpoint, self.stored)
        beyond, own = counting_beyond(self.replica, checkpoint, self.stored), self.replica.own
        rejected = own_rejected(self.replica, state, known)
        written = places_written(before.items, beyond, own)
        written |= places_written(before.items, rejected, own, state.rejected)
        self.state_raw = other.state_raw
        self._settle(settle(self.replica, Absorbed(), {}, self.stored, Base(seq, state)))
        self._write_again(before, written)
        return True

    def hear(self, other: SimReplica) -> bool:
        """Learn all that counts for the other; whether anything changed."""
        sent = other.counting
        changed = self.receive([entry for entry in sent if entry.body.lane is Lane.CONTROL], other.frauds.values())
        changed |= self.adopt(other)
        return self.receive(sent) or changed

    def reload(self) -> None:
        """Take what a snapshot holds in place of what is in memory; whatever was replaced is in graves then."""
        raw = dump_snapshot(bury_replaced(take_snapshot(self.replica), Worth(0, 0)))
        loaded = load_snapshot(self.genesis, self.key.peer_id.raw, self.frauds, raw)
        assert loaded is not None
        self.replica = loaded

    # what no honest author does

    def rewind(self, number: int) -> Entry:
        """Go on after an earlier entry of ours, and leave out what we wrote since."""
        lane = Lane.CONTROL if number % 7 == 0 else Lane.DATA
        chain = self.replica.ledger.chain(ChainId(self.key.peer_id.raw, lane))
        own = [entry for entry in self.stored if entry.chain == (self.key.peer_id.raw, lane)]
        places = [(0, self.genesis.namespace.raw), *((entry.body.seq, entry.hash) for entry in own)]
        after, prev = places[number % len(places)]
        seq = max(chain.head, self.replica.tops[lane], after) + 1 + number // 16 % 3
        client = client_id(self.genesis.namespace, self.key.peer_id.raw, seq)
        payload = update({client: (0, [item(8, b"\x01\x7d" + uint(number % 64), root="list:log")])})
        entry = self.replica.write(self.key, payload, NOW)
        body = replace(entry.body, seq=seq, after=after, prev=prev, time=max(entry.body.time, NOW + seq))
        if lane is Lane.CONTROL:
            body = replace(
                body, lane=lane, kind=Kind.GRANT, deps=(), payload=encode_action(Grant(body.author, Role.WRITER))
            )
        entry = sign_entry(self.key, self.genesis.namespace, body)
        self.receive([entry])
        return entry

    def damage(self, number: int) -> Entry:
        """An entry of ours whose update is not as it was written."""
        entry = self.replica.write(self.key, b"\0\0", NOW)
        # Of all that was ever written: whether some of it is in a grave must make no other entry.
        payload = bytearray(canonical_update(self.replica.content().whole()) if number % 3 else b"\1\1\0\0")
        payload[number % len(payload)] ^= 1 << number // 256 % 8
        return sign_entry(self.key, self.genesis.namespace, replace(entry.body, payload=bytes(payload)))

    def twin(self, skip: int = 0) -> SimReplica:
        """Another replica with our key, that knows the same, and leaves out ``skip`` numbers."""
        twin = SimReplica(self.genesis, self.key)
        twin.stored, twin.frauds, twin.state_raw = list(self.stored), dict(self.frauds), self.state_raw
        twin.replica.ledger.base = self.replica.ledger.base
        twin.restart()
        if skip:
            twin.replica.used(Lane.DATA, max(twin.replica.tops[Lane.DATA], 0) + skip)
        return twin


def converge(replicas: Sequence[SimReplica]) -> None:
    """Let each tell each other all that counts for it, until nobody learns anything."""
    for replica in replicas:
        replica.take_up()
    for _ in range(4 * len(replicas) + 4):
        changed = False
        for one in replicas:
            for other in replicas:
                if one is not other:
                    changed |= other.hear(one)
        if not changed:
            return
    raise AssertionError("they go on telling each other news")


def fold_all(replicas: Sequence[SimReplica]) -> None:
    """Have all fold what they can, and tell what they have written again, until there is nothing left."""
    while sum(replica.fold() for replica in replicas):
        converge(replicas)


def _set(doc: Any, number: int) -> None:
    value = {"a": number, "b": [1, {"x": 1, "y": None}], "c": "c"} if number % 7 == 6 else number
    doc.get("map:settings", type=Map)[f"k{number % 3}"] = value


def _delete(doc: Any, number: int) -> None:
    settings = doc.get("map:settings", type=Map)
    if f"k{number % 3}" in settings:
        del settings[f"k{number % 3}"]


def _append(doc: Any, number: int) -> None:
    log = doc.get("list:log", type=Array)
    log.insert(number % (len(log) + 1), number)


def _pop(doc: Any, number: int) -> None:
    log = doc.get("list:log", type=Array)
    if len(log):
        del log[number % len(log)]


def _type(doc: Any, number: int) -> None:
    notes = doc.get("text:notes", type=Text)
    notes.insert(number % (len(notes) + 1), "abc"[: number % 3 + 1])


_WRITES = (_set, _append, _type, _delete, _pop)
