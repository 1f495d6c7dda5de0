"""Of an open namespace a replica takes in so many strangers, and everybody who matters to those whom it trusts."""

from __future__ import annotations

import pytest
from entry_forge import ADMIN, OWNER, WRITER, Forge, value
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, key_of
from ledger_stories import Step, Story, histories

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store import settle as settling
from lattica.store.absorb import absorb
from lattica.store.control import EVERYBODY, Role
from lattica.store.description import describe_authors
from lattica.store.entry import MAX_SEQ, ChainId, Lane
from lattica.store.folding import checkpoint_of, folds_of
from lattica.store.ledger import Fraud, Ledger, Verdict
from lattica.store.namespace import Limits, Policy, create_genesis, read_genesis
from lattica.store.replica import Replica
from lattica.store.settle import early_frauds, new_frauds
from lattica.store.writers import may_write

STRANGERS = [key_of(number) for number in range(10, 20)]


class OpenForge(Forge):
    """An open namespace that takes few strangers."""

    def __init__(self, limits: Limits, policy: Policy = Policy.OPEN) -> None:
        super().__init__(policy)
        self.genesis = create_genesis(OWNER, policy=policy, limits=limits)
        self.namespace = self.genesis.namespace
        self.ledger = Ledger(self.genesis)


@pytest.fixture
def forge() -> OpenForge:
    return OpenForge(Limits(strangers=3))


def reader_of(forge: Forge) -> Replica:
    return Replica(forge.genesis, key_of(99).peer_id.raw)


def authors_of(replica: Replica) -> set[bytes]:
    return {chain.author for chain in replica.ledger.chains if chain.lane == Lane.DATA}


def fraud_of(forge: Forge, key: IdentityKey) -> tuple[ChainId, Fraud]:
    one, other = forge.data(key), forge.data(key, value("map:settings", "k"))
    return one.chain, Fraud(1, one.raw, other.raw)


# strangers


def test_strangers_are_taken_until_there_are_enough(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in STRANGERS]
    replica = reader_of(forge)

    absorbed = absorb(replica, entries)

    assert authors_of(replica) == {stranger.peer_id.raw for stranger in STRANGERS[:3]}
    assert (len(absorbed.added), absorbed.left_out, absorbed.refused) == (3, 7, [])


def test_who_is_in_goes_on_though_no_more_are_taken(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in (*STRANGERS, *STRANGERS)]
    replica = reader_of(forge)

    absorb(replica, entries)

    assert [len(replica.ledger.chain(entry.chain)) for entry in entries[:4]] == [2, 2, 2, 0]


def test_who_was_granted_something_is_taken_always(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in STRANGERS]
    entries = [*entries, forge.grant(OWNER, WRITER), forge.write(WRITER), forge.write(OWNER)]
    replica = reader_of(forge)

    absorb(replica, entries)

    assert {key.peer_id.raw for key in (OWNER, WRITER)} < authors_of(replica)


def test_a_grant_lets_those_in_who_were_left_out(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in STRANGERS]
    replica = reader_of(forge)
    absorb(replica, entries)

    absorb(replica, [forge.grant(OWNER, STRANGERS[7])])

    assert absorb(replica, entries).added == [entries[7]]


def test_a_grant_to_one_who_is_in_makes_room_for_another(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in STRANGERS]
    replica = reader_of(forge)
    absorb(replica, [forge.grant(OWNER, WRITER), *entries])

    absorb(replica, [forge.grant(OWNER, STRANGERS[0])])

    assert absorb(replica, entries).added == [entries[3]]


def test_a_right_that_has_ended_makes_room_when_its_author_is_dropped(forge: OpenForge) -> None:
    entries = [forge.write(stranger) for stranger in STRANGERS]
    replica = SimReplica(forge.genesis, key_of(99))
    replica.receive(entries)

    replica.receive([forge.revocation(OWNER, STRANGERS[0], None, last=0)])
    replica.receive(entries)

    assert authors_of(replica.replica) == {stranger.peer_id.raw for stranger in STRANGERS[1:4]}


@pytest.mark.parametrize("policy", [Policy.ALLOW_LIST, Policy.CAPABILITY])
def test_where_everybody_needs_a_right_nobody_is_a_stranger(policy: Policy) -> None:
    forge = OpenForge(Limits(strangers=0), policy)

    assert all(forge.ledger.crowd.takes(stranger.peer_id.raw) for stranger in STRANGERS)


def test_no_namespace_takes_more_authors_than_a_checkpoint_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.crowd.MAX_AUTHORS", 5)
    forge = OpenForge(Limits())
    entries = [forge.write(stranger) for stranger in STRANGERS]
    replica = reader_of(forge)

    absorb(replica, entries)

    assert len(authors_of(replica)) == 5
    assert replica.ledger.crowd.takes(OWNER.peer_id.raw)


# vouching


