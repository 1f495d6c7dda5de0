"""Items whose neighbours are named in a strange order: they are put elsewhere, and all documents hold the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placed_updates import document_of, no_items, take
from pycrdt import Array, Doc
from sequence_authors import ACTIONS, SequenceAuthors
from sequence_strangers import ANY, Id, Sent, Step, Strangers, changes, insertions
from yjs_bytes import item, text, uint, update

from lattica.store.burial import as_placed
from lattica.store.yupdate import read_update
from lattica.store.yupdate_places import Displaced, ItemParents

TYPE = 7
Neighbours = tuple[Id | None, Id | None]


def displaced(index: ItemParents, raw: bytes) -> Displaced:
    """What of the update belongs elsewhere; it is only looked at."""
    return index.place(read_update(raw)).displaced


def moved(index: ItemParents, raw: bytes) -> dict[Id, Neighbours]:
    """The same by ID, and between which it belongs."""
    return {
        (client, clock): (struct.origin, struct.right_origin)
        for client, structs in displaced(index, raw).items()
        for clock, struct in structs.items()
        if struct is not None
    }


def copy_of(*docs: Doc[Any]) -> Doc[Any]:
    copy: Doc[Any] = Doc(client_id=78)
    for doc in docs:
        copy.apply_update(doc.get_update(copy.get_state()))
    return copy


def check_documents_agree(root: str, history: list[Step], random: Random) -> None:
    strangers = Strangers(root)
    strangers.do(history)
    first = strangers.document()
    places = strangers.places(first)
    for near, at in places.items():
        if near is not None:
            left, right = strangers.origins[near], strangers.rights[near]
            assert places.get(left, -1) < at
            assert right is None or at < places.get(right, len(places))

    for _ in range(3):
        order = strangers.shuffled(random)
        index = no_items()
        for number in order:
            sent = strangers.log[number]
            assert displaced(index, sent.raw) == sent.displaced
            assert take(index, sent.raw) == sent.placed
        other = strangers.document(order)
        some = strangers.document(order[: random.randint(0, len(order))])
        states = [strangers.state(doc) for doc in (first, other, copy_of(other), copy_of(some, other))]
        assert states == [states[0]] * 4


@settings(deadline=None)
@given(st.sampled_from(("list", "text")), insertions | changes, st.randoms(use_true_random=False))
def test_documents_of_what_is_placed_are_equal_in_any_order(root: str, history: list[Step], random: Random) -> None:
    check_documents_agree(root, history, random)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=1000)
@given(st.sampled_from(("list", "text")), insertions | changes, st.randoms(use_true_random=False))
def test_documents_are_equal_in_many_orders(root: str, history: list[Step], random: Random) -> None:
    check_documents_agree(root, history, random)


@settings(deadline=None)
@given(insertions, st.randoms(use_true_random=False))
def test_two_are_in_order_if_the_document_has_them_so(history: list[Step], random: Random) -> None:
    """Of any two, the right one's origin must not be after the left one, nor this after the right one."""
    strangers = Strangers("list")
    strangers.do(history)
    doc = strangers.document()
    places = strangers.places(doc)
    probed = list(permutations((None, *strangers.origins), 2))
    looked_at = set(random.sample(probed, min(20, len(probed))))

    for origin, right in probed:
        fits = right is None or places[strangers.origins[right]] <= places[origin] < places[right]
        raw = update({1: (0, [item(ANY, b"\x01\x77" + text("probe"), root="list", origin=origin, right=right)])})
        left = origin if fits or right is None else strangers.origins[right]
        assert moved(strangers.known, raw) == ({} if fits else {(1, 0): (left, right)})
        if (origin, right) in looked_at:
            copy = copy_of(doc)
            copy.apply_update(as_placed(raw, displaced(strangers.known, raw)))
            shown = strangers.state(copy)
            at = shown.index("probe")
            assert shown[:at] + shown[at + 1 :] == strangers.state(doc)
            assert places[left] < at <= (len(places) if right is None else places[right])


