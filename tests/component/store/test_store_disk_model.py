"""Any batches in any groups leave in the file what they leave in a few dictionaries."""

from __future__ import annotations

import asyncio
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from store_batches import ALICE, BOB, NAMESPACE, OTHER, record

from lattica.errors import BatchRefusedError
from lattica.store.disk import Batch, Record, StoreDisk, open_store_disk
from lattica.store.disk_batch import (
    DropChange,
    ForgetChange,
    GenesisChange,
    ProofChange,
    SnapshotChange,
)

Place = tuple[bytes, int, int]


@dataclass
class Namespace:
    """What the file should hold of one."""

    genesis: bytes
    records: dict[Place, Record] = field(default_factory=dict)
    proofs: dict[tuple[bytes, int], tuple[int, bytes, bytes]] = field(default_factory=dict)
    snapshot: tuple[bytes, int] | None = None


Model = dict[bytes, Namespace]


def apply(model: Model, batch: Batch) -> Model:
    """What the batch makes of it.

    Raises:
        KeyError: It does not fit.
    """
    model = deepcopy(model)
    for change in batch.changes:
        if isinstance(change, GenesisChange):
            model.setdefault(batch.namespace, Namespace(change.raw))
        elif isinstance(change, ForgetChange):
            model.pop(batch.namespace, None)
        else:
            apply_change(model[batch.namespace], change)
    return model


def apply_change(space: Namespace, change: object) -> None:
    match change:
        case Record(author, lane, seq, hash_):
            if space.records.setdefault((author, lane, seq), change).hash != hash_:
                raise KeyError(seq)
        case DropChange(author, lane, first, last):
            for place in [each for each in space.records if each[:2] == (author, lane) and first <= each[2] <= last]:
                del space.records[place]
        case ProofChange(author, lane, seq, one, other):
            kept = space.proofs.setdefault((author, lane), (seq, one, other))
            space.proofs[author, lane] = min(kept, (seq, one, other))
        case SnapshotChange(raw, row):
            space.snapshot = (raw, row)


async def read(disk: StoreDisk) -> Model:
    found = {}
    for id_, genesis in (await disk.namespaces()).items():
        records = {(each.author, each.lane, each.seq): each for _, each in await disk.records(id_)}
        proofs = {(author, lane): (seq, one, other) for author, lane, seq, one, other in await disk.proofs(id_)}
        found[id_] = Namespace(genesis, records, proofs, await disk.snapshot(id_))
    return found


authors = st.sampled_from([ALICE, BOB])
lanes = st.sampled_from([0, 1])
seqs = st.integers(1, 4)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    batch = Batch(draw(st.sampled_from([NAMESPACE, NAMESPACE, OTHER])))
    for kind in draw(st.lists(st.sampled_from("gpppppppddfos"), min_size=1, max_size=6)):
        author, lane, seq = draw(authors), draw(lanes), draw(seqs)
        match kind:
            case "g":
                batch.genesis(b"genesis %d" % seq)
            case "p":
                batch.put(record(seq, author, lane=lane, salt=draw(st.sampled_from([b"", b"", b"other"]))))
            case "d":
                batch.drop(author, lane, seq, draw(st.sampled_from([None, seq, 4])))
            case "o":
                batch.proof(author, lane, seq, b"one %d" % seq, b"other")
            case "s":
                batch.snapshot(b"snapshot %d" % seq, seq)
            case _:
                batch.forget()
    return batch


def begun() -> Batch:
    batch = Batch(NAMESPACE)
    batch.genesis(b"genesis")
    return batch


async def check(path: Path, groups: list[list[Batch]]) -> None:
    model: Model = {}
    async with open_store_disk(path) as disk:
        for group in [[begun()], *groups]:
            outcomes = await asyncio.gather(*map(disk.commit, group), return_exceptions=True)
            for batch, outcome in zip(group, outcomes, strict=True):
                assert isinstance(outcome, int | BatchRefusedError)
                try:
                    model = apply(model, batch)
                    assert isinstance(outcome, int)
                except KeyError:
                    assert isinstance(outcome, BatchRefusedError)
            found = await read(disk)
            assert found == model
            # The order of the entries is that of the rows.
            assert [list(space.records) for space in found.values()] == [list(model[id_].records) for id_ in found]
    async with open_store_disk(path) as disk:
        assert await read(disk) == model


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(batches(), max_size=5), max_size=4))
def test_the_file_holds_what_a_model_holds(groups: list[list[Batch]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder) / "store.sqlite", groups))
