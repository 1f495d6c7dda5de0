"""Replicas that have seen the same entries hold the same, whatever the order, and whatever some authors try."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from ledger_replicas import converge, key_of
from ledger_stories import OWNER, Step, Story, histories, policies

from lattica.store import chain
from lattica.store.namespace import Policy, create_genesis


def check_convergence(policy: Policy, history: list[Step], *, honest_are_safe: bool = True) -> None:
    story = Story(create_genesis(key_of(OWNER), policy=policy))
    for step in history:
        story.do(*step)

    converge(story.everybody)

    assert len({replica.digest for replica in story.everybody}) == 1
    state = story.replicas[0].state()
    for replica in story.everybody:
        assert replica.state() == state
        before = replica.digest
        replica.restart()
        assert (replica.digest, replica.state()) == (before, state)
        if honest_are_safe:
            assert {frozen.author for frozen in replica.frauds} <= story.dishonest


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(policies, histories(40))
def test_replicas_that_know_the_same_hold_the_same(policy: Policy, history: list[Step]) -> None:
    check_convergence(policy, history)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(policies, histories(40, postponing=True))
def test_replicas_hold_the_same_though_some_put_replays_off(policy: Policy, history: list[Step]) -> None:
    check_convergence(policy, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=3000)
@given(policies, histories(80, postponing=True))
def test_replicas_hold_the_same_after_long_stories(policy: Policy, history: list[Step]) -> None:
    check_convergence(policy, history)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(policies, histories(40))
def test_authors_that_have_one_client_id_do_not_keep_replicas_apart(policy: Policy, history: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "_CLIENT_BITS", 2)
        check_convergence(policy, history, honest_are_safe=False)
