"""Checks what the file holds as if it came from a stranger: every signature, every chain, every proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lattica.errors import AddressError, EntryRefusedError
from lattica.identity import PeerId
from lattica.store.absorb import prove_fraud
from lattica.store.canonical import canonical_update
from lattica.store.description import AuthorInfo, describe_authors
from lattica.store.disk_batch import Record
from lattica.store.disk_view import StoreView
from lattica.store.entry import ChainId, Entry, Lane, Verifier, read_entry
from lattica.store.folding import checked_base
from lattica.store.ledger import Base, Fraud
from lattica.store.loading import load_replica
from lattica.store.namespace import Genesis, NamespaceId, read_genesis
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.snapshot import VERSION, load_snapshot

Proof: TypeAlias = tuple[bytes, int, int, bytes, bytes]
"""Author, lane, number and the two entries, as the disk has them."""


@dataclass(slots=True, kw_only=True)
class Verified:
    """What was found out about one namespace.

    Attributes:
        namespace: Which.
        entries: How many there are.
        vouched: Those whose own signature is wrong, while a good later entry of their chain vouches for them by its
            hash: they count like others.
        idle: Entries of ours that do not count any more; kept, as their numbers must not be used again.
        authors: Who may write and has written, by the entries that count.
        frauds: Authors whose fraud is proven, with the number from which on nothing of theirs counts.
        frontier: Its hash; empty if the namespace's beginning is not right.
        problems: A sentence for each thing that is wrong.
    """

    namespace: NamespaceId
    entries: int = 0
    vouched: int = 0
    idle: int = 0
    authors: Sequence[AuthorInfo] = ()
    frauds: Sequence[tuple[PeerId, int]] = ()
    frontier: bytes = b""
    problems: list[str] = field(default_factory=list)


async def verify_namespace(disk: StoreView, namespace: NamespaceId, genesis: bytes, own: bytes) -> Verified:
    """Check all that the file holds of a namespace.

    Args:
        disk: The file.
        namespace: Which.
        genesis: As the file has it.
        own: Our peer ID.
    """
    result = Verified(namespace=namespace)
    records = []
    row = 0
    while found := await disk.records(namespace.raw, row):
        records += found
        row = found[-1][0]
    result.entries = len(records)
    entries = _readable(records, result)
    good = _signed(entries, result)
    frozen = _proven(await disk.proofs(namespace.raw), result)
    result.frauds = [(PeerId(chain.author), fraud.seq) for chain, fraud in frozen.items()]
    try:
        beginning = read_genesis(genesis, namespace)
    except EntryRefusedError as error:
        result.problems.append(f"its beginning is not right: {error.reason}")
        return result
    replica, idle = replay(beginning, own, frozen, good, await _base(disk, beginning, good, result))
    for entry in idle:
        if entry.body.author == own:
            result.idle += 1
        else:
            result.problems.append(f"{name_entry(entry)} is kept, though it does not count")
    result.authors = describe_authors(replica.ledger)
    result.frontier = replica.ledger.frontier().digest()
    await _check_snapshot(disk, replica, result)
    return result


def name_entry(entry: Entry) -> str:
    """An entry in a sentence."""
    lane = "entry" if entry.body.lane is Lane.DATA else "control entry"
    return f"{lane} {entry.body.seq} of {_name(entry.body.author)}"


def _name(author: bytes) -> str:
    try:
        return str(PeerId(author))
    except AddressError:
        return f"nobody ({author.hex()})"


def _readable(records: Iterable[tuple[int, Record]], result: Verified) -> list[Entry]:
    """The entries that are what the file says that they are."""
    entries = []
    for row, record in records:
        where = f"row {row}, entry {record.seq} of {_name(record.author)}"
        try:
            entry = read_entry(record.raw, result.namespace)
        except EntryRefusedError as error:
            result.problems.append(f"{where}: {error.reason}")
            continue
        if entry.hash != record.hash:
            result.problems.append(f"{where}: its hash is another than when it was stored")
        elif (*entry.chain, entry.body.seq) != (record.author, record.lane, record.seq):
            result.problems.append(f"{where}: it is in the place of {name_entry(entry)}")
        else:
            entries.append(entry)
    return entries


def _signed(entries: Sequence[Entry], result: Verified) -> list[Entry]:
    """The entries whose signatures are good, or for which later ones of their chain vouch, which hold their hashes."""
    verifier = Verifier(result.namespace)
    vouched: set[tuple[ChainId, bytes]] = set()
    bad = set()
    for entry in reversed(entries):
        try:
            verifier.verify(entry)
        except EntryRefusedError as error:
            if (entry.chain, entry.hash) not in vouched:
                result.problems.append(f"{name_entry(entry)}: {error.reason}")
                bad.add(entry.hash)
                continue
            result.vouched += 1
        vouched.add((entry.chain, entry.body.prev))
    return [entry for entry in entries if entry.hash not in bad]


def _proven(proofs: Iterable[Proof], result: Verified) -> dict[ChainId, Fraud]:
    verifier = Verifier(result.namespace)
    frozen = {}
    for author, lane, seq, one, other in proofs:
        try:
            entry, fraud = prove_fraud(result.namespace, one, other, verifier)
        except EntryRefusedError as error:
            result.problems.append(f"the proof of a fraud of {_name(author)} is none: {error.reason}")
            continue
        if (*entry.chain, fraud.seq) == (author, lane, seq):
            frozen[entry.chain] = fraud
        else:
            result.problems.append(f"the proof of a fraud of {_name(author)} is about {name_entry(entry)}")
    return frozen


async def _base(disk: StoreView, genesis: Genesis, entries: Sequence[Entry], result: Verified) -> Base | None:
    raw, seq = await disk.base(genesis.namespace.raw) or (b"", 0)
    try:
        return checked_base(genesis, entries, seq, raw) if seq else None
    except EntryRefusedError as error:
        result.problems.append(f"what stands for dropped entries is not right: {error.reason}")
        return None


async def _check_snapshot(disk: StoreView, replica: Replica, result: Verified) -> None:
    """A snapshot is what is used when the document is opened; it has to be what follows from the entries."""
    genesis, frozen = replica.genesis, replica.ledger.frozen
    raw, _ = await disk.snapshot(genesis.namespace.raw) or (b"", 0)
    if not raw or raw[4:8] != VERSION.to_bytes(4):  # an older program's is not used
        return
    if load_snapshot(genesis, replica.own, frozen, raw) is None:
        result.problems.append("its snapshot is damaged; it is not used, and made anew")
    elif not result.problems:
        loaded = await load_replica(disk, genesis, replica.own)
        if loaded.ledger.frontier() != replica.ledger.frontier() or _content(loaded) != _content(replica):
            result.problems.append("its snapshot is not what follows from its entries")


def _content(replica: Replica) -> bytes:
    return canonical_update(replica.content().whole())