@settings(deadline=None)
@given(insertions | changes)
def test_where_one_is_placed_hangs_on_what_it_refers_to_alone(history: list[Step]) -> None:
    strangers = Strangers("list")
    for step in history:
        sent = strangers.write(step)
        if sent is None:
            continue
        index = no_items()
        for number in strangers.past(sent):
            index.accept(read_update(strangers.log[number].raw))
        assert displaced(index, sent.raw) == sent.displaced


Near = tuple[int, Id | None, Id | None]
CHAIN: list[Near] = [(5, None, None), (5, (5, 0), None), (5, (5, 1), None)]


def sent_by(nears: Sequence[Near]) -> list[Sent]:
    """An update for each client and its item's neighbours; its value is its number."""
    found: list[Sent] = []
    ids: list[Id] = []
    index = no_items()
    for number, (client, origin, right) in enumerate(nears):
        clock = sum(client == other for other, _, _ in nears[:number])
        raw = update(
            {client: (clock, [item(ANY, b"\x01\x7d" + uint(number), root="list", origin=origin, right=right)])}
        )
        before = (client, clock - 1)
        needs = frozenset(ids.index(near) for near in (origin, right, before) if near in ids)
        found.append(Sent(client, raw, displaced(index, raw), needs))
        index.accept(read_update(raw))
        ids.append((client, clock))
    return found


def states(log: Sequence[Sent], *, placed: bool) -> set[tuple[float, ...]]:
    """What documents hold that get the updates in one order or another."""
    orders = (
        order
        for order in permutations(range(len(log)))
        if all(log[number].needs <= set(order[:at]) for at, number in enumerate(order))
    )
    raws = [sent.placed if placed else sent.raw for sent in log]
    docs = (document_of(raws[number] for number in order) for order in orders)
    return {tuple(doc.get("list", type=Array).to_py() or ()) for doc in docs}


@pytest.mark.parametrize(
    ("known", "last", "belongs", "order"),
    [
        pytest.param(
            [*CHAIN, (9, None, None)],
            (5, (5, 2), (5, 1)),
            ((5, 0), (5, 1)),
            (0, 4, 1, 2, 3),
            id="left one after right one",
        ),
        pytest.param(
            [*CHAIN, (9, (5, 1), None)],
            (8, (5, 0), (5, 2)),
            ((5, 1), (5, 2)),
            (0, 1, 4, 2, 3),
            id="right one far below",
        ),
        pytest.param(
            [*CHAIN[:2], (9, (5, 0), None)],
            (8, None, (5, 1)),
            ((5, 0), (5, 1)),
            (0, 3, 1, 2),
            id="first but before a second",
        ),
    ],
)
def test_what_would_make_documents_differ_is_displaced(
    known: list[Near], last: Near, belongs: Neighbours, order: tuple[int, ...]
) -> None:
    log = sent_by([*known, last])
    [(found, *_)] = [list(structs.values()) for structs in log[-1].displaced.values()]
    assert found is not None
    assert (found.origin, found.right_origin) == belongs
    assert not any(sent.displaced for sent in log[:-1])
    assert states(log[:-1], placed=False) == states(log[:-1], placed=True)
    assert len(states(log[:-1], placed=False)) == 1
    assert len(states(log, placed=False)) > 1
    assert states(log, placed=True) == {order}


actions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ACTIONS + 2), st.integers(0, 99)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(actions)
def test_what_honest_authors_write_stays_where_it_is(story: list[tuple[int, int, int]]) -> None:
    authors = SequenceAuthors()
    authors.do(story)

    for known in (range(len(authors.log)), *(author.known for author in authors.authors)):
        index = no_items()
        for number in known:
            assert take(index, authors.log[number]) is authors.log[number]


def value(**near: Id | str) -> bytes:
    """An item's struct; the keywords are those of `item`."""
    return item(ANY, b"\x01\x7e", **{"root": "list", **near})  # type: ignore[arg-type]


def test_what_was_only_looked_at_leaves_no_trace() -> None:
    index = no_items()
    for clock, items in (
        (0, [value(), value(right=(5, 0))]),
        (0, [value(root="more"), value(), value(right=(5, 1))]),
        (0, [value(root="more"), value(root="other")]),
    ):
        index.roots_touched(read_update(update({5: (clock, items)})))
    index.accept(read_update(update({5: (0, [value(), value(origin=(5, 0))])})))

    assert not displaced(index, update({9: (0, [value(origin=(5, 0), right=(5, 1))])}))
    wrong = update({9: (0, [value(origin=(5, 1), right=(5, 0))])})
    assert moved(index, wrong) == moved(index, wrong) == {(9, 0): (None, (5, 0))}


