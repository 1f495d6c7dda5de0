"""Who is asked when, and what this node itself offers."""

from __future__ import annotations

import random

import pytest
from service_records import NAME, WALL, key, peer

from lattica.rpc.replicas.ask_plan import AskPlan, SearchPlan
from lattica.rpc.replicas.limits import (
    ASK_RETRY_MAX_S,
    MAX_ASKERS,
    MAX_CANDIDATES,
    MAX_LEASE_S,
    MIN_ASK_INTERVAL_S,
    RENEW_EARLY,
    RESIGN_PART,
    SEARCH_INTERVAL_S,
    SEARCH_RETRY_MAX_S,
)
from lattica.rpc.replicas.offers import Offers
from lattica.rpc.replicas.record import unseal_record

RESIGN_S = 30.0 * RESIGN_PART


@pytest.fixture
def plan() -> AskPlan:
    return AskPlan(random.Random(1))


def test_whoever_is_found_is_asked_once(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    plan.found(peer(1), 0.0)
    assert plan.due(0.0) == [peer(1)]
    plan.asking(peer(1))
    assert plan.due(100.0) == []
    assert plan.next_at() is None


def test_a_replica_is_asked_again_when_a_part_of_its_lease_is_over(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    plan.asking(peer(1))
    plan.offers(peer(1), 0.0, expires_at=30.0, lease=30.0)
    plan.answered(peer(1))
    at = plan.next_at()
    assert at is not None
    assert 30 * (1 - RENEW_EARLY[1]) <= at <= 30 * (1 - RENEW_EARLY[0])


def test_a_record_that_others_pass_on_puts_the_question_off(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    plan.offers(peer(1), 0.0, expires_at=30.0, lease=30.0)
    first = plan.next_at()
    plan.offers(peer(1), 10.0, expires_at=45.0, lease=30.0)
    assert first is not None
    assert (plan.next_at() or 0.0) > first


def test_tiny_leases_do_not_make_us_ask_without_pause(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    plan.offers(peer(1), 5.0, expires_at=5.001, lease=0.001)
    assert plan.next_at() == 5.0 + MIN_ASK_INTERVAL_S


def test_who_fails_is_asked_after_growing_pauses(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    now, pauses = 0.0, []
    for _ in range(20):
        assert plan.due(now) == [peer(1)]
        plan.asking(peer(1))
        plan.failed(peer(1), now, "connection refused")
        at = plan.next_at()
        assert at is not None
        pauses.append(at - now)
        now = at
    assert pauses[0] <= 1.0
    assert 0.7 * ASK_RETRY_MAX_S < pauses[-1] <= ASK_RETRY_MAX_S
    assert plan.attempts() == {str(peer(1)): "connection refused"}


def test_it_is_settled_when_everybody_was_heard_of(plan: AskPlan) -> None:
    plan.found(peer(1), 0.0)
    plan.found(peer(2), 0.0)
    plan.answered(peer(1))
    assert not plan.is_settled
    plan.failed(peer(2), 0.0, "gone")
    assert plan.is_settled


def test_who_failed_makes_room_for_who_is_new(plan: AskPlan) -> None:
    for number in range(MAX_CANDIDATES + 50):
        plan.found(peer(number), 0.0)
    assert len(plan) == MAX_CANDIDATES
    plan.failed(peer(7), 0.0, "gone")
    plan.found(peer(900), 1.0)
    assert len(plan) == MAX_CANDIDATES
    assert peer(900) in plan.due(1.0)
    assert peer(7) not in plan.due(1000.0)


def test_searches_are_frequent_while_there_is_nobody_and_rare_later() -> None:
    search, now, pauses = SearchPlan(random.Random(1)), 0.0, []
    assert search.next_at < 0
    for _ in range(10):
        search.ended(now, replicas=0)
        pauses.append(search.next_at - now)
        now = search.next_at
    assert pauses[0] == 1.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == SEARCH_RETRY_MAX_S
    search.ended(now, replicas=3)
    assert search.next_at - now > SEARCH_INTERVAL_S / 2
    search.lost_all(now)
    assert search.next_at == now + 1.0


# our own offers


@pytest.fixture
def offers() -> Offers:
    return Offers(key(1), lease=30.0)


def test_an_offer_is_signed_when_asked_for_with_the_load_of_the_moment(offers: Offers) -> None:
    load = [1.0]
    offers.put(NAME, capacity=4, load=lambda: load[0])
    first = offers.record(NAME, 0.0, WALL)
    assert first is not None
    assert unseal_record(first.envelope) == first
    assert (first.capacity, first.load, first.lease_ms) == (4, 1.0, 30_000)
    load[0] = 2.0
    assert offers.record(NAME, RESIGN_S * 0.9, WALL) == first  # signing is not for whoever likes
    second = offers.record(NAME, RESIGN_S, WALL)
    assert second is not None
    assert second.supersedes(first)
    assert second.load == 2.0


def test_a_name_that_is_not_offered_has_no_record(offers: Offers) -> None:
    assert offers.record(NAME, 0.0, WALL) is None
    assert offers.withdraw(NAME, 0.0, WALL) is None


def test_a_goodbye_is_said_for_as_long_as_a_lease_may_last(offers: Offers) -> None:
    offers.put(NAME, capacity=1, load=lambda: 0.0)
    last = offers.record(NAME, 0.0, WALL)
    withdrawn = offers.withdraw(NAME, 1.0, WALL + 1)
    assert last is not None
    assert withdrawn is not None
    assert withdrawn[0].is_goodbye
    assert withdrawn[0].supersedes(last)
    assert offers.record(NAME, MAX_LEASE_S, WALL) == withdrawn[0]
    assert offers.record(NAME, MAX_LEASE_S + 1, WALL) is None
    offers.put(NAME, capacity=1, load=lambda: 0.0)
    again = offers.record(NAME, 2.0, WALL + 2)
    assert again is not None
    assert again.supersedes(withdrawn[0])


def test_those_who_lately_asked_are_told(offers: Offers) -> None:
    offers.put(NAME, capacity=1, load=lambda: 0.0)
    offers.asked(NAME, peer(2), 0.0)
    offers.asked(NAME, peer(3), 20.0)
    offers.asked("unknown", peer(4), 20.0)
    withdrawn = offers.withdraw(NAME, 40.0, WALL)
    assert withdrawn is not None
    assert withdrawn[1] == [peer(3)]


def test_askers_are_bounded(offers: Offers) -> None:
    offers.put(NAME, capacity=1, load=lambda: 0.0)
    for number in range(MAX_ASKERS + 20):
        offers.asked(NAME, peer(number), 0.0)
    withdrawn = offers.withdraw(NAME, 0.0, WALL)
    assert withdrawn is not None
    assert len(withdrawn[1]) == MAX_ASKERS


def test_a_load_that_cannot_be_told_is_none(offers: Offers, caplog: pytest.LogCaptureFixture) -> None:
    offers.put(NAME, capacity=1, load=lambda: 1 / 0)
    one = offers.record(NAME, 0.0, WALL)
    assert one is not None
    assert one.load == 0.0
    assert "load of a service not known" in caplog.text
