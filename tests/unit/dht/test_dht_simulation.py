"""What the whole does: 1,000 of the very machines that nodes run, a fifth of them dying at once."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from lattica.dht.limits import MAX_LOOKUP_QUERIES, K
from lattica.dht.simulation import LookupOutcome, SimulatedNetwork, Trial, run_trial

DEAD = 0.2


def success(outcomes: list[LookupOutcome]) -> float:
    return sum(outcome.found for outcome in outcomes) / len(outcomes)


def mean_rounds(outcomes: list[LookupOutcome]) -> float:
    return statistics.mean(outcome.rounds for outcome in outcomes)


def check_success(trial: Trial) -> None:
    assert success(trial.find_peer) >= 0.99
    assert success(trial.find_providers) >= 0.99
    assert success(trial.find_closest) >= 0.98
    outcomes = [*trial.find_peer, *trial.find_providers, *trial.find_closest]
    assert max(outcome.messages for outcome in outcomes) < MAX_LOOKUP_QUERIES / 2
    assert max(outcome.rounds for outcome in outcomes) <= 2 * math.log2(trial.size)


def check_growth(small: Trial, large: Trial) -> None:
    """A lookup takes a fixed number of rounds more for each doubling, and at most the one that Kademlia promises."""
    doublings = math.log2(large.size / small.size)
    for kind in ("find_peer", "find_providers", "find_closest"):
        growth = mean_rounds(getattr(large, kind)) - mean_rounds(getattr(small, kind))
        assert 0 < growth < 0.75 * doublings


@pytest.mark.slow
def test_of_a_thousand_nodes_a_fifth_may_die_and_lookups_still_succeed_in_few_rounds() -> None:
    small = run_trial(100, seed=7, dead=DEAD, lookups=200)
    large = run_trial(1000, seed=7, dead=DEAD, lookups=200)
    check_success(small)
    check_success(large)
    check_growth(small, large)
    assert statistics.median(outcome.rounds for outcome in large.find_peer) <= math.log2(1000 / K)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_thousand_nodes_take_one_or_two_rounds_more_than_three_hundred() -> None:
    small = run_trial(316, seed=7, dead=DEAD, lookups=500)
    large = run_trial(3162, seed=7, dead=DEAD, lookups=500)
    check_success(large)
    check_growth(small, large)


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (run_trial(60, seed=3, dead=DEAD, lookups=20) for _ in range(2))
    assert first == second
    assert run_trial(60, seed=4, dead=DEAD, lookups=20) != first


def test_what_nobody_provides_is_not_found() -> None:
    network = SimulatedNetwork(random.Random(1))
    network.grow(60)
    outcome = network.find_providers(network.live[0], b"\x12\x20" + bytes(32))
    assert not outcome.found
    assert outcome.messages >= K


def test_a_peer_that_died_is_forgotten_by_those_who_asked_it() -> None:
    network = SimulatedNetwork(random.Random(1))
    network.grow(60)
    network.kill(0.2)
    asker = network.live[0]
    first = network.find_closest(asker, b"somewhere")
    second = network.find_closest(asker, b"somewhere")
    assert second.found
    assert second.messages < first.messages
    assert second.seconds < first.seconds / 2
