"""Replays: what counts of a set of entries, with authors that go on after what does not count, or back and forth."""

from __future__ import annotations

from itertools import permutations

import pytest
from effort import lines_run
from entry_forge import ADMIN, NOTHING, OTHER, OWNER, STRANGER, WRITER, Forge, value
from hypothesis import given
from hypothesis import strategies as st
from ledger_replicas import SimReplica
from msgspec.structs import replace

from lattica.identity import IdentityKey
from lattica.store.absorb import absorb
from lattica.store.control import Grant, Role
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.ledger import Fraud, Verdict
from lattica.store.namespace import Policy
from lattica.store.replay import replay
from lattica.store.replica import Replica
from lattica.store.settle import Settled, settle


@pytest.fixture
def forge() -> Forge:
    """A namespace in which a writer has written four entries, and another one."""
    forge = Forge()
    for writer in (WRITER, OTHER):
        grant = forge.grant(OWNER, writer)
        forge.write(writer, deps=[grant])
    for _ in range(3):
        forge.write(WRITER)
    return forge


def data_of(forge: Forge, key: IdentityKey) -> list[Entry]:
    return [entry for entry in forge.entries if entry.chain == (key.peer_id.raw, Lane.DATA)]


def counting(forge: Forge, entries: list[Entry], frozen: dict[ChainId, Fraud] | None = None) -> list[Entry]:
    replica, lost = replay(forge.genesis, STRANGER.peer_id.raw, frozen or {}, entries)
    found = [entry for entry in entries if replica.counts(entry)]
    gone = {entry.hash for entry in lost}
    assert [entry.hash for entry in found] == [entry.hash for entry in entries if entry.hash not in gone]
    return found


def numbers(entries: list[Entry], key: IdentityKey = WRITER) -> list[int]:
    return [entry.body.seq for entry in entries if entry.chain == (key.peer_id.raw, Lane.DATA)]


def reader_of(forge: Forge, *entries: Entry) -> SimReplica:
    reader = SimReplica(forge.genesis, STRANGER)
    reader.receive([*forge.entries, *entries])
    return reader


def test_a_replay_gives_what_adding_one_by_one_gave(forge: Forge) -> None:
    replica, lost = replay(forge.genesis, STRANGER.peer_id.raw, {}, forge.entries)

    assert replica.ledger.frontier() == forge.ledger.frontier()
    assert lost == []


def test_entries_that_a_later_one_skips_do_not_count(forge: Forge) -> None:
    one, *_ = data_of(forge, WRITER)
    resumed = forge.resumed(WRITER, one, 7)

    assert numbers(counting(forge, [*forge.entries, resumed])) == [1, 7]


def test_the_first_entry_may_be_skipped_too(forge: Forge) -> None:
    grant = forge.entries[0]
    resumed = forge.resumed(WRITER, None, 7, deps=[grant])

    assert numbers(counting(forge, [*forge.entries, resumed])) == [7]


def test_who_built_on_a_skipped_entry_does_not_count_from_there(forge: Forge) -> None:
    one, two, *_ = data_of(forge, WRITER)
    forge.write(OTHER, deps=[one])
    forge.write(OTHER, deps=[two])
    forge.write(OTHER)
    resumed = forge.resumed(WRITER, one, 7)

    assert numbers(counting(forge, [*forge.entries, resumed]), OTHER) == [1, 2]


def test_a_resumption_that_does_not_count_skips_nothing(forge: Forge) -> None:
    one, *_ = data_of(forge, WRITER)
    resumed = forge.resumed(WRITER, one, 7)
    bad = [
        forge.sign(WRITER, resumed.body, payload=b"junk"),
        forge.sign(WRITER, resumed.body, time=0),
        forge.sign(WRITER, resumed.body, prev=one.hash[:16] + bytes(16)),
        forge.resumed(WRITER, None, 7),  # has not seen its grant
        forge.resumed(WRITER, one, 7, deps=[forge.data(OTHER)]),
    ]

    for entry in bad:
        assert numbers(counting(forge, [*forge.entries, entry])) == [1, 2, 3, 4]


def test_a_resumption_that_builds_on_what_it_skips_does_not_count(forge: Forge) -> None:
    one, two, *_ = data_of(forge, WRITER)
    theirs = forge.write(OTHER, deps=[two])
    resumed = forge.resumed(WRITER, one, 7, deps=[theirs])

    found = counting(forge, [*forge.entries, resumed])
    assert (numbers(found), numbers(found, OTHER)) == ([1, 2, 3, 4], [1, 2])


