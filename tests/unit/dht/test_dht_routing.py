from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattica.dht.diversity import IpDiversity
from lattica.dht.keyspace import common_prefix_length, key_of
from lattica.dht.limits import LIVENESS_GRACE, MAX_ADDRESSES_PER_PEER, K
from lattica.dht.peer_info import PeerInfo
from lattica.dht.routing import RoutingTable
from lattica.identity import PeerId

LOCAL = PeerId(b"\x12\x20" + b"l" * 32)


def peer(number: int, addresses: tuple[bytes, ...] = (b"\x04\x0a\x00\x00\x01",)) -> PeerInfo:
    return PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), addresses)


def shared(info: PeerInfo) -> int:
    return common_prefix_length(key_of(LOCAL.raw), key_of(info.peer_id.raw))


def peers_sharing(length: int) -> Iterator[PeerInfo]:
    """Peers whose keys share exactly `length` leading bits with the local key."""
    return (info for number in range(100_000) if shared(info := peer(number)) == length)


def take(peers: Iterator[PeerInfo], count: int) -> list[PeerInfo]:
    return [next(peers) for _ in range(count)]


POOL = [peer(number) for number in range(200)]


class TableUnderRandomUse(RuleBasedStateMachine):
    """The invariants of a k-bucket table with k = 4, under any history."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(LOCAL, k=4)
        self.now = 0.0
        self.last_seen: dict[PeerId, float] = {}

    @rule(info=st.sampled_from(POOL), wait=st.floats(0, 100))
    def seen(self, info: PeerInfo, wait: float) -> None:
        self.now += wait
        before = set(self.table)
        check = self.table.seen(info, self.now)
        self.last_seen[info.peer_id] = self.now
        assert before <= {*self.table, *before}
        assert {p.peer_id for p in before} <= {p.peer_id for p in self.table}, "seeing somebody evicts nobody"
        if check is not None:
            assert check in before
            assert info.peer_id not in self.table
            assert self.last_seen[check.peer_id] < self.now - LIVENESS_GRACE

    @rule(info=st.sampled_from(POOL), wait=st.floats(0, 100))
    def touched(self, info: PeerInfo, wait: float) -> None:
        self.now += wait
        known = info.peer_id in self.table
        self.table.touch(info.peer_id, self.now)
        assert (info.peer_id in self.table) == known
        if known:
            self.last_seen[info.peer_id] = self.now

    @rule(info=st.sampled_from(POOL), hopeless=st.booleans())
    def failed(self, info: PeerInfo, hopeless: bool) -> None:
        before = len(self.table)
        was_known = info.peer_id in self.table
        self.table.failed(info.peer_id, hopeless=hopeless)
        assert len(self.table) >= before - (hopeless and was_known)
        if hopeless:
            assert info.peer_id not in self.table

    @rule()
    def saw_itself(self) -> None:
        assert self.table.seen(PeerInfo(LOCAL, (b"a",)), self.now) is None

    @invariant()
    def no_bucket_is_overfull(self) -> None:
        assert all(len(bucket) <= 4 for bucket in self.table.buckets)

    @invariant()
    def never_itself(self) -> None:
        assert LOCAL not in self.table
        assert all(info.peer_id != LOCAL for info in self.table)

    @invariant()
    def everybody_is_in_the_right_bucket(self) -> None:
        *inner, last = self.table.buckets
        for length, bucket in enumerate(inner):
            assert all(shared(info) == length for info in bucket)
        assert all(shared(info) >= len(inner) for info in last)

    @invariant()
    def buckets_are_in_the_order_of_last_seen(self) -> None:
        for bucket in self.table.buckets:
            times = [self.last_seen[info.peer_id] for info in bucket]
            assert times == sorted(times)

    @invariant()
    def closest_agrees_with_sorting_everybody(self) -> None:
        target = key_of(b"target")
        by_distance = sorted(self.table, key=lambda info: key_of(info.peer_id.raw) ^ target)
        assert self.table.closest(target, 7) == by_distance[:7]


TestTableUnderRandomUse = TableUnderRandomUse.TestCase
TestTableUnderRandomUse.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)


@given(st.binary(min_size=1, max_size=20), st.integers(1, 40), st.integers(0, 400))
@settings(max_examples=50, deadline=None)
def test_closest_agrees_with_sorting_everybody(target: bytes, count: int, size: int) -> None:
    table = RoutingTable(LOCAL)
    for number in range(size):
        table.seen(peer(number), 0.0)
    key = key_of(target)
    assert table.closest(key, count) == sorted(table, key=lambda info: key_of(info.peer_id.raw) ^ key)[:count]


def test_closest_to_ourselves_reaches_into_the_last_bucket_first() -> None:
    table = RoutingTable(LOCAL)
    for number in range(2000):
        table.seen(peer(number), 0.0)
    nearest = table.closest(table.local_key, 5)
    assert nearest == sorted(table, key=lambda info: key_of(info.peer_id.raw) ^ table.local_key)[:5]


def test_closest_leaves_out_whom_it_is_told_to_skip() -> None:
    table = RoutingTable(LOCAL)
    for number in range(30):
        table.seen(peer(number), 0.0)
    unwanted = table.closest(key_of(b"x"), 3)
    skipped = {info.peer_id for info in unwanted}
    found = table.closest(key_of(b"x"), 20, skip=skipped.__contains__)
    assert len(found) == 20
    assert not skipped & {info.peer_id for info in found}


def test_the_table_unfolds_only_when_a_bucket_overflows() -> None:
    table = RoutingTable(LOCAL)
    depths = []
    for number in range(K + 1):
        table.seen(peer(number), 0.0)
        depths.append(len(table.buckets))
    assert depths[:K] == [1] * K
    assert depths[K] > 1
    assert len(table) == K + 1


def test_a_full_bucket_keeps_its_contacts_and_asks_for_a_check_of_the_oldest() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    first, *others = take(candidates, K)
    for info in (first, *others):
        table.seen(info, 0.0)
    newcomer = next(candidates)
    assert table.seen(newcomer, LIVENESS_GRACE + 1) == first
    assert newcomer.peer_id not in table
    assert first.peer_id in table


def test_a_contact_heard_from_just_now_is_not_checked() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    for info in take(candidates, K):
        table.seen(info, 0.0)
    assert table.seen(next(candidates), LIVENESS_GRACE) is None


def test_a_contact_that_fails_its_check_is_replaced_by_who_was_seen_last() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    oldest, *others = take(candidates, K)
    for info in (oldest, *others):
        table.seen(info, 0.0)
    early, late = take(candidates, 2)
    table.seen(early, 70.0)
    table.seen(late, 80.0)
    table.failed(oldest.peer_id)
    assert oldest.peer_id not in table
    assert late.peer_id in table
    assert early.peer_id not in table


def test_who_takes_a_place_is_sorted_in_by_when_it_was_seen() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    first, *others = take(candidates, K)
    for info in (first, *others):
        table.seen(info, 0.0)
    newcomer = next(candidates)
    table.seen(newcomer, 1.0)
    for info in others[1:]:
        table.touch(info.peer_id, 2.0)
    table.failed(first.peer_id)
    assert table.buckets[0] == (others[0], newcomer, *others[1:])


def test_only_so_many_newcomers_wait_and_the_latest_are_kept() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    contacts, newcomers = take(candidates, K), take(candidates, K + 10)
    for info in (*contacts, *newcomers):
        table.seen(info, 0.0)
    for info in contacts:
        table.remove(info.peer_id)
    assert set(table) == set(newcomers[10:])
    for info in newcomers[10:]:
        table.remove(info.peer_id)
    assert len(table) == 0, "the others were not waiting any longer"


def test_a_contact_that_passes_its_check_stays_and_is_the_newest() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    oldest, *others = take(candidates, K)
    for info in (oldest, *others):
        table.seen(info, 0.0)
    newcomer = next(candidates)
    table.seen(newcomer, 70.0)
    table.seen(oldest, 71.0)
    assert newcomer.peer_id not in table
    assert table.seen(newcomer, 72.0) == others[0]


def test_a_contact_that_fails_with_nobody_waiting_stays_unless_hopeless() -> None:
    table = RoutingTable(LOCAL)
    table.seen(peer(1), 0.0)
    table.failed(peer(1).peer_id)
    assert peer(1).peer_id in table
    table.failed(peer(1).peer_id, hopeless=True)
    assert peer(1).peer_id not in table


def test_a_newcomer_that_fails_while_waiting_is_forgotten() -> None:
    table, candidates = RoutingTable(LOCAL), peers_sharing(0)
    contacts = take(candidates, K)
    for info in contacts:
        table.seen(info, 0.0)
    newcomer = next(candidates)
    table.seen(newcomer, 1.0)
    table.failed(newcomer.peer_id)
    table.remove(contacts[0].peer_id)
    assert newcomer.peer_id not in table
    assert len(table) == K - 1


def test_new_addresses_replace_old_ones_and_none_keep_them() -> None:
    table = RoutingTable(LOCAL)
    table.seen(peer(1, (b"old",)), 0.0)
    table.seen(peer(1, (b"new",)), 1.0)
    assert table.get(peer(1).peer_id) == peer(1, (b"new",))
    table.seen(peer(1, ()), 2.0)
    assert table.get(peer(1).peer_id) == peer(1, (b"new",))


def test_addresses_of_a_contact_are_bounded() -> None:
    table = RoutingTable(LOCAL)
    table.seen(peer(1, tuple(bytes([number]) for number in range(100))), 0.0)
    contact = table.get(peer(1).peer_id)
    assert contact is not None
    assert len(contact.addresses) == MAX_ADDRESSES_PER_PEER


def test_contacts_not_heard_from_are_listed() -> None:
    table = RoutingTable(LOCAL)
    table.seen(peer(1), 0.0)
    table.seen(peer(2), 0.0)
    table.touch(peer(2).peer_id, 50.0)
    assert table.unseen_since(50.0) == [peer(1)]


def test_touching_a_stranger_adds_nobody() -> None:
    table = RoutingTable(LOCAL)
    table.touch(peer(1).peer_id, 0.0)
    assert len(table) == 0


def test_a_bucket_that_was_split_off_is_as_fresh_as_the_one_it_came_from() -> None:
    table = RoutingTable(LOCAL)
    table.looked_up(table.local_key, 5.0)
    for number in range(500):
        table.seen(peer(number), 5.0)
    assert table.stale_prefixes(5.0) == []


def test_buckets_in_which_nothing_was_looked_up_are_stale() -> None:
    table = RoutingTable(LOCAL)
    for number in range(500):
        table.seen(peer(number), 0.0)
    depth = len(table.buckets)
    assert depth > 3
    assert table.stale_prefixes(0.0) == list(range(depth - 1))
    table.looked_up(key_of(next(peers_sharing(1)).peer_id.raw), 5.0)
    assert table.stale_prefixes(0.0) == [0, *range(2, depth - 1)]
    assert table.stale_prefixes(6.0) == list(range(depth - 1))


class TestIpDiversity:
    @staticmethod
    def in_block(number: int, block: int) -> PeerInfo:
        return peer(number, (bytes((0x04, 8, block, number % 250, 1)) + b"\x06\x0f\xa1",))

    def test_one_block_gets_only_so_many_places(self) -> None:
        table = RoutingTable(LOCAL, diversity=IpDiversity(per_bucket=2, per_table=3))
        for number in range(100):
            table.seen(self.in_block(number, block=8), 0.0)
        assert len(table) == 2, "they all fit into one bucket, which takes two"
        for number in range(100, 140):
            table.seen(self.in_block(number, block=number), 0.0)
        assert len(table.buckets) > 1
        for number in range(200, 400):
            table.seen(self.in_block(number, block=8), 0.0)
        assert sum(info.addresses[0][:3] == b"\x04\x08\x08" for info in table) == 3

    def test_private_addresses_are_not_limited(self) -> None:
        table = RoutingTable(LOCAL, diversity=IpDiversity())
        for number in range(K):
            table.seen(peer(number), 0.0)
        assert len(table) == K

    def test_a_replacement_must_be_diverse_too(self) -> None:
        table, candidates = RoutingTable(LOCAL, diversity=IpDiversity(per_bucket=1)), peers_sharing(0)
        contacts = take(candidates, K)
        crowd = PeerInfo(contacts[0].peer_id, (b"\x04\x08\x08\x01\x01",))
        for info in (crowd, *contacts[1:]):
            table.seen(info, 0.0)
        table.seen(PeerInfo(next(candidates).peer_id, (b"\x04\x08\x08\x02\x02",)), 1.0)
        table.remove(contacts[1].peer_id)
        assert len(table) == K - 1


@pytest.mark.parametrize("size", [0, 1, 19, 20, 21, 1000])
def test_its_length_is_the_number_of_contacts(size: int) -> None:
    table = RoutingTable(LOCAL)
    rng = random.Random(size)
    for _ in range(size):
        table.seen(PeerInfo(PeerId(b"\x12\x20" + rng.randbytes(32)), (b"a",)), 0.0)
    assert len(table) == len(list(table)) == sum(len(bucket) for bucket in table.buckets)
