"""Values that programs by hand put where no container has any, and formats: all replicas go on holding the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_replicas import NOW, SimReplica, converge, fold_all, key_of
from pycrdt import Array, Doc, Map, Text
from yjs_bytes import item, uint, update

from lattica.store.entry import Entry
from lattica.store.item_runs import Run, Within
from lattica.store.namespace import Policy, create_genesis
from lattica.store.yupdate import ItemId

LIST, TEXT, MAP = "list:log", "text:notes", "map:settings"
AUTHORS = (1, 2, 3)


def replicas() -> list[SimReplica]:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    return [SimReplica(genesis, key_of(number)) for number in AUTHORS]


def held(replica: SimReplica) -> dict[str, Any]:
    """What is read of a replica's document."""
    doc = replica.replica.ydoc
    return {
        LIST: doc.get(LIST, type=Array).to_py(),
        TEXT: doc.get(TEXT, type=Text).diff(),
        MAP: doc.get(MAP, type=Map).to_py(),
    }


def strange(replica: SimReplica) -> dict[str, Any]:
    """What only a program by hand would find."""
    doc = replica.replica.ydoc
    keys = {root: doc.get(root, type=Map).to_py() for root in (LIST, TEXT)}
    return {**keys, MAP: doc.get(MAP, type=Array).to_py()}


def value(number: int) -> bytes:
    return b"\x01\x7d" + uint(number)


def by_hand(replica: SimReplica, structs: list[bytes], deletions: Any = None) -> Entry:
    """An entry of its author's own making, received as if another replica with the same key had sent it."""
    client = replica.replica.ydoc.client_id
    clock = replica.replica.ledger.items.end(client)
    payload = update({client: (clock, structs)} if structs else {}, deletions)
    entry = replica.replica.write(replica.key, payload, NOW)
    replica.receive([entry])
    assert replica.counts(entry), replica.refused
    return entry


def fill(replica: SimReplica) -> None:
    """Something in each root, and something deleted in each."""
    for step, number in enumerate((3, 1, 2, 0, 5, 4)):
        for edit in (type_text, insert, put, *[pop, mark, erase] * (step % 2)):
            replica.change(partial(edit, number=number))
    assert all(held(replica).values())


def write_text(replica: SimReplica, write: Callable[[Text], object]) -> None:
    def change(doc: Doc[Any]) -> None:
        write(doc.get(TEXT, type=Text))

    assert replica.change(change) is not None


def last_item(replica: SimReplica) -> tuple[int, int]:
    """A replica's client ID, and the clock of its last item."""
    client = replica.replica.ydoc.client_id
    return client, replica.replica.ledger.items.end(client) - 1


def items_of_keys(replica: SimReplica) -> list[tuple[int, int]]:
    """All that were ever values of keys, but in the map, as far as that is known."""
    items = replica.replica.ledger.items
    found = [(client, clock) for client, end in sorted(items.ends().items()) for clock in range(end)]
    return [(client, clock) for client, clock in found if is_strange(items.find(ItemId(client, clock)))]


def is_strange(run: Run) -> bool:
    return run.within is Within.KEY and run.place is not None and run.place.root != MAP


def values_under(replica: SimReplica, root: str, key: str) -> list[Any]:
    """The value of a key that is read as if the root was a map's, if there is one."""
    found = replica.replica.ydoc.get(root, type=Map)
    return [found[key]] if key in found else []


def settle_all(among: list[SimReplica]) -> dict[str, Any]:
    converge(among)
    fold_all(among)
    assert len({replica.digest for replica in among}) == 1
    found, other = held(among[0]), strange(among[0])
    assert all((held(replica), strange(replica)) == (found, other) for replica in among)
    return found


def type_text(doc: Doc[Any], number: int) -> None:
    notes = doc.get(TEXT, type=Text)
    notes.insert(0 if number % 2 else len(notes), ("abc", "x", "\N{GRINNING FACE}y")[number % 3])


def embed(doc: Doc[Any], number: int) -> None:
    notes = doc.get(TEXT, type=Text)
    notes.insert_embed(len(notes) if number % 2 else 0, {"z": number, "a": [1, {"y": None, "x": "b"}]})