def test_of_several_ways_on_the_longest_that_counts_is_taken(forge: Forge) -> None:
    one, two, three, _ = data_of(forge, WRITER)
    ways = [forge.resumed(WRITER, three, 6), forge.resumed(WRITER, two, 7), forge.resumed(WRITER, one, 8)]
    bad = forge.sign(WRITER, ways[2].body, payload=b"junk")

    assert numbers(counting(forge, [*forge.entries, *ways])) == [1, 8]
    assert numbers(counting(forge, [*forge.entries, *ways[:2], bad])) == [1, 2, 7]


def test_what_is_beyond_a_fraud_does_not_count(forge: Forge) -> None:
    three = data_of(forge, WRITER)[2]
    fork = forge.sign(WRITER, three.body, time=three.body.time + 1000)
    frozen = {three.chain: Fraud(3, three.raw, fork.raw)}

    assert numbers(counting(forge, forge.entries, frozen)) == [1, 2]


def test_a_revocation_reaches_back(forge: Forge) -> None:
    grant = forge.entries[0]
    forge.revoke(OWNER, WRITER, grant, last=2)

    assert numbers(counting(forge, forge.entries)) == [1, 2]


def test_what_a_revoked_admin_did_beyond_its_end_does_not_count() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    grant = forge.grant(ADMIN, WRITER, deps=[admin])
    later = forge.grant(ADMIN, OTHER)
    forge.write(WRITER, deps=[grant])
    forge.write(OTHER, deps=[later])
    forge.write(WRITER, deps=[forge.entries[-1]])
    forge.revoke(OWNER, ADMIN, admin, last_control=1)

    found = counting(forge, forge.entries)
    assert (numbers(found), numbers(found, OTHER)) == ([1], [])
    assert later not in found


def test_an_admin_again_does_not_bring_back_what_it_did_in_between() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    kept, _ = forge.grant(ADMIN, WRITER, deps=[admin]), forge.grant(ADMIN, OTHER)
    forge.revoke(OWNER, ADMIN, admin, last_control=1)
    again = forge.grant(OWNER, ADMIN, Role.ADMIN)
    assert forge.add(forge.action(ADMIN, Grant(STRANGER.peer_id.raw, Role.WRITER), [again])) is Verdict.ADDED

    assert forge.ledger.rights.counting[ADMIN.peer_id.raw] == 1
    assert forge.ledger.rights_of(STRANGER.peer_id.raw) == []
    found = counting(forge, forge.entries)
    assert [entry for entry in found if entry.chain == kept.chain] == [kept]


def test_what_a_revoked_admin_revoked_beyond_its_end_counts_again() -> None:
    forge = Forge()
    admin, grant = forge.grant(OWNER, ADMIN, Role.ADMIN), forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])
    forge.write(WRITER)
    forge.revoke(ADMIN, WRITER, grant, last=1, deps=[grant])
    assert numbers(counting(forge, forge.entries)) == [1]

    forge.revoke(OWNER, ADMIN, admin, last_control=0)
    assert numbers(counting(forge, forge.entries)) == [1, 2]


def test_control_entries_count_whatever_becomes_of_data(forge: Forge) -> None:
    """They are evaluated first, wherever they are in the order."""
    revocation = forge.revocation(OWNER, WRITER, forge.entries[0], last=0)
    orders = ([revocation, *forge.entries], [*forge.entries, revocation])
    entries = [sorted(order, key=lambda entry: entry.body.lane) for order in orders]

    assert numbers(counting(forge, orders[1])) == numbers(counting(forge, entries[1])) == []


@given(st.data())
def test_the_order_does_not_matter_as_long_as_causes_come_first(data: st.DataObject) -> None:
    forge = Forge()
    grants = [forge.grant(OWNER, key) for key in (WRITER, OTHER)]
    one = forge.write(WRITER, deps=grants[:1])
    forge.write(WRITER)
    forge.write(OTHER, deps=[grants[1], forge.entries[-1]])
    resumed = forge.resumed(WRITER, one, 5)
    left = [*forge.entries, resumed]
    order: list[Entry] = []
    while left:
        there = {entry.hash for entry in order}
        marks = {entry.mark for entry in order}
        ready = [
            entry
            for entry in left
            if entry.body.prev in there | {forge.namespace.raw} and all(dep.mark in marks for dep in entry.body.deps)
        ]
        order.append(data.draw(st.sampled_from(ready)))
        left.remove(order[-1])

    found = counting(forge, order)
    assert (sorted(numbers(found)), numbers(found, OTHER)) == ([1, 5], [])


# messages


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_who_goes_back_and_forth_is_held_to_the_longest_way(forge: Forge, order: tuple[int, ...]) -> None:
    one, two, three, four = data_of(forge, WRITER)
    ways = [
        [one, two, three, four],
        [one, forge.resumed(WRITER, one, 6)],
        [one, two, forge.resumed(WRITER, two, 7)],
    ]
    reader = SimReplica(forge.genesis, STRANGER)
    others = [entry for entry in forge.entries if entry.chain != one.chain]
    for number in order:
        reader.receive([*others, *ways[number]])
    for way in ways:
        reader.receive(way)

    assert numbers(reader.counting) == [1, 2, 7]


