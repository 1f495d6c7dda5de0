"""Replicas that have seen the same entries hold the same, whatever the order, and whatever some authors try."""

from __future__ import annotations

from hypothesis import given, settings
from ledger_replicas import converge, key_of
from ledger_stories import OWNER, Story, policies, steps

from lattica.store.namespace import Policy, create_genesis


@settings(deadline=None)
@given(policies, steps)
def test_replicas_that_know_the_same_hold_the_same(policy: Policy, history: list[tuple[str, int, int, int]]) -> None:
    story = Story(create_genesis(key_of(OWNER), policy=policy))
    for step in history:
        story.do(*step)
    everybody = story.everybody

    converge(everybody)

    assert len({replica.digest for replica in everybody}) == 1
    states = [replica.state() for replica in everybody]
    assert all(state == states[0] for state in states)
    for replica in everybody:
        before = replica.digest
        replica.restart()
        assert (replica.digest, replica.state()) == (before, states[0])
