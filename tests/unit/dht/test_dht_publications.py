from __future__ import annotations

import random

import pytest

from lattica.dht.limits import (
    PROVIDER_REPUBLISH_INTERVAL,
    PUBLISH_JITTER,
    PUBLISH_MIN_INTERVAL,
    PUBLISH_RETRY_MAX,
    PUBLISH_RETRY_MIN,
    K,
)
from lattica.dht.publications import Publications

KEY = b"key"


@pytest.fixture
def publications() -> Publications:
    return Publications(random.Random(1))


def publish(publications: Publications, now: float, *, accepted: int, table_size: int = 50) -> None:
    publications.begin(KEY, table_size=table_size)
    publications.finished(KEY, accepted=accepted, now=now)


def next_due(publications: Publications) -> float:
    upcoming = publications.upcoming()
    assert upcoming is not None
    return upcoming[0]


def due(publications: Publications, now: float) -> list[bytes]:
    """The key to store at `now`, if there is one."""
    upcoming = publications.upcoming()
    return [upcoming[1]] if upcoming and upcoming[0] <= now else []


def test_a_new_key_is_due_at_once(publications: Publications) -> None:
    assert publications.upcoming() is None
    publications.add(KEY, 5.0)
    assert KEY in publications
    assert due(publications, 4.9) == []
    assert due(publications, 5.0) == [KEY]


def test_a_key_is_not_due_while_it_is_being_stored(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publications.begin(KEY, table_size=1)
    assert due(publications, 0.0) == []
    assert publications.upcoming() is None


def test_a_key_that_was_taken_is_due_at_the_republish_interval_with_jitter(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    dues = set()
    for _ in range(100):
        publish(publications, 0.0, accepted=K)
        dues.add(next_due(publications))
    assert len(dues) == 100
    assert min(dues) >= (1 - PUBLISH_JITTER) * PROVIDER_REPUBLISH_INTERVAL
    assert max(dues) <= PROVIDER_REPUBLISH_INTERVAL


def test_a_key_that_nobody_took_is_retried_ever_more_slowly(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    pauses = []
    for _ in range(100):
        publish(publications, 0.0, accepted=0, table_size=0)
        pauses.append(next_due(publications))
    assert pauses[:3] == [PUBLISH_RETRY_MIN, 2 * PUBLISH_RETRY_MIN, 4 * PUBLISH_RETRY_MIN]
    assert set(pauses[10:]) == {PUBLISH_RETRY_MAX}


def test_one_acceptance_makes_the_next_retry_quick_again(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    for accepted in (0, 0, 0, 1, 0):
        publish(publications, 0.0, accepted=accepted)
    assert next_due(publications) == PUBLISH_RETRY_MIN


def test_a_first_peer_makes_an_unstored_key_due_at_once(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    for _ in range(10):
        publish(publications, 0.0, accepted=0, table_size=0)
    publications.peers_known(0, 1.0)
    assert due(publications, 1.0) == []
    publications.peers_known(1, 1.0)
    assert due(publications, 1.0) == [KEY]


def test_a_key_that_few_took_is_due_when_the_table_has_doubled(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publish(publications, 0.0, accepted=5, table_size=5)
    publications.peers_known(9, 1000.0)
    assert due(publications, 1000.0) == []
    publications.peers_known(10, 1000.0)
    assert due(publications, 1000.0) == [KEY]


def test_a_key_that_k_took_stays_where_it_is_when_the_table_grows(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publish(publications, 0.0, accepted=K, table_size=K)
    publications.peers_known(1000, 1000.0)
    assert due(publications, 1000.0) == []


def test_changed_addresses_make_all_keys_due_but_not_more_often_than_once_a_while(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publish(publications, 100.0, accepted=K)
    publications.addresses_changed(101.0)
    assert next_due(publications) == 100.0 + PUBLISH_MIN_INTERVAL


def test_storing_that_was_interrupted_is_due_again_at_once(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publications.begin(KEY, table_size=1)
    publications.interrupted(KEY, 3.0)
    assert due(publications, 3.0) == [KEY]


def test_interrupting_after_the_end_changes_nothing(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publish(publications, 0.0, accepted=K)
    publications.interrupted(KEY, 3.0)
    assert due(publications, 3.0) == []


def test_a_key_that_is_not_provided_any_longer_is_never_due(publications: Publications) -> None:
    publications.add(KEY, 0.0)
    publications.begin(KEY, table_size=1)
    publications.discard(KEY)
    publications.finished(KEY, accepted=0, now=0.0)
    publications.interrupted(KEY, 0.0)
    publications.begin(KEY, table_size=1)
    publications.discard(KEY)
    assert KEY not in publications
    assert len(publications) == 0
    assert due(publications, 1e9) == []


def test_the_longest_due_key_comes_first(publications: Publications) -> None:
    for number in (3, 1, 2):
        publications.add(bytes([number]), float(number))
    order = []
    while found := due(publications, 2.5):
        order += found
        publications.begin(found[0], table_size=1)
    assert order == [b"\x01", b"\x02"]