def test_a_way_on_is_taken_with_all_that_follows_it(forge: Forge) -> None:
    one = data_of(forge, WRITER)[0]
    resumed = forge.resumed(WRITER, one, 6)
    next_one = forge.sign(
        WRITER, resumed.body, seq=7, after=6, prev=resumed.hash, time=(1 << 40) + 1, deps=(), payload=NOTHING
    )
    reader = reader_of(forge)

    reader.receive([resumed, next_one])

    assert numbers(reader.counting) == [1, 6, 7]


def test_who_goes_on_in_many_ways_causes_one_replay_with_each_message(forge: Forge) -> None:
    one, *_ = data_of(forge, WRITER)

    def effort(count: int) -> int:
        ways = [
            forge.sign(WRITER, forge.resumed(WRITER, one, 6 + number).body, payload=b"junk") for number in range(count)
        ]
        reader = reader_of(forge)
        absorbed = absorb(reader.replica, ways)
        assert absorbed.resuming == ways[-1:]
        assert absorbed.missing == len(ways) - 1
        found: list[Settled] = []
        lines = lines_run(lambda: found.append(settle(reader.replica, absorbed, {}, reader.stored)))
        assert [(settled.put, settled.drop) for settled in found] == [([], [])]
        return lines

    assert effort(200) < 1.5 * effort(10)


def test_a_way_on_from_nowhere_causes_no_replay(forge: Forge) -> None:
    reader = reader_of(forge)
    stray = replace(forge.data(WRITER).body, seq=9, after=8, prev=bytes(32))
    early = replace(stray, after=2)

    absorbed = absorb(reader.replica, [forge.sign(WRITER, body) for body in (stray, early)])

    assert (absorbed.missing, absorbed.must_replay) == (2, False)


# our own entries


def test_our_own_entries_that_count_no_more_are_kept_so_that_their_numbers_are_not_used_again(forge: Forge) -> None:
    grant = forge.entries[0]
    replica, _ = replay(forge.genesis, WRITER.peer_id.raw, {}, forge.entries)
    revocation = forge.revocation(OWNER, WRITER, grant, last=2)

    settled = settle(replica, absorb(replica, [revocation]), {}, forge.entries)

    assert settled.drop == []
    assert settled.replica.tops[Lane.DATA] == 4
    entry = settled.replica.write(WRITER, NOTHING, 0)
    assert (entry.body.seq, entry.body.after) == (5, 2)
    assert settled.replica.ydoc.client_id == forge.client(WRITER, 5)


def test_others_entries_that_count_no_more_are_dropped(forge: Forge) -> None:
    reader = reader_of(forge)
    revocation = forge.revocation(OWNER, WRITER, forge.entries[0], last=2)

    settled = settle(reader.replica, absorb(reader.replica, [revocation]), {}, forge.entries)

    assert [entry.body.seq for entry in settled.drop] == [3, 4]
    assert settled.put == [revocation]


def test_numbers_of_our_own_that_come_from_elsewhere_are_not_used_again(forge: Forge) -> None:
    """After a backup was restored: our entries come back, perhaps before what they build on."""
    ours = data_of(forge, WRITER)
    theirs = forge.write(OTHER)
    last = forge.write(WRITER, deps=[theirs])
    replica = Replica(forge.genesis, WRITER.peer_id.raw)
    absorb(replica, [*forge.entries[:2], ours[0]])

    absorb(replica, [last])

    assert replica.write(WRITER, NOTHING, 0).body.seq == last.body.seq + 1


def test_an_entry_names_only_the_authors_to_whom_it_refers() -> None:
    """Else strangers could keep everybody from writing to an open namespace, by an entry each, or undo all at once."""
    forge = Forge(Policy.OPEN, limit=8000)
    crowd = [IdentityKey.from_seed(number.to_bytes(32)) for number in range(100, 300)]
    for key in crowd:
        forge.write(key, payload=forge.update(key, value("map:votes", f"k{key.peer_id}")))
        forge.write(key, payload=forge.update(key, value("map:votes", f"l{key.peer_id}")))
    replica, _ = replay(forge.genesis, WRITER.peer_id.raw, {}, forge.entries)
    last = forge.client(crowd[-1])

    first = replica.write(WRITER, forge.update(WRITER, value(origin=(last, 0))), 1)
    assert replica.add(first) is Verdict.ADDED
    second = replica.write(WRITER, NOTHING, 2)

    assert [(dep.author, dep.seq) for dep in first.body.deps] == [(crowd[-1].peer_id.raw, 1)]
    assert second.body.deps == ()
