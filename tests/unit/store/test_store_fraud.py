"""Who signs two entries of one number is found out, in any order, and takes nobody else along further than needed."""

from __future__ import annotations

from itertools import permutations

import pytest
from entry_forge import ADMIN, OTHER, OWNER, STRANGER, WRITER
from ledger_replicas import SimReplica, converge

from lattica.identity import IdentityKey
from lattica.store import chain
from lattica.store.control import Role
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.ledger import Fraud
from lattica.store.namespace import create_genesis
from lattica.store.settle import MAX_EARLY_FRAUDS, early_frauds

SET, APPEND = 0, 1
"""Numbers by which a replica sets a key, or appends to a list."""


class Cast:
    """An owner, two writers of whom one has a twin, and a reader."""

    def __init__(self) -> None:
        self.genesis = create_genesis(OWNER)
        self.owner, self.cheat, self.other, self.reader = (
            SimReplica(self.genesis, key) for key in (OWNER, WRITER, OTHER, STRANGER)
        )
        self.grants = [self.owner.grant(key) for key in (WRITER, OTHER)]
        self.everybody = [self.owner, self.cheat, self.other, self.reader]
        converge(self.everybody)

    def twin(self) -> SimReplica:
        twin = self.cheat.twin()
        self.everybody.append(twin)
        return twin


def chain_of(key: IdentityKey, lane: Lane = Lane.DATA) -> ChainId:
    return ChainId(key.peer_id.raw, lane)


def write(replica: SimReplica, number: int = APPEND) -> Entry:
    entry = replica.write(number)
    assert entry is not None
    return entry


def test_a_fraud_is_found_whichever_entry_comes_first() -> None:
    cast = Cast()
    twin = cast.twin()
    one, two = write(cast.cheat, 1), write(twin, 6)
    readers = [SimReplica(cast.genesis, STRANGER) for _ in range(2)]
    for reader, order in zip(readers, ([one, two], [two, one]), strict=True):
        reader.receive(cast.owner.counting)
        for entry in order:
            reader.receive([entry])

    assert readers[0].digest == readers[1].digest
    assert [reader.frauds[chain_of(WRITER)].seq for reader in readers] == [1, 1]
    assert readers[0].state() == cast.reader.state()


def test_two_entries_of_one_number_in_one_message_prove_it() -> None:
    cast = Cast()
    twin = cast.twin()

    cast.reader.receive([write(cast.cheat, 1), write(twin, 6)])

    assert cast.reader.frauds[chain_of(WRITER)].seq == 1


def test_what_came_before_the_fraud_stays() -> None:
    cast = Cast()
    kept = [write(cast.cheat), write(cast.cheat)]
    twin = cast.twin()
    gone = [write(cast.cheat, 1), write(twin, 6), write(cast.cheat)]

    converge(cast.everybody)

    assert all(cast.reader.counts(entry) for entry in kept)
    assert not any(cast.reader.counts(entry) for entry in gone)


def test_of_several_frauds_the_one_with_the_lowest_number_counts() -> None:
    cast = Cast()
    first = cast.twin()
    write(cast.cheat)
    cast.owner.receive(cast.cheat.counting)
    second = cast.twin()
    for number, replica in enumerate((cast.cheat, second, first)):
        write(replica, 1 + 5 * number)
    sources = [cast.cheat.counting, second.counting, first.counting]

    digests = set()
    for order in permutations(sources):
        reader = SimReplica(cast.genesis, STRANGER)
        for counting in order:
            reader.receive(counting)
        # entries of a later number that came alone are not known not to have a predecessor
        reader.receive([entry for counting in sources for entry in counting])
        assert reader.frauds[chain_of(WRITER)].seq == 1
        digests.add(reader.digest)
    assert len(digests) == 1


