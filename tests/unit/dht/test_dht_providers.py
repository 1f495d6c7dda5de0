from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattica.dht.keyspace import key_of
from lattica.dht.limits import MAX_ADDRESSES_PER_PEER, PROVIDER_ADDRESS_TTL, PROVIDER_RECORD_TTL
from lattica.dht.peer_info import PeerInfo
from lattica.dht.providers import ProviderStore
from lattica.identity import PeerId

LOCAL = PeerId(b"\x12\x20" + b"l" * 32)


def peer(number: int, addresses: tuple[bytes, ...] = (b"address",)) -> PeerInfo:
    return PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), addresses)


def key(number: int) -> bytes:
    return b"\x12\x20" + b"k" * 28 + number.to_bytes(4, "big")


KEYS = sorted((key(number) for number in range(50)), key=lambda one: key_of(one) ^ key_of(LOCAL.raw))
"""The nearest to LOCAL first."""


def test_a_stored_provider_is_returned_with_its_addresses() -> None:
    store = ProviderStore(LOCAL)
    assert store.add(key(1), peer(1), 0.0)
    assert store.get(key(1), 1.0) == [peer(1)]
    assert store.get(key(2), 1.0) == []


def test_who_was_stored_last_comes_first() -> None:
    store = ProviderStore(LOCAL)
    for number in (1, 2, 3, 1):
        store.add(key(1), peer(number), float(number))
    assert store.get(key(1), 4.0) == [peer(1), peer(3), peer(2)]
    assert len(store) == 3


def test_a_record_expires_unless_it_is_renewed() -> None:
    store = ProviderStore(LOCAL)
    store.add(key(1), peer(1), 0.0)
    store.add(key(1), peer(2), 0.0)
    store.add(key(1), peer(2), 100.0)
    assert len(store.get(key(1), PROVIDER_RECORD_TTL - 1)) == 2
    assert [info.peer_id for info in store.get(key(1), PROVIDER_RECORD_TTL)] == [peer(2).peer_id]
    assert store.get(key(1), PROVIDER_RECORD_TTL + 100) == []


def test_addresses_expire_before_the_record() -> None:
    store = ProviderStore(LOCAL)
    store.add(key(1), peer(1), 0.0)
    assert store.get(key(1), PROVIDER_ADDRESS_TTL - 1) == [peer(1)]
    assert store.get(key(1), PROVIDER_ADDRESS_TTL) == [peer(1, ())]
    assert store.addresses_of(peer(1).peer_id, PROVIDER_ADDRESS_TTL) == ()


def test_the_latest_addresses_count_for_all_keys_of_a_provider() -> None:
    store = ProviderStore(LOCAL)
    store.add(key(1), peer(1, (b"old",)), 0.0)
    store.add(key(2), peer(1, (b"new",)), 1.0)
    store.add(key(2), peer(1, ()), 2.0)
    assert store.get(key(1), 3.0) == [peer(1, (b"new",))]


def test_addresses_of_a_provider_are_bounded() -> None:
    store = ProviderStore(LOCAL)
    store.add(key(1), peer(1, tuple(bytes([number]) for number in range(200))), 0.0)
    assert len(store.addresses_of(peer(1).peer_id, 0.0)) == MAX_ADDRESSES_PER_PEER


def test_a_sweep_drops_what_expired_and_nothing_else() -> None:
    store = ProviderStore(LOCAL)
    store.add(key(1), peer(1), 0.0)
    store.add(key(2), peer(1), 50.0)
    assert store.expire(PROVIDER_RECORD_TTL - 1) == 0
    assert store.expire(PROVIDER_RECORD_TTL) == 1
    assert len(store) == 1
    assert store.expire(PROVIDER_RECORD_TTL + 50) == 1
    assert store.addresses_of(peer(1).peer_id, 0.0) == (), "nobody's addresses are kept without a record"


def test_a_full_key_drops_the_provider_that_expires_first() -> None:
    store = ProviderStore(LOCAL, max_per_key=2)
    for number, now in ((1, 0.0), (2, 1.0), (1, 2.0), (3, 3.0)):
        assert store.add(key(1), peer(number), now)
    assert store.get(key(1), 4.0) == [peer(3), peer(1)]


def test_a_full_store_keeps_the_keys_nearest_to_us() -> None:
    store = ProviderStore(LOCAL, max_records=10)
    for one in reversed(KEYS):
        store.add(one, peer(1), 0.0)
    assert len(store) == 10
    assert [one for one in KEYS if store.get(one, 0.0)] == KEYS[:10]


