"""What is put between elements that a checkpoint's state has left out, by who has not heard of that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import pytest
from blake3 import blake3
from ledger_replicas import SimReplica, converge, fold_all, key_of
from msgspec.msgpack import decode, encode
from msgspec.structs import replace
from placed_updates import document_of, no_items, settle, shown, take
from pycrdt import Array, Doc
from yjs_bytes import item, update

from lattica.errors import DocumentUpdateError, EntryRefusedError
from lattica.store.anchors import Anchor, Anchors, Gap, joined, packed, unpacked
from lattica.store.burial import as_placed
from lattica.store.canonical import canonical_update
from lattica.store.entry import Entry
from lattica.store.folding import folds_of
from lattica.store.ledger import Base, Ledger
from lattica.store.namespace import Policy, create_genesis
from lattica.store.state import State, read_state
from lattica.store.yupdate import ItemId, Kind, Struct, read_update
from lattica.store.yupdate_places import ItemParents, ItemsDump

Id = tuple[int, int]
Near = tuple[Id | None, Id | None]

LIST = "list"
VALUE = b"\x01\x77\x01"


def anchor(client: int, first: int, end: int, left: Id | None = None, right: Id | None = None) -> Anchor:
    return Anchor(client, first, end, LIST, left, right)


def struct(origin: Id | None, right: Id | None) -> Struct:
    """An element that somebody puts between these two."""
    left_id, right_id = (None if near is None else ItemId(*near) for near in (origin, right))
    return Struct(0, 1, Kind.ANY, left_id, right_id, None, None, 3)


# Anchors


def test_runs_that_were_between_the_same_are_one() -> None:
    """The first three are, whichever comes first; the others differ in one thing each."""
    apart = [
        anchor(5, 7, 8, (3, 0), (3, 2)),
        anchor(5, 8, 9, (3, 1), (3, 2)),
        anchor(5, 9, 10, (3, 1)),
        anchor(5, 11, 12, (3, 1)),
        replace(anchor(5, 12, 13, (3, 1)), root="other"),
        anchor(6, 13, 14, (3, 1)),
    ]
    same = [anchor(5, first, end, (3, 0), (3, 1)) for first, end in ((1, 3), (3, 4), (4, 7))]
    for found in permutations(same):
        assert joined([*apart[::-1], *found]) == [anchor(5, 1, 7, (3, 0), (3, 1)), *apart]
    assert joined(()) == []


def test_they_are_packed_by_what_they_are_between() -> None:
    anchors = [
        anchor(5, 2, 4, (3, 0)),
        anchor(5, 4, 5, None, (3, 0)),
        anchor(5, 9, 12, (3, 0)),
        anchor(6, 0, 1, (3, 0)),
        replace(anchor(7, 8, 9, (3, 0)), root="other"),
    ]
    gaps = packed(anchors)
    assert gaps == [
        Gap(LIST, (3, 0), None, ((5, (2, 2, 5, 3)), (6, (0, 1)))),
        Gap(LIST, None, (3, 0), ((5, (4, 1)),)),
        Gap("other", (3, 0), None, ((7, (8, 1)),)),
    ]
    for found in permutations(gaps):
        assert unpacked(found) == anchors
    assert list(Anchors(anchors)) == anchors
    assert packed(()) == []
    assert unpacked(()) == []
    assert not Anchors()
    assert Anchors(anchors)


@pytest.mark.parametrize(
    ("near", "placed"),
    [
        pytest.param(((5, 4), (5, 6)), ((5, 3), (5, 6)), id="the left one is gone"),
        pytest.param(((5, 5), None), ((5, 3), None), id="the left one is gone, at the end"),
        pytest.param(((5, 3), (5, 4)), ((5, 3), (5, 6)), id="the right one is gone"),
        pytest.param((None, (5, 5)), (None, (5, 6)), id="the right one is gone, at the start"),
        pytest.param(((5, 4), (5, 5)), ((5, 3), (5, 6)), id="both are gone, together"),
        pytest.param(((5, 1), (5, 9)), (None, None), id="both are gone, apart"),
        pytest.param(((5, 1), (5, 5)), (None, (5, 6)), id="the left one is gone with all on its left"),
        pytest.param(((5, 4), (5, 8)), ((5, 3), None), id="the right one is gone with all on its right"),
        pytest.param(((5, 5), (5, 1)), ((5, 3), (5, 3)), id="both are gone, and were the other way round"),
        pytest.param(((6, 0), (6, 2)), (None, None), id="all of the list is gone"),
    ],
)
def test_what_was_between_some_that_are_gone_is_between_those_that_are_left(near: Near, placed: Near) -> None:
    """Of client 5's elements the fourth and the seventh are left."""
    anchors = Anchors(
        [anchor(5, 0, 3, None, (5, 3)), anchor(5, 4, 6, (5, 3), (5, 6)), anchor(5, 7, 10, (5, 6)), anchor(6, 0, 3)]
    )
    found = anchors.placed(struct(*near))
    assert (found.origin, found.right_origin) == placed
    assert found.parent == (LIST if placed == (None, None) else None)
    assert found._replace(origin=None, right_origin=None, parent=None) == struct(None, None)


