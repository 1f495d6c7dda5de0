"""What the benchmark of lists and texts measures is what it says: all that is written counts, and little is left."""

from __future__ import annotations

from typing import Any

import pytest
from pycrdt import Array, Doc, Text

from benchmarks.store_documents import open_genesis
from benchmarks.store_edits import LIST, LIVING, TEXT, TURNS, edited
from lattica.store.ledger import Verdict
from lattica.store.replica import Replica
from lattica.store.testing import key_of

AUTHORS = [key_of(number) for number in (1, 2, 3)]


def held(doc: Doc[Any]) -> tuple[list[float], list[str]]:
    return doc.get(LIST, type=Array).to_py() or [], str(doc.get(TEXT, type=Text)).split()


@pytest.mark.parametrize("noun", TURNS)
def test_all_edits_count_and_as_much_is_left_as_is_said(noun: str) -> None:
    genesis = open_genesis(AUTHORS[0])
    entries, plain = edited(AUTHORS, genesis, TURNS[noun](1000))
    assert len(entries) == 1000
    assert {entry.body.author for entry in entries} == {author.peer_id.raw for author in AUTHORS}

    replica = Replica(genesis, AUTHORS[0].peer_id.raw)
    assert {replica.add(entry) for entry in entries} == {Verdict.ADDED}
    doc: Doc[Any] = Doc()
    doc.apply_update(plain)
    assert held(replica.ydoc) == held(doc)
    [left] = [len(part) for part in held(doc) if part]
    assert 0.9 * LIVING <= left <= LIVING
