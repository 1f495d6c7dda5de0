"""A checkpoint's state holds what lives; what refers to what it has left out is garbage for all, and not lost."""

from __future__ import annotations

from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from ledger_replicas import SimReplica, converge, fold_all, key_of
from ledger_stories import OWNER, Step, Story, histories, policies
from msgspec.msgpack import encode
from pycrdt import Array, Doc, Map
from yjs_bytes import item, update

from lattica.errors import EntryRefusedError
from lattica.store.canonical import canonical_update
from lattica.store.entry import Entry
from lattica.store.folding import folds_of
from lattica.store.item_runs import Holder, Run, Within
from lattica.store.ledger import Base, Ledger
from lattica.store.namespace import Policy, create_genesis
from lattica.store.replica import Replica
from lattica.store.state import State, read_state
from lattica.store.yupdate import ItemId
from lattica.store.yupdate_places import ItemParents

AUTHORS = (1, 2, 3)


def replicas() -> list[SimReplica]:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    return [SimReplica(genesis, key_of(number)) for number in AUTHORS]


def put(replica: SimReplica, key: str, value: Any) -> Entry:
    def write(doc: Doc[Any]) -> None:
        doc.get("map:settings", type=Map)[key] = value

    entry = replica.change(write)
    assert entry is not None
    return entry


def remove(replica: SimReplica, key: str) -> None:
    def write(doc: Doc[Any]) -> None:
        del doc.get("map:settings", type=Map)[key]

    assert replica.change(write) is not None


def log(replica: SimReplica, value: int) -> None:
    """Append to the list."""
    assert replica.change(lambda doc: doc.get("list:log", type=Array).append(value)) is not None


def unlog(replica: SimReplica, at: int) -> None:
    """Delete from the list."""

    def write(doc: Doc[Any]) -> None:
        del doc.get("list:log", type=Array)[at]

    assert replica.change(write) is not None


def values(replica: SimReplica) -> dict[str, Any]:
    found: dict[str, Any] = replica.state()["map:settings"]
    return found


def settle_all(among: list[SimReplica]) -> dict[str, Any]:
    """Let all hear all and fold; what each of them holds then."""
    converge(among)
    fold_all(among)
    assert len({replica.digest for replica in among}) == 1
    found = values(among[0])
    assert all(values(replica) == found for replica in among)
    return found


# How large


@pytest.mark.slow
@pytest.mark.parametrize("times", [10, 300])
def test_a_state_is_as_large_as_what_lives_however_often_that_was_written(times: int) -> None:
    owner, other, _ = replicas()
    for number in range(times):
        put(owner, f"k{number % 3}", number)
        if number % 10 == 9:
            put(other, f"k{number % 3}", number)
            converge([owner, other])
    put(owner, "gone", 1)
    remove(owner, "gone")
    assert owner.compact()
    assert len(owner.state_raw) < 800
    assert b"gone" not in owner.state_raw


@pytest.mark.slow
def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    owner = replicas()[0]
    for number in range(200):
        put(owner, f"k{number}", number)
        remove(owner, f"k{number}")
    assert owner.compact()
    assert len(owner.state_raw) < 250
    items = owner.replica.ledger.items.dump()
    assert items.places == []
    assert len(items.clients[0].starts) == 4
    assert len(owner.replica.ydoc.get_update()) < 40


def test_the_next_state_is_as_large_as_what_lives_too() -> None:
    owner = replicas()[0]
    sizes = []
    for number in range(4):
        for again in range(50):
            put(owner, f"k{again % 5}", number)
        assert owner.compact()
        sizes.append(len(owner.state_raw))
    assert max(sizes) < sizes[0] + 60  # from the second on it says that the owner has seen the first
    assert max(sizes[1:]) - min(sizes[1:]) < 10


# What becomes of values that refer to what is left out


@pytest.mark.parametrize("adopts", [False, True])
def test_a_value_of_a_key_that_was_deleted_is_written_again_by_its_author(adopts: bool) -> None:
    owner, writer, third = among = replicas()
    put(owner, "k", 1)
    converge(among)
    remove(owner, "k")
    if not adopts:
        converge(among)
    assert owner.compact()
    put(writer, "k", 2)  # after the deleted value, without knowledge of the checkpoint
    owner.receive(writer.counting)
    assert values(owner) == {}
    third.hear(owner)
    assert settle_all(among) == {"k": 2}


@pytest.mark.parametrize("late", [0, 1])
def test_of_two_values_written_at_one_time_the_one_that_a_checkpoint_covers_stands(late: int) -> None:
    owner, writer, third = among = replicas()
    put(owner, "k", 1)
    converge(among)
    put((owner, third)[late], "k", 2)
    owner.hear(third)
    put(writer, "k", 3)
    assert owner.compact()
    before = len(writer.stored)
    assert settle_all(among) == {"k": 2}
    assert len([entry for entry in writer.stored if entry.body.author == writer.replica.own]) <= before