def test_a_proof_of_a_later_fraud_is_no_news() -> None:
    cast = Cast()
    twin = cast.twin()
    cast.reader.receive([write(cast.cheat, 1), write(twin, 6)])
    proof = cast.reader.frauds[chain_of(WRITER)]
    later = [write(replica, number) for replica, number in ((cast.cheat, 1), (twin, 6))]

    assert not cast.reader.receive(later, [proof])
    assert cast.reader.frauds[chain_of(WRITER)] == proof


def test_a_proof_is_enough_without_the_entries() -> None:
    cast = Cast()
    twin = cast.twin()
    entries = [write(cast.cheat, 1), write(twin, 6)]
    cast.reader.receive(entries)

    cast.owner.receive([], cast.reader.frauds.values())

    assert cast.owner.digest == cast.reader.digest
    assert not cast.owner.receive(entries)


def test_a_proof_that_came_before_the_grant_of_its_author_is_remembered() -> None:
    cast = Cast()
    twin = cast.twin()
    cast.reader.receive([write(cast.cheat, 1), write(twin, 6)])
    late = SimReplica(cast.genesis, ADMIN)

    late.receive([], cast.reader.frauds.values())
    assert not late.frauds
    late.receive(cast.reader.counting)
    assert late.digest == cast.reader.digest


def test_of_frauds_of_strangers_some_are_remembered() -> None:
    cast = Cast()
    strangers = [chain_of(IdentityKey.from_seed(number.to_bytes(32))) for number in range(MAX_EARLY_FRAUDS + 5)]

    early = early_frauds(cast.owner.replica, [(stranger, Fraud(1, b"", b"")) for stranger in strangers])
    assert list(early) == strangers[5:]


def test_the_fraud_of_who_has_no_right_is_ignored() -> None:
    cast = Cast()
    one, two = (cast.reader.replica.write(STRANGER, b"\0\0", time) for time in (1, 2))
    before = cast.owner.digest

    cast.owner.receive([one, two], [Fraud(1, one.raw, two.raw)])

    assert not cast.owner.frauds
    assert len(cast.owner.refused) == 2
    assert cast.owner.digest == before


def test_the_fraud_of_who_has_no_right_any_more_does_not_keep_replicas_apart() -> None:
    cast = Cast()
    admin = SimReplica(cast.genesis, ADMIN)
    right = cast.owner.grant(ADMIN, Role.ADMIN)
    assert right is not None
    admin.receive(cast.owner.counting)
    admin.grant(STRANGER)
    cast.reader.receive(admin.counting)
    twin = cast.reader.twin()
    admin.receive([write(cast.reader, 1), write(twin, 6)])
    assert admin.frauds
    cast.owner.revoke(ADMIN, right.mark)  # from before the grant, which the owner has not heard of

    converge([*cast.everybody, admin, twin])

    assert len({replica.digest for replica in (*cast.everybody, admin, twin)}) == 1


def test_the_frozen_author_writes_no_more() -> None:
    cast = Cast()
    twin = cast.twin()
    write(cast.cheat, 1)
    write(twin, 6)
    converge(cast.everybody)

    assert cast.cheat.write(APPEND) is None
    assert twin.write(APPEND) is None
    assert cast.cheat.state() == cast.owner.state()


def test_a_new_grant_does_not_thaw_who_is_frozen() -> None:
    cast = Cast()
    twin = cast.twin()
    write(cast.cheat, 1)
    write(twin, 6)
    converge(cast.everybody)
    cast.owner.grant(WRITER)
    converge(cast.everybody)

    assert cast.cheat.write(APPEND) is None


def test_a_writer_that_cheats_still_is_honest_in_its_other_lane() -> None:
    genesis = create_genesis(OWNER)
    owner, admin, reader = (SimReplica(genesis, key) for key in (OWNER, ADMIN, STRANGER))
    owner.grant(ADMIN, Role.ADMIN)
    converge([owner, admin])
    twin = admin.twin()
    write(admin, 1)
    write(twin, 6)
    converge([owner, admin, twin, reader])

    assert admin.grant(OTHER) is not None
    converge([owner, admin, twin, reader])
    assert set(reader.frauds) == {chain_of(ADMIN)}
    assert reader.replica.ledger.rights_of(OTHER.peer_id.raw)


