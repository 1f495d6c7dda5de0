"""A replica as bytes, for our own disk: a namespace is opened without taking in all its entries one by one.

Nothing in it is checked but that it is what was written, so it never goes to others, nor comes from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from blake3 import blake3
from msgspec import structs

from lattica.store.entry import ChainId, Lane
from lattica.store.graves import WORTH, Content, Worth
from lattica.store.ledger import Fraud, LedgerDump
from lattica.store.namespace import Genesis
from lattica.store.replica import Replica
from lattica.store.yupdate_wire import read_uint

VERSION: Final = 6
"""Changes with what a snapshot holds, and with the rules by which entries count: then all are judged anew."""

_MAGIC = b"LatS" + VERSION.to_bytes(4)
_CHECKSUM_BYTES = 32


class Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A replica, copied: it may change meanwhile.

    Attributes:
        namespace: Its ID.
        own: Whose replica it is.
        frozen: Chains whose authors' frauds were proven, and the numbers from which on nothing of them counts.
        tops: The highest numbers that ``own`` has used, by lane.
        ledger: The entries that count.
        document: What they make.
    """

    namespace: bytes
    own: bytes
    frozen: list[tuple[ChainId, int]]
    tops: list[int]
    ledger: LedgerDump
    document: Content


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


def take_snapshot(replica: Replica) -> Snapshot:
    """All that `load_snapshot` needs to make such a replica; 28 bytes an entry or fewer, and the document."""
    return Snapshot(
        namespace=replica.genesis.namespace.raw,
        own=replica.own,
        frozen=_frozen(replica.ledger.frozen),
        tops=[replica.tops[lane] for lane in Lane],
        ledger=replica.ledger.dump(),
        document=replica.content(),
    )


def is_faithful(replica: Replica) -> bool:
    """Whether nobody has written to the document but by entries. A snapshot would keep that for ever."""
    raw = replica.ydoc.get_state()
    count, at = read_uint(raw, 0)
    clocks: dict[int, int] = {}
    for _ in range(count):
        client, at = read_uint(raw, at)
        clocks[client], at = read_uint(raw, at)
    return clocks == replica.ledger.ends()


def bury_replaced(snapshot: Snapshot, worth: Worth = WORTH) -> Snapshot:
    """The snapshot with values that were replaced taken out of the document. May run in a thread, for some seconds."""
    return structs.replace(snapshot, document=snapshot.document.buried(snapshot.ledger.items, worth))


def dump_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes. May run in a thread."""
    body = _encode(snapshot)
    return b"".join((_MAGIC, blake3(body).digest(), body))


def load_snapshot(genesis: Genesis, own: bytes, frozen: Mapping[ChainId, Fraud], raw: bytes) -> Replica | None:
    """A replica as the one that ``raw`` is a snapshot of.

    ``None``: it is damaged, from another version, somebody else's or of another namespace, or other frauds were proven.
    """
    snapshot = _read(raw)
    if snapshot is None or (snapshot.namespace, snapshot.own) != (genesis.namespace.raw, own):
        return None
    if snapshot.frozen != _frozen(frozen):
        return None
    replica = Replica(genesis, own, frozen)
    replica.ledger.load(snapshot.ledger)
    for lane, top in zip(Lane, snapshot.tops, strict=True):
        replica.used(lane, top)  # while the document is empty: with another client ID it is copied
    replica.take_content(snapshot.document)
    replica.snapshotted = replica.ledger.size
    return replica


def _read(raw: bytes) -> Snapshot | None:
    start = len(_MAGIC) + _CHECKSUM_BYTES
    body = memoryview(raw)[start:]
    if len(raw) < start or raw[: len(_MAGIC)] != _MAGIC or blake3(body).digest() != raw[len(_MAGIC) : start]:
        return None
    return _decode(body)


def _frozen(frauds: Mapping[ChainId, Fraud]) -> list[tuple[ChainId, int]]:
    return sorted((chain, fraud.seq) for chain, fraud in frauds.items())
