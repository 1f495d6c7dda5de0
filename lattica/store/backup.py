"""Backups: namespaces out of the file into an archive, and back, merged into what is there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from lattica.background import Background
from lattica.errors import ArchiveError, EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.absorb import check_signatures, prove_fraud
from lattica.store.archive import ArchivePart, EntryPart, ProofPart, StatePart, read_archive
from lattica.store.archive import Genesis as GenesisPart
from lattica.store.clock import check_time
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch
from lattica.store.disk_view import StoreView
from lattica.store.entry import Entry, Lane, Verifier, read_entry
from lattica.store.folding import checked_base
from lattica.store.journal import Journal
from lattica.store.loading import load_replica, record_of, stored_entries
from lattica.store.namespace import Genesis, NamespaceId, read_genesis


@dataclass(frozen=True, slots=True)
class Backup:
    """One namespace of an archive; all signatures in it are good.

    Attributes:
        genesis: The namespace's.
        entries: In order.
        proofs: Of frauds: two entries each.
        states: Number and state of the checkpoint that stands for entries that are not there, if there is one.
    """

    genesis: Genesis
    entries: list[Entry] = field(default_factory=list)
    proofs: list[tuple[bytes, bytes]] = field(default_factory=list)
    states: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What became of a namespace of an archive.

    Attributes:
        namespace: Which.
        entries: How many the archive has.
        added: How many of them are new here and count.
        refused: How many break the rules, which no replica keeps.
    """

    namespace: NamespaceId
    entries: int
    added: int
    refused: int


async def backup_parts(disk: StoreView, genesis: Genesis) -> list[ArchivePart]:
    """A namespace as the parts of an archive: entries in order, ours that do not count included."""
    raw = genesis.namespace.raw
    parts: list[ArchivePart] = [GenesisPart(raw, genesis.raw)]
    state, seq = await disk.base(raw) or (b"", 0)
    if seq:
        parts.append(StatePart(seq, state))
    row = 0
    while records := await disk.records(raw, row):
        parts += [EntryPart(record.raw) for _, record in records]
        row = records[-1][0]
    parts += [ProofPart(one, other) for *_, one, other in await disk.proofs(raw)]
    return parts


def read_backup(file: BinaryIO) -> list[Backup]:
    """All namespaces of an archive, once all of it is read and every signature in it is checked.

    Raises:
        ArchiveError: It is no archive, cut off, damaged, or something in it is forged or from the future.
        OSError: It cannot be read.
    """
    try:
        backups = list(_gather(read_archive(file)))
        for backup in backups:
            _check(backup)
    except EntryRefusedError as error:
        raise ArchiveError(f"it holds what no replica takes ({error.reason}); take another copy of it") from error
    return backups


def _gather(parts: Iterable[ArchivePart]) -> Iterable[Backup]:
    backup: Backup | None = None
    for part in parts:
        if isinstance(part, GenesisPart):
            if backup is not None:
                yield backup
            backup = Backup(read_genesis(part.raw, NamespaceId(part.namespace)))
        elif backup is not None and isinstance(part, EntryPart):
            backup.entries.append(read_entry(part.raw, backup.genesis.namespace))
        elif backup is not None and isinstance(part, ProofPart):
            backup.proofs.append((part.one, part.other))
        elif backup is not None and isinstance(part, StatePart):
            backup.states.append((part.seq, part.raw))
    if backup is not None:
        yield backup


def _check(backup: Backup) -> None:
    verifier = Verifier(backup.genesis.namespace)
    check_signatures(backup.entries, verifier)
    for one, other in backup.proofs:
        prove_fraud(backup.genesis.namespace, one, other, verifier)
    for seq, raw in backup.states:
        checked_base(backup.genesis, backup.entries, seq, raw)
    for entry in backup.entries:
        check_time(entry.body.time, time.time())


async def restore(key: IdentityKey, disk: StoreDisk, tasks: Background, backup: Backup) -> Restored:
    """Merge a namespace of an archive into what is here, durably. Once more, it adds nothing.

    Entries of ours that do not count are kept, too: their numbers must not be used again.

    Raises:
        ReplicaStoreError: It cannot be kept.
    """
    genesis = backup.genesis
    beginning = Batch(genesis.namespace.raw)
    beginning.genesis(genesis.raw)
    await disk.commit(beginning)
    before = await load_replica(disk, genesis, key.peer_id.raw)
    counted = {entry.hash for entry in backup.entries if before.counts(entry)}
    journal = Journal(key, disk, before, tasks)
    refused = await _receive(journal, backup)
    await journal.close()
    await _keep_ours(journal, disk, backup)
    return Restored(
        namespace=genesis.namespace,
        entries=len(backup.entries),
        added=sum(journal.replica.counts(entry) and entry.hash not in counted for entry in backup.entries),
        refused=refused,
    )


async def _receive(journal: Journal, backup: Backup) -> int:
    """How many entries break the rules. Rights come first, and say what a checkpoint's state may be."""
    control = [entry.raw for entry in backup.entries if entry.body.lane is Lane.CONTROL]
    data = [entry.raw for entry in backup.entries if entry.body.lane is Lane.DATA]
    proven = [read_entry(one, backup.genesis.namespace) for one, _ in backup.proofs]
    authors = {entry.body.author for entry in [*backup.entries, *proven]}  # whoever restores it wants them all
    _vouch(journal, authors)
    refused = len((await journal.receive(control, backup.proofs)).refused)
    for seq, raw in backup.states:
        await journal.upkeep.checkpoints.adopt(seq, raw)
    _vouch(journal, authors)
    return refused + len((await journal.receive(data)).refused)


def _vouch(journal: Journal, authors: Iterable[bytes]) -> None:
    for author in authors:
        journal.replica.ledger.crowd.vouch(author)


async def _keep_ours(journal: Journal, disk: StoreDisk, backup: Backup) -> None:
    own = journal.replica.own
    numbers = {(entry.chain, entry.body.seq) for entry in await stored_entries(disk, backup.genesis.namespace)}
    batch = Batch(backup.genesis.namespace.raw)
    for entry in backup.entries:
        covered = journal.replica.ledger.chain(entry.chain).base
        if entry.body.author == own and entry.body.seq > covered and (entry.chain, entry.body.seq) not in numbers:
            batch.put(record_of(entry))
    if batch.changes:
        await disk.commit(batch)