def test_an_admin_that_grants_two_ways_grants_nothing_from_there_on() -> None:
    genesis = create_genesis(OWNER)
    owner, admin, reader = (SimReplica(genesis, key) for key in (OWNER, ADMIN, STRANGER))
    owner.grant(ADMIN, Role.ADMIN)
    converge([owner, admin])
    admin.grant(WRITER)
    twin = admin.twin()
    admin.grant(OTHER)
    twin.grant(STRANGER)
    converge([owner, admin, twin, reader])

    rights = reader.replica.ledger.rights
    assert set(reader.frauds) == {chain_of(ADMIN, Lane.CONTROL)}
    assert [bool(rights.of(key.peer_id.raw)) for key in (WRITER, OTHER, STRANGER)] == [True, False, False]
    assert admin.grant(OTHER) is None


def test_who_built_on_a_fraud_loses_that_and_what_came_after_and_goes_on() -> None:
    cast = Cast()
    before = write(cast.other)
    twin = cast.twin()
    fraud = write(cast.cheat, 1)
    cast.other.receive(cast.cheat.counting)
    lost = [write(cast.other), write(cast.other, SET)]
    write(twin, 6)
    converge(cast.everybody)

    assert cast.other.counts(before)
    assert not any(cast.reader.counts(entry) for entry in (fraud, *lost))
    after = write(cast.other)
    converge(cast.everybody)
    assert after.body.after == before.body.seq
    assert after.body.seq == lost[-1].body.seq + 1
    assert all(replica.counts(after) and replica.counts(before) for replica in cast.everybody)
    assert len({replica.digest for replica in cast.everybody}) == 1
    assert [epoch.first for epoch in cast.reader.replica.ledger.chain(after.chain).epochs] == [1, after.body.seq]
    write(cast.other)


def test_who_built_on_nothing_of_the_fraud_loses_nothing() -> None:
    cast = Cast()
    twin = cast.twin()
    write(cast.cheat, 1)
    entries = [write(cast.other), write(cast.other)]
    write(twin, 6)
    converge(cast.everybody)

    assert all(cast.reader.counts(entry) for entry in entries)
    assert write(cast.other).body.after == entries[-1].body.seq


@pytest.mark.parametrize("restart", [False, True])
def test_lost_numbers_are_not_used_again(restart: bool) -> None:
    """Else an honest author's next entry would prove a fraud."""
    cast = Cast()
    twin = cast.twin()
    write(cast.cheat, 1)
    cast.other.receive(cast.cheat.counting)
    lost = write(cast.other)
    cast.reader.receive(cast.other.counting)
    write(twin, 6)
    converge(cast.everybody)
    if restart:
        cast.other.restart()

    assert write(cast.other).body.seq == lost.body.seq + 1
    converge(cast.everybody)
    assert set(cast.reader.frauds) == {chain_of(WRITER)}


def test_two_authors_that_begin_with_one_client_id_are_both_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever comes first: replicas that took one and refused the other would differ for ever."""
    monkeypatch.setattr(chain, "_CLIENT_BITS", 1)  # there is one client ID
    cast = Cast()
    one, two = write(cast.cheat, 1), write(cast.other, 6)
    first, second, third = (SimReplica(cast.genesis, STRANGER) for _ in range(3))
    for reader, order in ((first, (one, two)), (second, (two, one))):
        reader.receive(cast.owner.counting)
        for entry in order:
            reader.receive([entry])
    third.receive(cast.owner.counting, first.frauds.values())

    assert set(first.frauds) == set(second.frauds) == {chain_of(WRITER), chain_of(OTHER)}
    assert first.digest == second.digest == third.digest