def test_a_full_store_refuses_a_key_farther_than_all_it_has() -> None:
    store = ProviderStore(LOCAL, max_records=10)
    for one in KEYS[:10]:
        assert store.add(one, peer(1), 0.0)
    assert not store.add(KEYS[10], peer(1), 0.0)
    assert store.get(KEYS[10], 0.0) == []


def test_addresses_go_with_the_last_record() -> None:
    store = ProviderStore(LOCAL, max_records=1)
    store.add(KEYS[1], peer(1), 0.0)
    store.add(KEYS[0], peer(2), 0.0)
    assert store.addresses_of(peer(1).peer_id, 0.0) == ()
    assert store.addresses_of(peer(2).peer_id, 0.0) == peer(2).addresses


def test_a_store_that_was_full_of_expired_records_fills_up_again() -> None:
    store = ProviderStore(LOCAL, max_records=10)
    for one in KEYS[20:30]:
        store.add(one, peer(1), 0.0)
    assert store.expire(PROVIDER_RECORD_TTL) == 10
    for one in KEYS[:15]:
        store.add(one, peer(1), PROVIDER_RECORD_TTL)
    assert [one for one in KEYS if store.get(one, PROVIDER_RECORD_TTL)] == KEYS[:10]


def test_one_peer_cannot_fill_the_store() -> None:
    store = ProviderStore(LOCAL, max_keys_per_provider=3)
    assert [store.add(one, peer(1), 0.0) for one in KEYS[:5]] == [True, True, True, False, False]
    assert store.add(KEYS[0], peer(1), 1.0), "it can still renew what it has"
    assert store.add(KEYS[4], peer(2), 0.0), "and others can store"


def test_addresses_are_kept_of_a_bounded_number_of_providers() -> None:
    store = ProviderStore(LOCAL, max_with_addresses=2)
    for number in (1, 2, 1, 3):
        store.add(key(number), peer(number), 0.0)
    assert [bool(store.addresses_of(peer(number).peer_id, 0.0)) for number in (1, 2, 3)] == [True, False, True]
    assert len(store) == 3


class StoreUnderRandomUse(RuleBasedStateMachine):
    """Against a plain model: what the store returns is what the model has, unless a limit was in the way."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ProviderStore(LOCAL, max_records=12, max_per_key=3, max_keys_per_provider=6)
        self.model: dict[tuple[bytes, PeerId], float] = {}
        self.now = 0.0

    @rule(which=st.sampled_from(KEYS[:8]), number=st.integers(1, 6), wait=st.floats(0, 20_000))
    def add(self, which: bytes, number: int, wait: float) -> None:
        self.now += wait
        stored = self.store.add(which, peer(number), self.now)
        held = [info.peer_id for info in self.store.get(which, self.now)]
        assert stored == (peer(number).peer_id in held)
        if stored:
            self.model[which, peer(number).peer_id] = self.now + PROVIDER_RECORD_TTL

    @rule(wait=st.floats(0, 100_000))
    def expire(self, wait: float) -> None:
        self.now += wait
        before = len(self.store)
        assert before - self.store.expire(self.now) == len(self.store)
        assert len(self.store) == sum(len(self.store.get(one, self.now)) for one in KEYS[:8])

    @invariant()
    def limits_hold(self) -> None:
        held = [(one, info.peer_id) for one in KEYS[:8] for info in self.store.get(one, self.now)]
        assert len(held) <= len(self.store) <= 12
        assert all(sum(one == other for other, _ in held) <= 3 for one, _ in held)
        assert all(sum(who == other for _, other in held) <= 6 for _, who in held)

    @invariant()
    def nothing_is_returned_that_was_not_stored_or_has_expired(self) -> None:
        for one in KEYS[:8]:
            for info in self.store.get(one, self.now):
                assert self.model[one, info.peer_id] > self.now


TestStoreUnderRandomUse = StoreUnderRandomUse.TestCase
TestStoreUnderRandomUse.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 49), st.integers(0, 20)), max_size=200))
@settings(deadline=None, max_examples=50)
def test_the_count_of_records_is_right(adds: list[tuple[int, int]]) -> None:
    store = ProviderStore(LOCAL, max_records=30)
    for number, who in adds:
        store.add(key(number), peer(who), 0.0)
    assert len(store) == sum(len(store.get(key(number), 0.0)) for number in range(50))