def test_what_an_item_dropped_had_on_its_right_is_no_excuse_for_the_next() -> None:
    index = no_items()
    index.accept(read_update(update({9: (0, [value()]), 5: (0, [value(origin=(9, 0))])})))

    index.roots_touched(read_update(update({5: (1, [value(right=(9, 0))])})))

    raw = update({5: (1, [value(origin=(5, 0), right=(9, 0))])})
    assert moved(index, raw) == {(5, 1): (None, (9, 0))}


def test_one_may_go_on_before_what_another_has_put_there() -> None:
    """With the lower client ID, the other's item would come first if it was not named."""
    index = no_items()
    index.accept(read_update(update({5: (0, [value()]), 3: (0, [value(origin=(5, 0))])})))
    assert take(index, raw := update({5: (1, [value(origin=(5, 0), right=(3, 0))])})) is raw

    assert not displaced(index, update({9: (0, [value(origin=(5, 1), right=(3, 0))])}))
    wrong = update({9: (0, [value(origin=(3, 0), right=(5, 1))])})
    assert moved(index, wrong) == {(9, 0): ((5, 0), (5, 1))}


def test_one_goes_on_after_its_item_where_that_was_placed() -> None:
    """The first does not belong after what it names; the next ones come after it, before the same one."""
    index = no_items()
    index.accept(read_update(update({5: (0, [value(), value(origin=(5, 0)), value(origin=(5, 1))])})))
    run = [value(origin=(5, 2), right=(5, 1)), value(origin=(9, 0), right=(5, 1)), value(origin=(9, 1), right=(5, 1))]
    raw = update({9: (0, run)})

    assert moved(index, raw) == {(9, 0): ((5, 0), (5, 1))}
    index.accept(read_update(raw))
    assert not displaced(index, update({9: (3, [value(origin=(9, 2), right=(5, 1))])}))
    assert not displaced(index, update({8: (0, [value(origin=(9, 1), right=(9, 2))])}))
    assert moved(index, update({8: (0, [value(origin=(5, 2), right=(9, 0))])})) == {(8, 0): ((5, 0), (9, 0))}


def test_two_lists_below_one_key_are_two() -> None:
    index = no_items()
    lists = [item(TYPE, b"\0", root="map", key="key"), item(TYPE, b"\0", origin=(5, 0))]
    below = [item(ANY, b"\x01\x7e", parent=(5, 0)), item(ANY, b"\x01\x7e", parent=(5, 1))]
    index.accept(read_update(update({5: (0, lists + below)})))

    raw = update({9: (0, [item(ANY, b"\x01\x7e", origin=(5, 2), right=(5, 3))])})
    assert moved(index, raw) == {(9, 0): (None, (5, 3))}


def test_the_way_up_a_deep_tree_is_found() -> None:
    """Two that take turns, each after the other's last item; a third's first item is beside the first of these."""
    index = no_items()
    turns, aside = (5, 6), (7, 0)
    index.accept(read_update(update({7: (0, [item(ANY, b"\x01\x7e", root="list")])})))
    index.accept(read_update(update({5: (0, [item(ANY, b"\x01\x7e", root="list")])})))
    last = (5, 0)
    for number in range(1, 3000):
        client = turns[number % 2]
        index.accept(read_update(update({client: (number // 2, [item(ANY, b"\x01\x7e", origin=last)])})))
        last = (client, number // 2)

    assert take(index, raw := update({8: (0, [item(ANY, b"\x01\x7e", origin=last, right=aside)])})) is raw
    for origin, right, above in (
        (aside, last, (5, 1499)),
        (aside, (5, 700), (6, 699)),
        (last, (6, 1400), (5, 1400)),
        ((5, 700), last, (5, 1499)),
    ):
        raw = update({9: (0, [item(ANY, b"\x01\x7e", origin=origin, right=right)])})
        assert moved(index, raw) == {(9, 0): (above, right)}
