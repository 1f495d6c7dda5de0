"""Which relays are held, and when they are asked again."""

from __future__ import annotations

import pytest

from lattica.identity import PeerAddress, PeerId
from lattica.mesh.relay_plan import (
    MAX_CANDIDATES,
    PATIENT_AFTER,
    RENEW_AT,
    RETRY_MAX_S,
    RETRY_MIN_S,
    RETRY_PATIENT_S,
    WANTED,
    RelayPlan,
)

HOUR = 3600.0


def peer(number: int) -> PeerId:
    return PeerId(bytes((0x12, 0x20)) + number.to_bytes(32))


def address(number: int) -> PeerAddress:
    return PeerAddress.tcp("11.0.0.1", number + 1)


def plan_with(*numbers: int, named: bool = False) -> RelayPlan:
    plan = RelayPlan()
    for number in numbers:
        plan.add(peer(number), [address(number)], named=named)
    return plan


def hold(plan: RelayPlan, number: int, rtt: float = 0.05, now: float = 0.0) -> None:
    plan.reserved(peer(number), rtt=rtt, valid=HOUR, now=now)


def test_as_many_relays_are_asked_as_are_wanted() -> None:
    plan = plan_with(1, 2, 3)
    assert len(plan.due(0.0)) == WANTED
    hold(plan, 1)
    assert len(plan.due(0.0)) == WANTED - 1
    hold(plan, 2)
    assert plan.due(0.0) == []


def test_the_nearest_relay_is_named_first() -> None:
    plan = plan_with(1, 2)
    hold(plan, 1, rtt=0.2)
    hold(plan, 2, rtt=0.02)
    assert plan.held() == [peer(2), peer(1)]


def test_a_reservation_is_renewed_when_half_of_its_life_is_over() -> None:
    plan = plan_with(1, 2)
    hold(plan, 1)
    hold(plan, 2)
    assert plan.wake_at() == HOUR * RENEW_AT
    assert plan.due(HOUR * RENEW_AT - 1) == []
    assert set(plan.due(HOUR * RENEW_AT)) == {peer(1), peer(2)}
    hold(plan, 1, now=HOUR * RENEW_AT)
    assert plan.due(HOUR * RENEW_AT) == [peer(2)]


def test_a_lost_relay_is_asked_again_within_seconds_and_another_one_at_once() -> None:
    plan = plan_with(1, 2, 3)
    hold(plan, 1)
    hold(plan, 2)
    plan.failed(peer(1), 100.0)
    assert plan.held() == [peer(2)]
    assert plan.due(100.0) == [peer(3)]
    plan = plan_with(1, named=True)
    hold(plan, 1)
    plan.failed(peer(1), 100.0)
    assert plan.due(100.0) == []
    assert plan.wake_at() == 100.0 + RETRY_MIN_S


def test_a_relay_that_restarts_is_asked_at_least_every_five_seconds_for_its_first_minute() -> None:
    plan, now = plan_with(1), 0.0
    for _ in range(PATIENT_AFTER - 1):
        plan.failed(peer(1), now)
        wake_at = plan.wake_at()
        assert wake_at is not None
        assert wake_at - now <= RETRY_MAX_S
        now = wake_at
        assert plan.due(now) == [peer(1)]
    plan.failed(peer(1), now)
    assert plan.wake_at() == now + RETRY_PATIENT_S
    plan.retry_now()
    assert plan.due(now) == [peer(1)]


def test_a_relay_that_failed_is_asked_after_those_that_did_not() -> None:
    plan = plan_with(1, 2, 3)
    plan.failed(peer(1), 0.0)
    assert plan.due(60.0) == [peer(2), peer(3)]


def test_a_renewal_that_fails_gives_the_reservation_up() -> None:
    plan = plan_with(1)
    hold(plan, 1)
    plan.failed(peer(1), HOUR / 2)
    assert plan.held() == []


def test_the_nearest_of_many_are_asked_first() -> None:
    plan = plan_with(1, 2, 3, 4)
    assert set(plan.unmeasured()) == {peer(number) for number in (1, 2, 3, 4)}
    for number, rtt in ((1, 0.3), (2, 0.02), (3, 0.2), (4, 0.01)):
        plan.measured(peer(number), rtt)
    assert plan.unmeasured() == []
    assert plan.due(0.0) == [peer(4), peer(2)]


def test_a_much_nearer_relay_takes_the_place_of_a_held_one() -> None:
    plan = plan_with(1, 2, 3)
    hold(plan, 1, rtt=0.02)
    hold(plan, 2, rtt=0.2)
    plan.measured(peer(3), 0.15)
    assert plan.due(0.0) == [], "not worth moving"
    plan.measured(peer(3), 0.05)
    assert plan.due(0.0) == [peer(3)]
    hold(plan, 3, rtt=0.05)
    assert plan.surplus() == [peer(2)]
    plan.released(peer(2))
    assert plan.due(0.0) == []


def test_more_than_are_wanted_are_let_go_the_farthest_first() -> None:
    plan = plan_with(1, 2, 3)
    for number, rtt in ((1, 0.3), (2, 0.1), (3, 0.2)):
        hold(plan, number, rtt)
    assert plan.surplus() == [peer(1)]
    plan.released(peer(1))
    assert plan.surplus() == []


def test_relays_met_by_chance_are_bounded_and_named_ones_stay() -> None:
    plan = plan_with(1000, named=True)
    for number in range(MAX_CANDIDATES + 10):
        plan.add(peer(number), [address(number)])
    known = [number for number in range(2000) if plan.addresses(peer(number))]
    assert len(known) == MAX_CANDIDATES + 1
    plan.remove(peer(1000))
    assert plan.addresses(peer(1000))


def test_a_relay_that_is_none_any_more_is_forgotten() -> None:
    plan = plan_with(1)
    plan.remove(peer(1))
    assert plan.due(0.0) == []
    assert plan.wake_at() is None


@pytest.mark.parametrize("event", ["reserved", "failed", "released", "remove"])
def test_events_about_unknown_relays_change_nothing(event: str) -> None:
    plan = RelayPlan()
    if event == "reserved":
        hold(plan, 1)
    elif event == "failed":
        plan.failed(peer(1), 0.0)
    else:
        getattr(plan, event)(peer(1))
    assert plan.held() == []