def mark(doc: Doc[Any], number: int) -> None:
    notes = doc.get(TEXT, type=Text)
    if len(notes) > 1 and str(notes).isascii():  # with others, yrs puts a format beside itself
        value = (True, None, {"w": 1, "u": 2})[number % 3]
        notes.format(0 if number % 4 else len(notes) // 2, len(notes), {("bold", "size")[number % 2]: value})


def erase(doc: Doc[Any], number: int) -> None:
    notes = doc.get(TEXT, type=Text)
    if number % 4 == 3:
        notes.clear()
    elif str(notes) and str(notes).isascii():
        del notes[number % len(notes)]


def insert(doc: Doc[Any], number: int) -> None:
    log = doc.get(LIST, type=Array)
    log.insert(number % (len(log) + 1), number)


def pop(doc: Doc[Any], number: int) -> None:
    log = doc.get(LIST, type=Array)
    if len(log):
        del log[number % len(log)]


def put(doc: Doc[Any], number: int) -> None:
    doc.get(MAP, type=Map)[f"k{number % 2}"] = number


EDITS = (type_text, type_text, embed, mark, mark, erase, insert, insert, pop, put)


def put_key(replica: SimReplica, number: int) -> None:
    """The first value of a key, in what has none."""
    by_hand(replica, [item(8, value(number), root=(LIST, TEXT)[number % 2], key=("k", "", "k2")[number % 3])])


def put_after(replica: SimReplica, number: int) -> None:
    """A value after one of ours or another's, whether that lives or not."""
    if found := items_of_keys(replica):
        by_hand(replica, [item(8, value(number), origin=found[number % len(found)])])


def put_element(replica: SimReplica, number: int) -> None:
    """Elements in what has only keys."""
    by_hand(replica, [item(8, value(number), root=MAP), item(8, value(number), root=MAP)])


def put_deleted(replica: SimReplica, number: int) -> None:
    """Something that was deleted before it came: elements, or a key's value."""
    root, key = ((LIST, None), (TEXT, None), (LIST, "k"), (MAP, None))[number % 4]
    by_hand(replica, [item(1, uint(number % 3 + 1), root=root, key=key)])


def delete_value(replica: SimReplica, number: int) -> None:
    """One of such values."""
    if found := items_of_keys(replica):
        client, clock = found[number % len(found)]
        by_hand(replica, [], {client: [(clock, 1)]})


STRANGE = (put_key, put_key, put_after, put_element, put_deleted, delete_value)


class Scene:
    """Some authors: they edit as programs do, and write by hand what none would."""

    def __init__(self) -> None:
        self.replicas = replicas()

    def do(self, who: int, action: int, number: int) -> None:
        replica = self.replicas[who]
        if action < len(EDITS):
            replica.change(lambda doc: EDITS[action](doc, number))
        elif action < len(EDITS) + len(STRANGE):
            before = held(replica)
            STRANGE[action - len(EDITS)](replica, number)
            found = held(replica)
            assert (found[LIST], found[TEXT]) == (before[LIST], before[TEXT])
        else:
            self.pass_on(replica, number)

    def pass_on(self, replica: SimReplica, number: int) -> None:
        match number % 8:
            case 0:
                owner = self.replicas[0]
                before = held(owner), strange(owner)
                owner.compact()
                assert (held(owner), strange(owner)) == before
            case 1:
                replica.fold()
            case 2:
                replica.reload()
            case 3:
                replica.restart()
            case _:
                replica.hear(self.replicas[number % len(self.replicas)])


@pytest.fixture(params=["fold", "adopt", "adopt from a snapshot", "start anew"])
def how(request: pytest.FixtureRequest) -> str:
    """How the others come to the owner's checkpoint."""
    return str(request.param)


def compact(among: list[SimReplica], how: str) -> dict[str, Any]:
    """All hold what one of them holds, compacted; what they hold then."""
    owner, writer, _ = among
    converge([owner, writer])
    if how == "fold":
        converge(among)
    if how == "adopt from a snapshot":
        owner.reload()
    before = held(owner)
    assert owner.compact()
    assert held(owner) == before
    found = settle_all(among)
    if how == "start anew":
        for replica in among:
            replica.reload()
            assert held(replica) == before
            replica.restart()
        assert settle_all(among) == before
    assert {replica.replica.ledger.base for replica in among} == {owner.replica.ledger.base}
    return found


@pytest.mark.parametrize("root", [LIST, TEXT])
@pytest.mark.parametrize("key", ["k", ""])
def test_values_under_a_key_of_a_list_or_a_text_change_nothing_in_it(root: str, key: str, how: str) -> None:
    owner, writer, _ = among = replicas()
    fill(owner)
    converge([owner, writer])
    wanted = held(owner)
    first = by_hand(writer, [item(8, value(1), root=root, key=key)])
    by_hand(writer, [item(8, value(2), origin=last_item(writer))])
    by_hand(owner, [item(3, b"\x02ab", root=root, key=key), item(8, value(3), root=root, key="other")])
    assert compact(among, how) == wanted
    assert first.hash not in {entry.hash for entry in writer.stored}
    assert values_under(among[0], root, "other") == [3]


@pytest.mark.parametrize("root", [LIST, TEXT])
def test_of_such_values_a_state_keeps_what_lives_and_no_more(root: str) -> None:
    owner = replicas()[0]
    sizes: list[int] = []
    for count in (1, 1, 50):
        for number in range(count):
            origin = last_item(owner) if sizes else None
            by_hand(owner, [item(8, value(number), root=root, key="k", origin=origin)])
        assert owner.compact()
        sizes.append(len(owner.state_raw))
    assert sizes[2] < sizes[1] + 10  # from the second on it says that the owner has seen the first
    assert values_under(owner, root, "k") == [49]


def test_such_a_value_that_refers_to_what_a_checkpoint_has_left_out_is_written_again_and_changes_nothing() -> None:
    owner, writer, third = among = replicas()
    fill(owner)
    for root in (LIST, TEXT):
        by_hand(owner, [item(8, value(1), root=root, key="k")])
    client, end = last_item(owner)
    converge(among)
    wanted = held(owner)
    by_hand(owner, [], {client: [(end - 1, 2)]})
    assert owner.compact()
    by_hand(writer, [item(8, value(2), origin=(client, end - 1)), item(8, value(3), origin=(client, end))])
    third.hear(writer)
    assert settle_all(among) == wanted
    assert [values_under(third, root, "k") for root in (LIST, TEXT)] == [[2], [3]]


def test_elements_in_the_root_of_a_map_change_nothing_in_it(how: str) -> None:
    owner, writer, _ = among = replicas()
    fill(owner)
    converge([owner, writer])
    wanted = held(owner)
    by_hand(writer, [item(8, value(1), root=MAP), item(8, value(2), root=MAP)])
    by_hand(owner, [item(8, value(3), root=MAP)])
    assert compact(among, how) == wanted
    assert sorted(owner.replica.ydoc.get(MAP, type=Array).to_py()) == [1, 2, 3]


@pytest.mark.parametrize("root", [LIST, TEXT, MAP])
def test_elements_that_were_deleted_before_they_came_change_nothing(root: str, how: str) -> None:
    owner, writer, third = among = replicas()
    fill(owner)
    converge([owner, writer])
    wanted = held(owner)
    by_hand(writer, [item(1, uint(3), root=root)])
    assert compact(among, how) == wanted
    by_hand(third, [item(1, uint(2), right=last_item(writer))])  # before it, where nothing is any more
    converge(among)
    assert owner.compact()
    assert settle_all(among) == wanted


def test_a_text_reads_the_same_with_its_formats_and_embeds_when_it_is_compacted(how: str) -> None:
    owner, writer, _ = among = replicas()
    write_text(owner, lambda notes: notes.insert(0, "some bold words, and more", {"lang": "en"}))
    converge([owner, writer])
    write_text(owner, lambda notes: notes.format(5, 9, {"bold": True, "font": {"size": 2, "face": "x"}}))
    write_text(writer, lambda notes: notes.format(7, 15, {"italic": True}))
    converge([owner, writer])
    write_text(writer, lambda notes: notes.insert_embed(7, {"image": "a.png", "at": [1, {"y": 2, "x": None}]}))
    write_text(owner, lambda notes: notes.format(0, 12, {"bold": None}))
    write_text(owner, lambda notes: notes.__delitem__(slice(2, 6)))
    write_text(owner, lambda notes: notes.insert_embed(3, "gone"))
    write_text(owner, lambda notes: notes.__delitem__(3))
    found = compact(among, how)
    attributes = [part[1] or {} for part in found[TEXT]]
    assert any("italic" in each and "lang" in each for each in attributes)
    assert any(isinstance(part[0], dict) for part in found[TEXT])


def test_formats_by_who_has_not_heard_of_a_checkpoint_are_the_same_for_all() -> None:
    owner, writer, third = among = replicas()
    write_text(owner, lambda notes: notes.insert(0, "one two three four"))
    write_text(owner, lambda notes: notes.format(4, 13, {"bold": True}))
    converge(among)
    write_text(owner, lambda notes: notes.__delitem__(slice(2, 9)))
    assert owner.compact()
    write_text(writer, lambda notes: notes.format(3, 9, {"italic": True}))
    write_text(third, lambda notes: notes.insert_embed(6, {"a": 1}))
    write_text(third, lambda notes: notes.insert(0, "zero "))
    found = settle_all(among)
    assert "".join(part[0] for part in found[TEXT] if isinstance(part[0], str)) == "zero onhree four"
    assert owner.compact()
    assert settle_all(among) == found


# at random


STEPS = st.tuples(
    st.integers(0, len(AUTHORS) - 1), st.integers(0, len(EDITS) + len(STRANGE) + 9), st.integers(0, 10_000)
)


def check(steps: list[tuple[int, int, int]]) -> None:
    scene = Scene()
    for step in steps:
        scene.do(*step)
    before = settle_all(scene.replicas), strange(scene.replicas[0])
    scene.replicas[0].compact()
    assert (settle_all(scene.replicas), strange(scene.replicas[0])) == before


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=40))
def test_whatever_is_written_by_hand_and_compacted_all_go_on_holding_the_same(
    steps: list[tuple[int, int, int]],
) -> None:
    check(steps)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(deadline=None, max_examples=250)
@given(st.lists(STEPS, min_size=40, max_size=120))
def test_the_same_in_long_stories(steps: list[tuple[int, int, int]]) -> None:
    check(steps)