def test_the_last_word_on_a_key_stands_though_it_builds_on_garbage() -> None:
    owner, writer, third = among = replicas()
    put(owner, "k", 1)
    converge(among)
    put(third, "k", 2)
    put(writer, "k", 3)
    writer.receive(third.counting)
    put(writer, "k", 4)  # after both
    owner.hear(third)
    assert owner.compact()
    assert settle_all(among) == {"k": 4}


def test_bytes_are_written_again_too() -> None:
    owner, writer, _ = among = replicas()
    put(owner, "k", 1)
    put(owner, "l", 1)
    converge(among)
    remove(owner, "k")
    remove(owner, "l")
    assert owner.compact()
    put(writer, "k", b"raw")
    put(writer, "l", [{"in": b"it"}])
    assert settle_all(among) == {"k": b"raw", "l": [{"in": b"it"}]}


def test_who_was_away_for_several_checkpoints_brings_what_it_has_written_of_its_own_keys() -> None:
    owner, writer, third = among = replicas()
    put(owner, "shared", 0)
    converge(among)
    for number in range(5):
        put(writer, f"mine {number}", number)
        put(owner, "shared", number)
        put(third, f"other {number}", number)
        owner.hear(third)
        assert owner.compact()
    found = settle_all(among)
    assert {key: value for key, value in found.items() if key.startswith("mine")} == {
        f"mine {number}": number for number in range(5)
    }


# Everybody alike


def where(items: ItemParents) -> list[tuple[int, Run]]:
    return [(client, items.find(ItemId(client, clock))) for client, end in items.ends().items() for clock in range(end)]


def check_items(policy: Policy, history: list[Step]) -> None:
    """What a replica that has folded knows of items is what one learns that takes the state over."""
    story = Story(create_genesis(key_of(OWNER), policy=policy), owner_is_honest=True)
    for step in history:
        story.do(*step)
        for replica in story.replicas:
            if replica.base is None:
                continue
            anew = SimReplica(replica.genesis, replica.key)
            anew.stored, anew.frauds, anew.state_raw = replica.stored, replica.frauds, replica.state_raw
            anew.replica.ledger.base = replica.replica.ledger.base
            anew.restart()
            one, other = replica.replica.ledger.items, anew.replica.ledger.items
            assert sorted(where(one)) == sorted(where(other))
            assert replica.state() == anew.state()


@settings(deadline=None, max_examples=25)
@given(policies, histories(40, compacting=True))
def test_what_is_known_of_items_after_folding_follows_from_the_state(policy: Policy, history: list[Step]) -> None:
    check_items(policy, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=400)
@given(policies, histories(60, compacting=True))
def test_what_is_known_of_items_follows_from_the_state_in_long_stories(policy: Policy, history: list[Step]) -> None:
    check_items(policy, history)


# States


def forged(replica: SimReplica, version: int, raw: bytes) -> State:
    encoded = encode(State(version, tuple(folds_of(replica.replica.ledger)), raw))
    return read_state(encoded, blake3(encoded).digest())


def test_a_state_whose_values_refer_to_garbage_is_refused() -> None:
    owner = replicas()[0]
    put(owner, "k", 1)
    client = owner.replica.ydoc.client_id
    raw = update({client: (0, [b"\0\x01", item(8, b"\x01\x7d\x01", origin=(client, 0))])})
    for version in (2, 3):
        with pytest.raises(EntryRefusedError, match="do not belong where they are"):
            Ledger(owner.genesis, base=Base(1, forged(owner, version, raw)))


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_an_older_program_is_read(version: int) -> None:
    """Until version 2 deleted values of keys were in it, until version 3 deleted elements of lists and texts."""
    owner = replicas()[0]
    for number in range(3):
        put(owner, "k", number)
    for number in range(3):
        log(owner, number)
    unlog(owner, 1)
    state = forged(owner, version, canonical_update(owner.replica.content().whole()))
    ledger = Ledger(owner.genesis, base=Base(1, state))
    client = owner.replica.ydoc.client_id
    assert ledger.items.find(ItemId(client, 0)).within is Within.KEY
    assert ledger.items.find(ItemId(client, 4)).within is Within.LIST
    replica = Replica(owner.genesis, owner.replica.own, base=Base(1, state))
    assert replica.ydoc.get("list:log", type=Array).to_py() == [0, 2]


def test_a_state_of_a_newer_program_is_refused() -> None:
    owner = replicas()[0]
    put(owner, "k", 1)
    with pytest.raises(EntryRefusedError, match="version 4; a newer program"):
        forged(owner, 4, canonical_update(owner.replica.content().whole()))


def test_garbage_is_nowhere() -> None:
    owner = replicas()[0]
    put(owner, "k", 1)
    put(owner, "k", 2)
    owner.compact()
    client = owner.replica.ydoc.client_id
    assert owner.replica.ledger.items.find(ItemId(client, 0)) == Run(0, 1, None, Within.UNKNOWN, Holder.UNKNOWN)
