"""Replays that wait: how much they may take, and what is kept meanwhile."""

from __future__ import annotations

import pytest
from entry_forge import OTHER, OWNER, STRANGER, WRITER, Forge
from hypothesis import given
from hypothesis import strategies as st
from ledger_replicas import SimReplica

from lattica.identity import IdentityKey
from lattica.store.entry import Entry, Lane
from lattica.store.ledger import Fraud
from lattica.store.postponed import PostponedPool
from lattica.store.replay_budget import ReplayBudget

FRAUD = Fraud(3, b"one", b"other")


@pytest.fixture
def forge() -> Forge:
    """A namespace in which two have written four entries each."""
    forge = Forge()
    for writer in (WRITER, OTHER):
        grant = forge.grant(OWNER, writer)
        forge.write(writer, deps=[grant])
        for _ in range(3):
            forge.write(writer)
    return forge


def first_of(forge: Forge, writer: IdentityKey) -> Entry:
    return next(entry for entry in forge.entries if entry.chain == (writer.peer_id.raw, Lane.DATA))


def test_a_burst_of_replays_goes_through_and_then_each_waits_for_its_share() -> None:
    budget = ReplayBudget(burst=1.0, share=0.25)
    for _ in range(3):
        assert budget.wait_s(100.0) == 0
        budget.spend(0.5, 100.0)

    assert budget.wait_s(100.0) == 2.0
    assert budget.wait_s(101.0) == 1.0
    assert budget.wait_s(102.0) == 0


def test_idle_time_saves_no_more_than_one_burst() -> None:
    budget = ReplayBudget(burst=1.0, share=0.25)
    budget.spend(3.0, 100.0)

    budget.spend(3.0, 1_000_000.0)

    assert budget.wait_s(1_000_000.0) == 8.0


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 30)), min_size=1, max_size=50))
def test_replays_take_their_share_of_any_time_at_most(replays: list[tuple[float, float]]) -> None:
    budget = ReplayBudget(burst=1.0, share=0.2)
    now = spent = longest = 0.0
    for pause, seconds in replays:
        now += max(pause, budget.wait_s(now)) + seconds
        budget.spend(seconds, now)
        spent, longest = spent + seconds, max(longest, seconds)

        assert spent <= 1.0 + 0.2 * now + longest + 1e-6


def test_of_many_ways_on_of_a_chain_the_longest_waits(forge: Forge) -> None:
    pool = PostponedPool()
    one = first_of(forge, WRITER)
    ways = [forge.resumed(WRITER, one, seq) for seq in (6, 9, 7)]

    for way in ways:
        pool.hold([way], {})

    assert pool.size == len(ways[1].raw)
    assert pool.take_entries() == [ways[1]]
    assert (bool(pool), pool.size) == (False, 0)


def test_who_takes_most_of_the_room_gives_way(forge: Forge) -> None:
    grown = forge.sign(WRITER, forge.resumed(WRITER, first_of(forge, WRITER), 6).body, payload=bytes(2000))
    small = forge.resumed(OTHER, first_of(forge, OTHER), 6)
    pool = PostponedPool(max_bytes=2000)

    pool.hold([small], {})
    pool.hold([grown], {small.chain: FRAUD})

    assert pool.take_entries() == [small]
    assert pool.take_frauds() == {small.chain: FRAUD}
    assert not pool


def test_what_waited_counts_as_if_it_had_not(forge: Forge) -> None:
    ways = [forge.resumed(writer, first_of(forge, writer), seq) for seq in range(6, 30) for writer in (WRITER, OTHER)]
    prompt, tired = (SimReplica(forge.genesis, STRANGER) for _ in range(2))
    for replica in (prompt, tired):
        replica.receive(forge.entries)
    tired.is_tired = True
    before = tired.digest

    for way in ways:
        prompt.receive([way])
        tired.receive([way])
    assert tired.digest == before
    tired.take_up()

    assert tired.digest == prompt.digest != before
