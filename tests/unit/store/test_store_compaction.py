"""Replicas that have dropped what a checkpoint covers hold the same as those that have not, and go on alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from ledger_replicas import SimReplica, converge, fold_all, key_of
from ledger_stories import OWNER, Step, Story, histories, policies

from lattica.errors import EntryRefusedError
from lattica.store.control import EVERYBODY, Role
from lattica.store.entry import ChainId, Lane
from lattica.store.namespace import Policy, create_genesis
from lattica.store.state import read_state


def check_convergence(policy: Policy, history: list[Step]) -> None:
    story = Story(create_genesis(key_of(OWNER), policy=policy), owner_is_honest=True)
    for step in history:
        story.do(*step)

    converge(story.everybody)
    fold_all(story.everybody)

    assert len({replica.digest for replica in story.everybody}) == 1
    state = story.replicas[0].state()
    for replica in story.everybody:
        assert replica.state() == state
        before = replica.digest
        replica.restart()
        assert (replica.digest, replica.state()) == (before, state)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(policies, histories(40, compacting=True, postponing=True))
def test_replicas_hold_the_same_whether_they_have_dropped_entries_or_not(policy: Policy, history: list[Step]) -> None:
    check_convergence(policy, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=2000)
@given(policies, histories(80, compacting=True, postponing=True))
def test_replicas_hold_the_same_after_long_stories_with_checkpoints(policy: Policy, history: list[Step]) -> None:
    check_convergence(policy, history)


def open_pair() -> tuple[SimReplica, SimReplica]:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    return SimReplica(genesis, key_of(1)), SimReplica(genesis, key_of(2))


def test_only_the_owners_checkpoints_count() -> None:
    owner, writer = open_pair()
    owner.grant(key_of(2), Role.ADMIN)
    converge([owner, writer])
    assert writer.write(0)
    before = writer.digest
    assert not writer.compact()
    assert writer.digest == before
    converge([owner, writer])
    assert owner.compact()


def test_a_checkpoint_drops_what_it_covers_and_nothing_else() -> None:
    owner, writer = open_pair()
    for number in range(30):
        owner.write(number)
        writer.write(number)
    converge([owner, writer])
    state = owner.state()
    assert owner.compact()
    late = writer.write(2)
    assert late is not None
    assert [entry.body.lane for entry in owner.stored] == [Lane.CONTROL]
    converge([owner, writer])
    assert writer.fold()
    assert [entry for entry in writer.stored if entry.body.lane is Lane.DATA] == [late]
    assert owner.state()["list:log"] == state["list:log"]
    assert owner.state() == writer.state()


def test_who_comes_late_takes_the_state_over() -> None:
    owner, writer = open_pair()
    for number in range(30):
        owner.write(number)
    owner.compact()
    owner.write(1)
    assert writer.hear(owner)
    assert (writer.digest, writer.state()) == (owner.digest, owner.state())
    assert writer.write(2)
    owner.hear(writer)
    assert (writer.digest, writer.state()) == (owner.digest, owner.state())


def test_a_state_that_is_not_what_the_owner_signed_is_refused() -> None:
    owner, writer = open_pair()
    owner.write(0)
    owner.compact()
    writer.receive(owner.stored)
    checkpoint = writer.replica.ledger.rights.checkpoints[1]
    for at in range(len(owner.state_raw)):
        forged = bytearray(owner.state_raw)
        forged[at] ^= 1
        with pytest.raises(EntryRefusedError):
            read_state(bytes(forged), checkpoint.state)


def test_what_a_checkpoint_covers_is_not_taken_back_by_a_revocation_that_does_not_know_of_it() -> None:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    owner, admin, writer = (SimReplica(genesis, key_of(number)) for number in (1, 2, 3))
    owner.grant(key_of(2), Role.ADMIN)
    converge([owner, admin, writer])
    for number in (0, 3, 6):
        writer.write(number)
    assert admin.revoke(key_of(3), EVERYBODY)  # it has seen nothing of the writer's
    owner.hear(writer)
    state = owner.state()
    assert owner.compact()
    assert writer.write(9)  # this the owner has not seen either
    converge([owner, admin, writer])
    assert owner.state() == admin.state() == writer.state() == state
    assert writer.replica.ledger.chain(ChainId(key_of(3).peer_id.raw, Lane.DATA)).head == 3


def test_what_builds_on_a_checkpoints_state_counts_when_the_next_one_is_known_too() -> None:
    owner, writer = open_pair()
    owner.write(0)
    writer.hear(owner)
    owner.write(20)
    owner.compact()
    assert writer.write(45)  # after the owner's first entry, which the checkpoint covers
    owner.write(45)
    owner.hear(writer)
    writer.hear(owner)  # takes the state over
    assert owner.compact()
    assert writer.hear(owner)
    before = (writer.digest, writer.state())
    writer.restart()
    assert (writer.digest, writer.state()) == before
    assert writer.fold()
    assert (writer.digest, writer.state()) == (owner.digest, owner.state())


def test_a_fork_before_a_checkpoint_is_settled_by_it() -> None:
    owner, writer = open_pair()
    writer.write(0)
    twin = writer.twin()
    writer.write(3)
    twin.write(6)
    owner.hear(writer)
    state = owner.state()
    owner.compact()
    assert not owner.receive(twin.counting)
    converge([owner, writer, twin])
    assert owner.state() == writer.state() == twin.state() == state


def test_a_fork_after_a_checkpoint_freezes_its_author_from_there_on() -> None:
    owner, writer = open_pair()
    writer.write(0)
    owner.hear(writer)
    owner.compact()
    converge([owner, writer])
    twin = writer.twin()
    writer.write(3)
    twin.write(6)
    converge([owner, writer, twin])
    fold_all([owner, writer, twin])
    assert owner.digest == writer.digest == twin.digest
    assert owner.replica.ledger.frozen_from(ChainId(key_of(2).peer_id.raw, Lane.DATA)) == 2
    assert writer.write(0) is None