def test_all_take_the_stranger_on_whom_one_builds_who_was_granted_something(forge: OpenForge) -> None:
    strangers = [forge.write(stranger) for stranger in STRANGERS]
    granted = forge.grant(OWNER, WRITER)
    building = forge.write(WRITER, deps=[granted, strangers[8]])
    replica = reader_of(forge)
    absorb(replica, [*strangers, granted])

    assert absorb(replica, [building]).missing == 1
    assert absorb(replica, [*strangers, building]).added == [strangers[8], building]


def test_strangers_do_not_vouch_for_strangers(forge: OpenForge) -> None:
    strangers = [forge.write(stranger) for stranger in STRANGERS]
    building = forge.write(STRANGERS[0], deps=[strangers[8]])
    replica = reader_of(forge)
    absorb(replica, strangers)

    assert absorb(replica, [building]).missing == 1
    assert absorb(replica, [*strangers, building]).added == []


def test_whose_right_has_ended_does_not_vouch_for_strangers(forge: OpenForge) -> None:
    strangers = [forge.write(stranger) for stranger in STRANGERS]
    granted = forge.grant(OWNER, WRITER)
    seen = forge.write(WRITER, deps=[granted])
    building = forge.write(WRITER, deps=[strangers[8]])
    replica = SimReplica(forge.genesis, key_of(99))
    replica.receive([*strangers, granted, seen, forge.revocation(OWNER, WRITER, granted, last=1)])

    replica.receive([building])
    replica.receive([*strangers, building])

    assert ChainId(STRANGERS[8].peer_id.raw, Lane.DATA) not in replica.replica.ledger.chains


def test_trust_reaches_further_as_a_trusted_author_builds_on_more(forge: OpenForge) -> None:
    others = [forge.write(stranger) for stranger in STRANGERS[:7]]
    deepest = forge.write(STRANGERS[9])
    lower = [forge.write(STRANGERS[8]), forge.write(STRANGERS[8], deps=[deepest])]
    owners = [forge.write(OWNER, deps=[entry]) for entry in lower]
    replica = reader_of(forge)
    absorb(replica, [*others, owners[0]])
    absorb(replica, [lower[0], *owners])

    for _ in range(3):
        absorb(replica, [lower[1], deepest, owners[1]])

    assert replica.counts(owners[1])


