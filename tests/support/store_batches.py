"""Batches and records for tests of the store on disk."""

from __future__ import annotations

import hashlib

from lattica.store.disk_batch import Batch, Record

NAMESPACE = bytes(range(32))
OTHER = bytes(range(1, 33))
ALICE = b"\x00\x24alice"
BOB = b"\x00\x24bob"
DATA = 1


def record(seq: int, author: bytes = ALICE, *, lane: int = DATA, salt: bytes = b"", size: int = 10) -> Record:
    """An entry whose hash and raw bytes follow from the arguments."""
    raw = b"%s/%d/%d/%s/" % (author, lane, seq, salt) + bytes(size)
    return Record(author, lane, seq, hashlib.sha256(raw).digest(), raw)


def batch(*records: Record, namespace: bytes = NAMESPACE) -> Batch:
    """Puts the records."""
    made = Batch(namespace)
    for each in records:
        made.put(each)
    return made


def genesis(namespace: bytes = NAMESPACE) -> Batch:
    """Makes the namespace."""
    made = Batch(namespace)
    made.genesis(b"genesis of " + namespace)
    return made