@pytest.mark.parametrize("near", [(None, None), ((5, 3), None), ((5, 3), (5, 6)), ((7, 4), (2, 4)), ((5, 12), (5, 10))])
def test_what_is_between_others_stays_as_it_is(near: Near) -> None:
    anchors = Anchors([anchor(5, 4, 6, (5, 3), (5, 6)), anchor(5, 7, 10, (5, 6)), anchor(5, 11, 12), anchor(6, 0, 3)])
    written = struct(*near)
    assert anchors.placed(written) is written
    assert Anchors().placed(written) is written


def test_a_state_says_where_was_what_had_been_deleted_by_the_state_before() -> None:
    """Of abcdXYefghi the first and the last are gone, and what is between c and g."""
    known = no_items()
    doc = document_of([])
    letters = item(8, b"\x09" + b"".join(b"\x77\1" + letter.encode() for letter in "abcdefghi"), root=LIST)
    inserted = item(8, b"\2\x77\1X\x77\1Y", origin=(5, 3), right=(5, 4))
    for raw in (
        update({5: (0, [letters])}),
        update({9: (0, [inserted])}),
        update({}, {5: [(0, 1), (3, 3), (8, 1)], 9: [(0, 2)]}),
    ):
        doc.apply_update(take(known, raw))
    state = settle(doc, known)
    assert state.anchors == []
    bare = settle(document_of([state.update]), state.known())
    assert shown(document_of([bare.update]))[0] == list("bcgh")
    assert bare.anchors == [
        anchor(5, 0, 1, None, (5, 1)),
        anchor(5, 3, 6, (5, 2), (5, 6)),
        anchor(5, 8, 9, (5, 7), None),
        anchor(9, 0, 2, (5, 2), (5, 6)),
    ]


# With a state


def state_update() -> bytes:
    """Two elements of a list are left, 5:2 and 5:5; 9:0 is one of another list, 9:1 a key's value."""
    first, last = item(8, VALUE + b"b", root=LIST), item(8, VALUE + b"e", origin=(5, 2))
    others = [item(8, VALUE + b"o", root="other"), item(8, VALUE + b"v", root="map", key="k")]
    return update({5: (0, [b"\0\2", first, b"\0\2", last]), 7: (0, [b"\0\x0a"]), 9: (0, others)})


GOOD = [anchor(5, 0, 2, None, (5, 2)), anchor(5, 3, 5, (5, 2), (5, 5)), anchor(7, 0, 9, (5, 5)), anchor(7, 9, 10)]


def begun(anchors: Sequence[Anchor] = GOOD) -> ItemParents:
    known = no_items()
    known.begin(read_update(state_update()), anchors)
    return known


@pytest.mark.parametrize(
    ("near", "order"),
    [
        pytest.param((None, (5, 0)), "xbe", id="before the first that is gone"),
        pytest.param(((5, 0), (5, 1)), "xbe", id="between two that are gone"),
        pytest.param(((5, 1), (5, 2)), "xbe", id="before the first that is left"),
        pytest.param(((5, 2), (5, 3)), "bxe", id="after the first that is left"),
        pytest.param(((5, 3), (5, 5)), "bxe", id="before the second that is left"),
        pytest.param(((5, 5), (7, 3)), "bex", id="after the second that is left"),
        pytest.param(((7, 3), None), "bex", id="after all"),
        pytest.param(((5, 3), (7, 5)), "bex", id="around one that is left, by a higher client ID"),
        pytest.param(((7, 1), (5, 4)), "bxe", id="the other way round"),
        pytest.param(((7, 1), (5, 1)), "xbe", id="the other way round at the start"),
        pytest.param(((7, 1), (5, 3)), "bxe", id="the other way round around one that is left"),
    ],
)
def test_documents_show_what_was_put_beside_some_that_are_gone(near: Near, order: str) -> None:
    raw = update({8: (0, [item(8, VALUE + b"x", root=LIST, origin=near[0], right=near[1])])})
    doc = document_of([state_update(), take(begun(), raw)])
    assert shown(doc)[0] == list(order)