def test_there_is_room_for_so_many_who_are_vouched_for(forge: OpenForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.crowd.MAX_AUTHORS", 4)
    forge.ledger = Ledger(create_genesis(OWNER, policy=Policy.OPEN, limits=Limits(strangers=0)))
    for stranger in STRANGERS:
        forge.ledger.crowd.vouch(stranger.peer_id.raw)

    assert [forge.ledger.crowd.takes(stranger.peer_id.raw) for stranger in STRANGERS] == [True] * 4 + [False] * 6


def test_trust_reaches_all_that_a_trusted_author_builds_on(forge: OpenForge) -> None:
    """The owner on a stranger's second entry, that on another's: these two are taken, but what comes later is not."""
    others = [forge.write(stranger) for stranger in STRANGERS[:7]]
    deepest = forge.write(STRANGERS[9])
    lower = [forge.write(STRANGERS[8]), forge.write(STRANGERS[8], deps=[deepest])]
    owners = forge.write(OWNER, deps=[lower[1]])
    later = [forge.write(STRANGERS[7])]
    later.append(forge.write(STRANGERS[8], deps=later))
    replica = reader_of(forge)
    absorb(replica, others)

    for _ in range(5):
        absorb(replica, [owners, *lower, deepest, *later])

    assert all(replica.counts(entry) for entry in (owners, *lower, deepest))
    assert not any(replica.counts(entry) for entry in later)


# frauds


def test_frauds_of_strangers_count_as_strangers(forge: OpenForge) -> None:
    proofs = [fraud_of(forge, stranger) for stranger in STRANGERS]
    replica = reader_of(forge)
    absorb(replica, [forge.write(STRANGERS[0])])

    assert list(new_frauds(replica, reversed(proofs))) == [proofs[9][0], proofs[8][0], proofs[0][0]]
    assert not early_frauds(replica, proofs)


def test_strangers_that_are_known_for_their_frauds_leave_no_room(forge: OpenForge) -> None:
    proofs = dict(fraud_of(forge, stranger) for stranger in STRANGERS[:3])
    replica = Replica(forge.genesis, key_of(99).peer_id.raw, proofs)

    assert absorb(replica, [forge.write(STRANGERS[5])]).left_out == 1


def test_proofs_that_may_be_of_use_later_take_so_many_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    forge = OpenForge(Limits(), Policy.ALLOW_LIST)
    proofs = [fraud_of(forge, stranger) for stranger in STRANGERS]
    one = len(proofs[0][1].one) + len(proofs[0][1].other)
    monkeypatch.setattr(settling, "MAX_EARLY_BYTES", 4 * one)

    assert list(early_frauds(reader_of(forge), proofs)) == [chain for chain, _ in proofs[-4:]]


# how much a stranger may write


def test_a_stranger_writes_so_many_entries_and_more_when_granted() -> None:
    forge = OpenForge(Limits(stranger_entries=2))
    for _ in range(2):
        assert may_write(forge.ledger, WRITER.peer_id.raw)
        forge.write(WRITER)
    third = forge.data(WRITER)

    assert not may_write(forge.ledger, WRITER.peer_id.raw)
    assert forge.add(third) is Verdict.MOOT
    granted = forge.grant(OWNER, WRITER)
    assert may_write(forge.ledger, WRITER.peer_id.raw)
    forge.write(WRITER, deps=[granted])


def test_a_stranger_is_shown_as_a_writer_until_it_has_written_all_that_it_may() -> None:
    forge = OpenForge(Limits(stranger_entries=2))
    roles = []
    for _ in range(2):
        forge.write(WRITER)
        roles.append({info.peer: info.role for info in describe_authors(forge.ledger)}[WRITER.peer_id])

    assert roles == ["writer", ""]


def test_who_owns_the_namespace_or_was_granted_something_writes_as_much_as_it_likes() -> None:
    forge = OpenForge(Limits(stranger_entries=2))
    granted = forge.grant(OWNER, ADMIN, Role.ADMIN)
    forge.write(ADMIN, deps=[granted])
    for _ in range(5):
        forge.write(OWNER)
        forge.write(ADMIN)


def test_limits_are_read_as_they_were_made() -> None:
    limits = Limits(entry=1000, strangers=7, stranger_entries=9)

    assert read_genesis(create_genesis(OWNER, limits=limits).raw).limits == limits


# checkpoints


def test_a_checkpoint_may_name_more_authors_than_an_entry_of_others_has_room_for() -> None:
    forge = OpenForge(Limits(entry=2000))
    for stranger in STRANGERS:
        forge.write(stranger)
    checkpoint = checkpoint_of(folds_of(forge.ledger) * 10, b"state")
    replica = Replica(forge.genesis, OWNER.peer_id.raw)
    entry = replica.control(OWNER, checkpoint, 1)

    assert len(entry.raw) > forge.genesis.limits.entry
    assert forge.add(entry) is Verdict.ADDED


def test_who_is_not_the_owner_writes_no_large_checkpoint() -> None:
    forge = OpenForge(Limits(entry=2000))
    for stranger in STRANGERS:
        forge.write(stranger)
    checkpoint = checkpoint_of(folds_of(forge.ledger) * 10, b"state")

    with pytest.raises(EntryRefusedError, match="bytes of at most 2000"):
        forge.add(Replica(forge.genesis, WRITER.peer_id.raw).control(WRITER, checkpoint, 1))


# convergence


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2), st.sampled_from((0, 1, 3)), histories(40, postponing=True))
def test_replicas_that_left_strangers_out_hold_the_same_once_these_are_granted_something(
    strangers: int, most: int, history: list[Step]
) -> None:
    limits = Limits(strangers=strangers, stranger_entries=most)
    story = Story(create_genesis(key_of(1), policy=Policy.OPEN, limits=limits), owner_is_honest=True)
    for step in history:
        story.do(*step)
    converge(story.everybody)

    for key in story.keys[1:]:
        story.replicas[0].grant(key)
    converge(story.everybody)

    assert len({replica.digest for replica in story.everybody}) == 1
    state = story.replicas[0].state()
    for replica in story.everybody:
        assert replica.state() == state
        before = replica.digest
        replica.restart()
        assert replica.digest == before


def trusted(replica: SimReplica) -> set[bytes]:
    """The owner, and who was granted something that was not taken back."""
    ledger = replica.replica.ledger
    rights = {author: ledger.rights_of(author) for author in ledger.rights.authors}
    return {
        author
        for author, found in rights.items()
        if author == OWNER.peer_id.raw or any(right.mark != EVERYBODY and right.last == MAX_SEQ for right in found)
    }


ungranted = st.sampled_from(("write", "write", "write", "tell", "hint", "revoke", "twin", "rewind", "tire", "rest"))
steps = st.tuples(ungranted, st.integers(0, 4), st.integers(0, 4), st.integers(0, 1 << 12))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(steps, max_size=40))
def test_what_trusted_authors_write_gets_to_all_whichever_strangers_they_hold(history: list[Step]) -> None:
    """The owner has taken in one stranger, an admin the other, when all begins."""
    limits = Limits(strangers=1)
    story = Story(create_genesis(key_of(1), policy=Policy.OPEN, limits=limits), owner_is_honest=True)
    for stranger, trusting in ((3, 1), (4, 0)):
        story.do("write", stranger, 0, 1)
        story.do("tell", stranger, trusting, 0)
    for step in history:
        story.do(*step)

    converge(story.everybody)

    authors = trusted(story.replicas[0])
    for author in authors:
        name = ChainId(author, Lane.DATA)
        heads = {replica.replica.ledger.chain(name).head_hash for replica in story.everybody}
        assert (len(heads), [trusted(replica) for replica in story.everybody if trusted(replica) != authors]) == (1, [])
