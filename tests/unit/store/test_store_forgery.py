"""Whoever passes entries on cannot forge any, and who forges does not get others' entries refused."""

from __future__ import annotations

import pytest
from entry_forge import OTHER, OWNER, STRANGER, WRITER, Forge
from msgspec.structs import replace

from lattica.errors import EntryRefusedError
from lattica.store.absorb import absorb, check_signatures, prove_fraud
from lattica.store.entry import Entry, Kind, Lane, Verifier
from lattica.store.replica import Replica


def unsigned(entry: Entry) -> Entry:
    return replace(entry, signature=bytes(64))


@pytest.fixture
def forge() -> Forge:
    """A namespace in which two have written three entries each."""
    forge = Forge()
    for writer in (WRITER, OTHER):
        grant = forge.grant(OWNER, writer)
        forge.write(writer, deps=[grant])
        forge.write(writer)
        forge.write(writer)
    return forge


def run_of(forge: Forge, entry: Entry) -> list[Entry]:
    return [other for other in forge.entries if other.chain == entry.chain]


def test_what_its_authors_have_signed_passes(forge: Forge) -> None:
    check_signatures(forge.entries, Verifier(forge.namespace))


@pytest.mark.parametrize("at", range(8))
def test_an_entry_that_is_not_signed_is_refused_though_the_next_one_names_it(forge: Forge, at: int) -> None:
    """The next one may not count, now or later: then nobody could be shown that its author wrote this one."""
    sent = [*forge.entries[:at], unsigned(forge.entries[at]), *forge.entries[at + 1 :]]

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures(sent, Verifier(forge.namespace))


def test_an_entry_that_names_anothers_hash_does_not_vouch_for_it(forge: Forge) -> None:
    """Else anybody could have what it has made up pass as another's: it signs an entry that comes after it."""
    made_up = unsigned(forge.sign(WRITER, forge.data(WRITER).body))
    mine = forge.data(OTHER, prev=made_up.hash)

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures([made_up, mine], Verifier(forge.namespace))


def test_a_chain_of_data_does_not_vouch_for_the_control_chain(forge: Forge) -> None:
    made_up = unsigned(forge.grant(OWNER, STRANGER))
    data = forge.data(OWNER, prev=made_up.hash)

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures([made_up, data], Verifier(forge.namespace))


def test_another_entry_of_the_same_number_is_not_vouched_for(forge: Forge) -> None:
    *_, before, last = run_of(forge, forge.entries[-1])
    altered = unsigned(forge.sign(OTHER, replace(before.body, time=before.body.time + 1)))

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures([altered, last], Verifier(forge.namespace))


def test_entries_in_anothers_name_are_refused(forge: Forge) -> None:
    body = forge.data(WRITER).body

    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures([forge.sign(STRANGER, body)], Verifier(forge.namespace))


def test_entries_of_another_namespace_are_refused(forge: Forge) -> None:
    with pytest.raises(EntryRefusedError, match="its signature is wrong"):
        check_signatures(forge.entries, Verifier(Forge().namespace))


@pytest.mark.parametrize("lane", list(Lane))
def test_two_signed_entries_of_one_number_prove_a_fraud(forge: Forge, lane: Lane) -> None:
    body = forge.next(OWNER, lane, Kind.UPDATE if lane is Lane.DATA else Kind.GRANT, b"")
    one, other = forge.sign(OWNER, body), forge.sign(OWNER, body, time=1 << 50)
    verifier = Verifier(forge.namespace)

    for pair in ((one, other), (other, one)):
        entry, fraud = prove_fraud(forge.namespace, pair[0].raw, pair[1].raw, verifier)
        assert (entry.chain, fraud.seq) == (one.chain, one.body.seq)


def test_what_proves_no_fraud_is_refused(forge: Forge) -> None:
    entry, *_ = run_of(forge, forge.entries[-1])
    fork = forge.sign(OTHER, replace(entry.body, time=entry.body.time + 1))
    others = [
        entry,
        unsigned(entry),
        unsigned(fork),
        forge.sign(WRITER, fork.body),
        forge.sign(OTHER, replace(fork.body, seq=2)),
        forge.grant(OWNER, STRANGER),
        Forge().grant(OWNER, STRANGER),
    ]
    verifier = Verifier(forge.namespace)

    prove_fraud(forge.namespace, entry.raw, fork.raw, verifier)
    for other in others:
        raw = encoded(other)
        for pair in ((entry.raw, raw), (raw, entry.raw)):
            with pytest.raises(EntryRefusedError):
                prove_fraud(forge.namespace, *pair, verifier)
    with pytest.raises(EntryRefusedError):
        prove_fraud(forge.namespace, b"", b"", verifier)


def encoded(entry: Entry) -> bytes:
    at = len(entry.raw) - len(entry.signature)
    return entry.raw[:at] + entry.signature


def test_what_breaks_the_rules_is_named_and_the_rest_is_taken(forge: Forge) -> None:
    replica = Replica(forge.genesis, STRANGER.peer_id.raw)
    bad = [forge.data(STRANGER), forge.data(WRITER, payload=b"junk")]

    absorbed = absorb(replica, [bad[0], *forge.entries, bad[1]])

    assert absorbed.added == forge.entries
    assert [entry for entry, _ in absorbed.refused] == bad
    assert all(reason for _, reason in absorbed.refused)


def test_entries_that_come_twice_count_once(forge: Forge) -> None:
    replica = Replica(forge.genesis, STRANGER.peer_id.raw)

    absorbed = absorb(replica, [*forge.entries, *forge.entries])

    assert (absorbed.added, absorbed.known, absorbed.missing) == (forge.entries, len(forge.entries), 0)
    assert absorb(replica, forge.entries).added == []


def test_entries_that_build_on_others_wait(forge: Forge) -> None:
    replica = Replica(forge.genesis, STRANGER.peer_id.raw)

    absorbed = absorb(replica, [entry for entry in forge.entries if entry.body.lane is Lane.DATA])

    assert (absorbed.added, absorbed.missing, absorbed.must_replay) == ([], 6, False)


def test_of_many_forks_the_first_of_each_chain_is_looked_into(forge: Forge) -> None:
    """Each takes a look at the disk, and a message can bring thousands."""
    replica = Replica(forge.genesis, STRANGER.peer_id.raw)
    absorb(replica, forge.entries)
    authors = {key.peer_id.raw: key for key in (OWNER, WRITER, OTHER)}
    forks = [
        forge.sign(authors[entry.body.author], replace(entry.body, time=entry.body.time + more))
        for entry in reversed(forge.entries)
        for more in (1, 2)
    ]

    absorbed = absorb(replica, forks)
    assert sorted(fork.body.seq for fork in absorbed.forks) == [1, 1, 1]
    assert {fork.chain for fork in absorbed.forks} == {entry.chain for entry in forge.entries}
