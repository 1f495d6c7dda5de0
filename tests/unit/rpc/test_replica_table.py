"""Calls go where they are answered soonest, away from what fails, and with a key always to the same replica."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replica_sim import SimReplica, Simulation
from service_records import NAME, WALL, peer, record

from lattica.rpc.breaker import PAUSE_MAX_S, TRIP_AFTER
from lattica.rpc.replicas import Outcome, ReplicaTable
from lattica.rpc.replicas.limits import BUSY_PAUSE_S

KEYS = [f"session-{number}" for number in range(500)]


def table_of(*numbers: int, seed: int = 1, lease: float = 120.0, **given: int) -> ReplicaTable:
    table = ReplicaTable(NAME, peer(0), random.Random(seed))
    for number in numbers:
        table.admit_own(record(number, lease=lease, capacity=given.get(f"capacity_{number}", 1)), 0.0)
    return table


def fail(table: ReplicaTable, number: int, now: float, times: int = TRIP_AFTER) -> None:
    for _ in range(times):
        table.started(peer(number))
        table.finished(peer(number), now, 0.05, Outcome.FAILED)


def homes(table: ReplicaTable, now: float = 0.0, exclude: tuple[int, ...] = ()) -> dict[str, int]:
    number_of = {peer(number): number for number in range(20)}
    excluded = [peer(number) for number in exclude]
    return {key: number_of[chosen] for key in KEYS if (chosen := table.choose(now, key=key, exclude=excluded))}


# load


@pytest.mark.parametrize("callers", [1, 4, 30])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slow_replica_gets_few_calls(callers: int, seed: int) -> None:
    """Speeds 1:1:4: the slow one gets at most its fair ninth, and a little for looking whether it still is slow."""
    table = table_of(1, 2, 3, seed=seed)
    fast, slow = SimReplica(0.01), SimReplica(0.04)
    calls = Simulation(table, {peer(1): fast, peer(2): SimReplica(0.01), peer(3): slow}).run(callers=callers, until=60)
    total = calls.total()
    assert calls[peer(3)] < total * 0.16
    assert calls[peer(3)] >= 2  # it is not forgotten
    assert min(calls[peer(1)], calls[peer(2)]) > total * 0.35


def test_no_replica_idles_while_callers_queue() -> None:
    """30 callers on three replicas: together nearly as many calls as they can take."""
    replicas = {peer(1): SimReplica(0.01), peer(2): SimReplica(0.01), peer(3): SimReplica(0.04)}
    calls = Simulation(table_of(1, 2, 3), replicas).run(callers=30, until=60)
    assert calls.total() > 0.93 * 60 * (100 + 100 + 25)


def test_equal_replicas_share_the_calls() -> None:
    calls = Simulation(table_of(1, 2, 3, 4), {peer(n): SimReplica(0.01) for n in (1, 2, 3, 4)}).run(callers=8, until=60)
    assert min(calls.values()) > 0.9 * max(calls.values())


def test_capacity_is_used() -> None:
    table = table_of(1, 2, capacity_1=4)
    calls = Simulation(table, {peer(1): SimReplica(0.01, slots=4), peer(2): SimReplica(0.01)}).run(callers=20, until=60)
    assert 3 < calls[peer(1)] / calls[peer(2)] < 5


def test_a_replica_that_becomes_fast_again_is_noticed() -> None:
    replicas = {peer(1): SimReplica(0.01), peer(2): SimReplica(0.5)}
    simulation = Simulation(table_of(1, 2), replicas)
    before = simulation.run(callers=2, until=40)
    assert before[peer(2)] < before.total() * 0.1
    replicas[peer(2)].seconds = simulation.replicas[peer(2)].seconds = 0.01
    simulation.run(until=80)
    after = simulation.run(until=110)
    assert after[peer(2)] > after.total() * 0.35


def test_a_new_replica_is_tried_but_not_flooded() -> None:
    table = table_of(1, 2)
    for number in (1, 2):
        table.started(peer(number))
        table.finished(peer(number), 0.0, 0.1, Outcome.OK)
    table.admit_own(record(3), 0.0)
    chosen: Counter[object] = Counter()
    for _ in range(30):
        one = table.choose(0.0)
        assert one is not None
        table.started(one)
        chosen[one] += 1
    assert 7 <= chosen[peer(3)] <= 13


def test_what_others_load_on_a_replica_counts() -> None:
    table = table_of(1)
    table.admit_own(record(2, load=10.0), 0.0)
    assert {table.choose(0.0) for _ in range(50)} == {peer(1)}
    table.reported_load(peer(1), 20.0)
    assert {table.choose(0.0) for _ in range(50)} == {peer(2)}


def test_our_own_calls_are_not_counted_twice() -> None:
    table = table_of(1, 2)
    for _ in range(10):
        table.started(peer(1))
    table.admit_own(record(1, sequence=2, load=10.0), 0.0)
    (one,) = [one for one in table.status(0.0) if one.peer_id == peer(1)]
    assert (one.in_flight, one.load) == (10, 0.0)


def test_a_handler_that_fails_fast_attracts_nobody() -> None:
    table = table_of(1, 2)
    for number, seconds in ((1, 0.1), (2, 0.1)):
        table.finished(peer(number), 0.0, seconds, Outcome.OK)
    for _ in range(100):
        table.finished(peer(1), 0.0, 0.0001, Outcome.ERROR)
    chosen = Counter(table.choose(0.0) for _ in range(200))
    assert 60 < chosen[peer(1)] < 140


# failure


def test_a_dead_replica_gets_few_calls() -> None:
    """One call of each caller that was under way; no more while others are there."""
    replicas = {peer(1): SimReplica(0.01), peer(2): SimReplica(0.01), peer(3): SimReplica(0.01)}
    simulation = Simulation(table_of(1, 2, 3, lease=100), replicas)
    simulation.run(callers=10, until=10)
    replicas[peer(3)].dead = simulation.replicas[peer(3)].dead = True
    after = simulation.run(until=90)
    assert after[peer(3)] <= 10 + TRIP_AFTER
    assert after.total() > 10_000


def test_while_all_are_dead_each_gets_one_probe_a_pause() -> None:
    replicas = {peer(n): SimReplica(0.01, dead=True) for n in (1, 2)}
    simulation = Simulation(table_of(1, 2, lease=120), replicas)
    calls = simulation.run(callers=5, until=60)
    assert calls.total() < 2 * (5 + TRIP_AFTER + 12)
    simulation.replicas[peer(1)].dead = False
    assert simulation.run(until=60 + PAUSE_MAX_S + 1)[peer(1)] > 100


def test_a_replica_that_was_probed_is_called_again() -> None:
    table = table_of(1, 2)
    fail(table, 2, 0.0)
    assert {table.choose(0.1) for _ in range(50)} == {peer(1)}
    assert table.due_probes(0.1) == []
    retry_at = table.next_probe()
    assert retry_at is not None
    assert table.due_probes(retry_at) == [peer(2)]
    table.probing(peer(2), retry_at)
    assert table.due_probes(retry_at) == []
    assert {table.choose(retry_at) for _ in range(50)} == {peer(1)}
    table.probed(peer(2), retry_at, answered=True)
    assert {table.choose(retry_at) for _ in range(50)} == {peer(1), peer(2)}


def test_the_last_one_left_is_tried_once_when_its_pause_is_over() -> None:
    table = table_of(1)
    fail(table, 1, 0.0)
    assert not table.is_available(0.1)
    assert table.choose(0.1) is None
    assert table.is_available(1.0)
    assert table.choose(1.0) == peer(1)
    assert table.choose(1.0) is None


def test_a_busy_replica_is_avoided_for_a_moment_if_there_is_another() -> None:
    table = table_of(1, 2)
    table.started(peer(1))
    table.finished(peer(1), 0.0, 0.001, Outcome.REFUSED)
    assert {table.choose(0.1) for _ in range(50)} == {peer(2)}
    assert table.choose(0.1, exclude=[peer(2)]) == peer(1)
    assert {table.choose(BUSY_PAUSE_S) for _ in range(50)} == {peer(1), peer(2)}


def test_errors_and_refusals_say_that_the_replica_is_there() -> None:
    table = table_of(1)
    for outcome in (Outcome.ERROR, Outcome.REFUSED, Outcome.ABANDONED):
        fail(table, 1, 0.0, times=TRIP_AFTER - 1)
        for _ in range(10):
            table.finished(peer(1), 0.0, 0.01, outcome)
        assert table.choose(0.0) == peer(1)
        assert table.due_probes(100.0) == []
        table.finished(peer(1), 0.0, 0.01, Outcome.OK)


def test_whom_others_only_told_of_is_called_when_nobody_else_is_there() -> None:
    table = table_of(1)
    table.admit_hearsay(record(2), peer(9), remaining=30, now=0.0, wall=WALL)
    assert {table.choose(0.0) for _ in range(50)} == {peer(1)}
    assert table.choose(0.0, exclude=[peer(1)]) == peer(2)
    table.admit_own(record(2), 0.0)
    assert {table.choose(0.0) for _ in range(50)} == {peer(1), peer(2)}


def test_nobody_is_chosen_whose_lease_is_over() -> None:
    table = table_of(1, lease=30)
    assert table.choose(29.9) == peer(1)
    assert not table.is_available(30.0)
    assert table.choose(30.0) is None
    assert len(table) == 0


def test_a_call_that_outlives_its_replica_does_no_harm() -> None:
    table = table_of(1, lease=30)
    table.started(peer(1))
    table.expire(31.0)
    table.finished(peer(1), 32.0, 1.0, Outcome.FAILED)
    table.admit_own(record(1, sequence=2), 33.0)
    table.finished(peer(1), 34.0, 1.0, Outcome.OK)
    assert [one.in_flight for one in table.status(34.0)] == [0]


def test_who_is_excluded_is_not_chosen() -> None:
    table = table_of(1, 2)
    assert {table.choose(0.0, exclude=[peer(1)]) for _ in range(20)} == {peer(2)}
    assert table.choose(0.0, exclude=[peer(1), peer(2)]) is None
    assert not table.is_available(0.0, [peer(1), peer(2)])


# keys


def test_a_key_has_one_replica_whoever_asks() -> None:
    assert homes(table_of(1, 2, 3, seed=1)) == homes(table_of(3, 2, 1, seed=2))


def test_text_and_bytes_are_the_same_key() -> None:
    table = table_of(1, 2, 3)
    assert all(table.choose(0.0, key=key) == table.choose(0.0, key=key.encode()) for key in KEYS)


def test_keys_are_spread_by_capacity() -> None:
    spread = Counter(homes(table_of(1, 2, 3, capacity_3=2)).values())
    assert 85 < spread[1] < 165
    assert 85 < spread[2] < 165
    assert 200 < spread[3] < 300


@given(st.sets(st.integers(1, 9), min_size=1, max_size=6), st.integers(10, 15))
def test_when_a_replica_comes_only_keys_that_go_to_it_move(numbers: set[int], new: int) -> None:
    before, after = homes(table_of(*numbers)), homes(table_of(*numbers, new))
    assert all(after[key] in (before[key], new) for key in KEYS)


@given(st.sets(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_when_a_replica_fails_its_keys_spread_and_the_others_stay(numbers: set[int], data: st.DataObject) -> None:
    dead = data.draw(st.sampled_from(sorted(numbers)))
    table = table_of(*numbers)
    before = homes(table)
    fail(table, dead, 0.0)
    during = homes(table, 0.01)
    assert all(during[key] == before[key] for key in KEYS if before[key] != dead)
    assert dead not in during.values()
    table.probed(peer(dead), 0.02, answered=True)
    assert homes(table, 0.02) == before


def test_the_keys_of_a_dead_replica_go_to_several_others() -> None:
    table = table_of(1, 2, 3, 4)
    before = homes(table)
    fail(table, 1, 0.0)
    during = homes(table, 0.01)
    heirs = Counter(during[key] for key in KEYS if before[key] == 1)
    assert set(heirs) == {2, 3, 4}
    assert max(heirs.values()) < 0.6 * heirs.total()


def test_one_failure_or_a_refusal_moves_no_key() -> None:
    table = table_of(1, 2, 3)
    before = homes(table)
    fail(table, 1, 0.0, times=1)
    table.finished(peer(2), 0.0, 0.001, Outcome.REFUSED)
    assert homes(table, 0.01) == before


def test_a_key_s_call_that_failed_goes_where_the_key_would_move() -> None:
    table = table_of(1, 2, 3)
    second = homes(table, exclude=(1,))
    fail(table, 1, 0.0)
    assert homes(table, 0.01) == second


def test_load_moves_no_key() -> None:
    table = table_of(1, 2, 3)
    before = homes(table)
    for _ in range(100):
        table.started(peer(1))
    table.admit_own(record(2, sequence=2, load=50.0), 0.0)
    assert homes(table, 0.5) == before