@pytest.mark.parametrize(
    ("anchors", "reason"),
    [
        pytest.param([anchor(7, 0, 5), anchor(7, 4, 10)], "are gone which are not", id="they overlap"),
        pytest.param([anchor(7, 5, 10), anchor(7, 0, 5)], "are gone which are not", id="a client's are out of order"),
        pytest.param([anchor(7, 0, 5), anchor(5, 0, 2)], "are gone which are not", id="clients are out of order"),
        pytest.param([anchor(7, 0, 5), anchor(7, 0, 5)], "are gone which are not", id="one comes twice"),
        pytest.param([anchor(7, 3, 3)], "are gone which are not", id="an empty one"),
        pytest.param([anchor(7, 4, 3)], "are gone which are not", id="its end is before its start"),
        pytest.param([anchor(7, -1, 3)], "are gone which are not", id="before a client's first element"),
        pytest.param([anchor(7, 5, 11)], "are gone which are not", id="beyond a client's end"),
        pytest.param([anchor(7, 10, 11)], "are gone which are not", id="at a client's end"),
        pytest.param([anchor(8, 0, 1)], "are gone which are not", id="of an unknown client"),
        pytest.param([anchor(5, 2, 3)], "are gone which are not", id="over one that lives"),
        pytest.param([anchor(5, 1, 5)], "are gone which are not", id="around one that lives"),
        pytest.param([anchor(9, 1, 2)], "are gone which are not", id="over a key's value"),
        pytest.param([anchor(7, 0, 5, (9, 0))], "not where", id="after one of another list"),
        pytest.param([anchor(7, 0, 5, None, (9, 0))], "not where", id="before one of another list"),
        pytest.param([anchor(7, 0, 5, (5, 2), (9, 0))], "not where", id="between two lists"),
        pytest.param([anchor(7, 0, 5, (9, 1))], "not where", id="after a key's value"),
        pytest.param([anchor(7, 0, 5, (5, 1))], "not where", id="after one that is gone"),
        pytest.param([anchor(7, 0, 5, None, (7, 8))], "not where", id="before one that is gone"),
        pytest.param([anchor(7, 0, 5, (5, -1))], "not where", id="after what cannot be"),
        pytest.param([anchor(7, 0, 5, None, (5, -4))], "not where", id="before what cannot be"),
        pytest.param([anchor(7, 0, 5, (5, 6))], "nobody has written", id="after what nobody has written"),
        pytest.param([anchor(7, 0, 5, None, (8, 0))], "nobody has written", id="before what nobody has written"),
        pytest.param([replace(GOOD[0], root="map")], "not where", id="in another root"),
    ],
)
def test_a_state_whose_anchors_are_wrong_is_refused(anchors: list[Anchor], reason: str) -> None:
    begun(GOOD[:2])
    with pytest.raises(DocumentUpdateError, match=reason):
        begun(anchors)


def test_a_snapshot_keeps_them() -> None:
    known, loaded = begun(), no_items()
    loaded.load(decode(encode(known.dump()), type=ItemsDump))
    assert loaded.dump() == known.dump()
    assert unpacked(loaded.dump().anchors) == GOOD
    for near in product([(5, 0), (5, 2), (5, 3), (5, 5), (7, 3), (7, 9), None], repeat=2):
        if near[0] != near[1]:
            raw = update({8: (0, [item(8, VALUE + b"x", root=LIST, origin=near[0], right=near[1])])})
            assert take(begun(), raw) == as_placed(raw, loaded.place(read_update(raw)).displaced)


# Replicas


def put(replica: SimReplica, at: int, value: str) -> Entry:
    entry = replica.change(lambda doc: doc.get("list:log", type=Array).insert(at, value))
    assert entry is not None
    return entry


def test_replicas_and_their_snapshots_know_where_an_element_was_until_it_is_forgotten() -> None:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    owner, writer = (SimReplica(genesis, key_of(number)) for number in (1, 2))
    for number, value in enumerate("abcd"):
        put(owner, number, value)
    writer.hear(owner)

    def remove(doc: Doc[Any]) -> None:
        del doc.get("list:log", type=Array)[1:3]

    assert owner.change(remove) is not None
    for anchors in (0, 1):
        put(owner, 0, "more")
        assert owner.compact()
        assert len(owner.replica.ledger.items.dump().anchors) == anchors
    between = [put(writer, 2, "x"), put(writer, 3, "y")]
    owner.reload()
    owner.receive(writer.counting)
    assert owner.state()["list:log"] == ["more", "more", "a", "x", "y", "d"]
    owner.restart()
    assert owner.state()["list:log"] == ["more", "more", "a", "x", "y", "d"]
    assert all(owner.counts(entry) for entry in between)

    assert owner.compact()
    assert not owner.replica.ledger.items.dump().anchors
    converge([owner, writer])
    fold_all([owner, writer])
    assert owner.state() == writer.state()
    assert owner.state()["list:log"] == ["more", "more", "a", "x", "y", "d"]


def test_a_state_with_wrong_anchors_is_not_taken() -> None:
    owner = SimReplica(create_genesis(key_of(1), policy=Policy.OPEN), key_of(1))
    put(owner, 0, "a")
    folds = tuple(folds_of(owner.replica.ledger))
    wrong = (Anchor(owner.replica.ydoc.client_id, 0, 1, "list:log", None, None),)
    raw = encode(State(3, folds, canonical_update(owner.replica.content().whole()), tuple(packed(wrong))))
    state = read_state(raw, blake3(raw).digest())
    with pytest.raises(EntryRefusedError, match="are gone which are not"):
        Ledger(owner.genesis, base=Base(1, state))
