from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.keyspace import Key, key_of
from lattica.dht.limits import (
    ALPHA,
    MAX_ADDRESSES_PER_PEER,
    MAX_ATTEMPTS_PER_PEER,
    MAX_FAILED_REFERRALS,
    MAX_LOOKUP_CANDIDATES,
    MAX_LOOKUP_QUERIES,
    MAX_STALLED,
    K,
)
from lattica.dht.lookup import Lookup, Query
from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId

LOCAL = PeerId(b"\x12\x20" + b"l" * 32)
TARGET = key_of(b"target")


def peer(number: int) -> PeerInfo:
    return PeerInfo(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), (b"\x04" + number.to_bytes(4, "big"),))


def gap(info: PeerInfo, target: Key = TARGET) -> int:
    return key_of(info.peer_id.raw) ^ target


PEERS = sorted((peer(number) for number in range(3000)), key=gap)
"""The nearest to TARGET first."""


def lookup_from(seeds: Iterable[PeerInfo], *, k: int = K, beta: int = K) -> Lookup:
    return Lookup(TARGET, seeds, local=LOCAL, k=k, beta=beta)


def run(lookup: Lookup, respond: Callable[[PeerInfo], Iterable[PeerInfo] | None]) -> list[PeerInfo]:
    """Answer query after query, oldest first; ``None`` is a failure. Returns who was asked, in order."""
    waiting, asked = lookup.start(), []
    while waiting:
        assert len(waiting) <= ALPHA
        query = waiting.pop(0)
        asked.append(query.peer)
        named = respond(query.peer)
        if named is None:
            waiting += lookup.failure(query.peer.peer_id, "dead")
        else:
            waiting += lookup.response(query.peer.peer_id, named)
    assert lookup.done
    return asked


def small_world(size: int, seed: int, dead: float = 0.0) -> dict[PeerId, list[PeerInfo] | None]:
    """Peers that each know their 20 nearest and 20 random others, some of them dead."""
    rng = random.Random(seed)
    everybody = PEERS[:size]
    world: dict[PeerId, list[PeerInfo] | None] = {}
    for info in everybody:
        key = key_of(info.peer_id.raw)
        near = sorted(everybody, key=lambda other: gap(other, key))[1:21]
        world[info.peer_id] = list({*near, *rng.sample(everybody, min(20, size))})
    for info in rng.sample(everybody, int(dead * size)):
        world[info.peer_id] = None
    return world


def honest(world: dict[PeerId, list[PeerInfo] | None]) -> Callable[[PeerInfo], list[PeerInfo] | None]:
    def respond(info: PeerInfo) -> list[PeerInfo] | None:
        known = world.get(info.peer_id)
        return None if known is None else sorted(known, key=gap)[:K]

    return respond


class TestConvergence:
    @given(st.integers(1, 300), st.integers(0, 1000), st.floats(0, 0.3))
    @settings(max_examples=40, deadline=None)
    def test_it_finds_the_nearest_peers_that_are_alive(self, size: int, seed: int, dead: float) -> None:
        world = small_world(size, seed, dead)
        # Responders name K peers, dead ones included, so only the living among the K nearest are sure to be heard of.
        alive = [info for info in PEERS[:size][:K] if world[info.peer_id] is not None]
        lookup = lookup_from(random.Random(seed).sample(PEERS[:size], min(size, K)))
        run(lookup, honest(world))
        if lookup.closest():  # unless each peer that it could begin with is dead
            assert lookup.closest()[: len(alive)] == alive

    def test_it_ends_when_the_k_nearest_have_answered(self) -> None:
        lookup = lookup_from(PEERS[500:510])
        asked = run(lookup, lambda _: PEERS[:K])
        assert lookup.closest() == PEERS[:K]
        wasted = "three asked before anything nearer was known, two in the places free while the last ones answer"
        assert len(asked) == K + ALPHA + (ALPHA - 1), wasted

    def test_a_smaller_beta_ends_it_sooner(self) -> None:
        lookup = lookup_from(PEERS[500:510], beta=3)
        assert len(run(lookup, lambda _: PEERS[:K])) < K / 2
        assert lookup.closest()[:3] == PEERS[:3]

    def test_nobody_to_ask_is_over_at_once(self) -> None:
        lookup = lookup_from([])
        assert lookup.start() == []
        assert lookup.done
        assert lookup.closest() == []

    def test_everybody_dead_is_over_with_the_reasons(self) -> None:
        lookup = lookup_from(PEERS[:5])
        run(lookup, lambda _: None)
        assert lookup.closest() == []
        assert lookup.failures == {info.peer_id: "dead" for info in PEERS[:5]}

    def test_a_network_smaller_than_k_is_asked_whole(self) -> None:
        lookup = lookup_from([PEERS[4]])
        assert {info.peer_id for info in run(lookup, lambda _: PEERS[:7])} == {info.peer_id for info in PEERS[:7]}
        assert lookup.closest() == PEERS[:7]


class TestOrder:
    def test_the_nearest_are_asked_first_alpha_at_a_time(self) -> None:
        lookup = lookup_from(PEERS[9::-1])
        assert lookup.start() == [Query(info, 1) for info in PEERS[:ALPHA]]

    def test_each_answer_frees_one_place(self) -> None:
        lookup = lookup_from(PEERS[:10])
        lookup.start()
        assert lookup.response(PEERS[0].peer_id, []) == [Query(PEERS[3], 1)]
        assert lookup.failure(PEERS[1].peer_id, "dead") == [Query(PEERS[4], 1)]

    def test_nobody_is_asked_twice(self) -> None:
        lookup = lookup_from(PEERS[:30])
        asked = run(lookup, lambda _: PEERS[:30])
        assert len(asked) == len({info.peer_id for info in asked})
        assert lookup.queries == len(asked)

    def test_rounds_count_the_longest_chain_of_answers(self) -> None:
        chain = {PEERS[step].peer_id: PEERS[step - 1] for step in range(6, 0, -1)}
        lookup = lookup_from([PEERS[6]])
        run(lookup, lambda info: [chain[info.peer_id]] if info.peer_id in chain else [])
        assert lookup.rounds == 7

    def test_answers_side_by_side_are_one_round(self) -> None:
        lookup = lookup_from(PEERS[:5])
        run(lookup, lambda _: [])
        assert lookup.rounds == 1

    def test_a_peer_named_twice_counts_from_the_shorter_chain(self) -> None:
        first, second, slow = PEERS[100:103]
        lookup = lookup_from([first, second, slow])
        lookup.start()
        assert lookup.response(first.peer_id, [PEERS[0]]) == [Query(PEERS[0], 2)]
        assert lookup.response(PEERS[0].peer_id, [PEERS[1], PEERS[9]]) == [Query(PEERS[1], 3)]
        assert lookup.response(second.peer_id, [PEERS[9]]) == [Query(PEERS[9], 2)]

    def test_peers_that_failed_do_not_count_as_rounds(self) -> None:
        lookup = lookup_from([PEERS[3]])
        run(lookup, lambda info: [PEERS[0]] if info == PEERS[3] else None)
        assert lookup.rounds == 1


class TestSlowPeers:
    def test_a_slow_peer_loses_its_place_but_its_answer_counts(self) -> None:
        lookup = lookup_from(PEERS[:3])
        lookup.start()
        assert lookup.timeout(PEERS[0].peer_id) == []
        assert lookup.response(PEERS[1].peer_id, [PEERS[7]]) == [Query(PEERS[7], 2)]
        assert lookup.response(PEERS[0].peer_id, [PEERS[5]]) == [Query(PEERS[5], 2)]

    def test_when_all_are_slow_others_are_asked_up_to_a_limit(self) -> None:
        lookup = lookup_from(PEERS[:K])
        waiting, asked = lookup.start(), 0
        while waiting:
            asked += 1
            waiting += lookup.timeout(waiting.pop(0).peer.peer_id)
        assert asked == ALPHA + MAX_STALLED
        assert not lookup.done

    def test_it_does_not_wait_for_the_slow_if_enough_others_answered(self) -> None:
        lookup = lookup_from(PEERS[: K + 1])
        waiting = lookup.start()
        slow = waiting.pop(0).peer
        waiting += lookup.timeout(slow.peer_id)
        while waiting:
            waiting += lookup.response(waiting.pop(0).peer.peer_id, [])
        assert lookup.done
        assert slow not in lookup.closest()

    def test_it_waits_for_the_slow_if_nobody_else_is_left(self) -> None:
        lookup = lookup_from(PEERS[:2])
        lookup.start()
        lookup.timeout(PEERS[0].peer_id)
        lookup.response(PEERS[1].peer_id, [])
        assert not lookup.done
        lookup.failure(PEERS[0].peer_id, "timed out")
        assert lookup.done

    def test_events_that_make_no_sense_change_nothing(self) -> None:
        lookup = lookup_from(PEERS[:5])
        lookup.start()
        stranger, unasked = PEERS[99].peer_id, PEERS[4].peer_id
        for peer_id in (stranger, unasked):
            assert lookup.response(peer_id, PEERS[10:20]) == []
            assert lookup.failure(peer_id, "?") == []
            assert lookup.timeout(peer_id) == []
        lookup.failure(PEERS[0].peer_id, "dead")
        assert lookup.response(PEERS[0].peer_id, PEERS[10:20]) == [], "a failure is final"
        assert lookup.failures == {PEERS[0].peer_id: "dead"}

    def test_after_stop_nothing_more_happens(self) -> None:
        lookup = lookup_from(PEERS[:5])
        lookup.start()
        lookup.stop()
        assert lookup.response(PEERS[0].peer_id, PEERS[10:20]) == []
        assert lookup.done


class TestPausedPeers:
    @staticmethod
    def lookup(seeds: Iterable[PeerInfo], paused: Iterable[PeerInfo], target: Key = TARGET) -> Lookup:
        names = {info.peer_id for info in paused}
        return Lookup(target, seeds, local=LOCAL, is_paused=names.__contains__)

    def test_a_peer_that_failed_lately_is_passed_over(self) -> None:
        lookup = self.lookup(PEERS[:4], paused=[PEERS[0]])
        assert run(lookup, lambda _: []) == PEERS[1:4]

    def test_it_is_asked_after_all_if_nobody_else_answers(self) -> None:
        lookup = self.lookup(PEERS[:4], paused=PEERS[:2])
        asked = run(lookup, lambda info: [] if info in PEERS[:2] else None)
        assert asked == [PEERS[2], PEERS[3], PEERS[0]]

    def test_the_peer_that_is_looked_for_is_always_asked(self) -> None:
        target = key_of(PEERS[0].peer_id.raw)
        lookup = self.lookup(PEERS[:2], paused=[PEERS[0]], target=target)
        assert PEERS[0] in run(lookup, lambda _: [])


class TestHostileResponders:
    def test_a_responder_that_names_only_itself_and_us_ends_it(self) -> None:
        lookup = lookup_from([PEERS[0]])
        assert run(lookup, lambda info: [info, PeerInfo(LOCAL, (b"us",))]) == [PEERS[0]]

    def test_responders_that_name_each_other_are_each_asked_once(self) -> None:
        lookup = lookup_from([PEERS[0]])
        assert len(run(lookup, lambda info: [PEERS[1]] if info == PEERS[0] else [PEERS[0]])) == 2

    def test_of_ten_thousand_peers_only_the_k_nearest_are_taken(self) -> None:
        lookup = lookup_from([PEERS[2500]])
        asked = run(lookup, lambda info: PEERS[::-1] if info == PEERS[2500] else [])
        assert {info.peer_id for info in asked} == {info.peer_id for info in (PEERS[2500], *PEERS[:K])}

    def test_peers_without_addresses_are_not_asked(self) -> None:
        lookup = lookup_from([PEERS[0]])
        assert run(lookup, lambda _: [PeerInfo(PEERS[1].peer_id)]) == [PEERS[0]]

    def test_inventing_ever_nearer_peers_is_bounded(self) -> None:
        """Everybody asked is an accomplice who names twenty more, nearer than all before."""
        nearer = iter(PEERS[2980::-1])
        lookup = lookup_from(PEERS[2990:])
        asked = run(lookup, lambda _: list(islice(nearer, 10)))
        assert len(asked) == MAX_LOOKUP_QUERIES

    def test_queries_are_bounded_when_nobody_named_answers(self) -> None:
        lookup = lookup_from(PEERS[:400])
        assert len(run(lookup, lambda _: None)) == MAX_LOOKUP_QUERIES

    def test_the_farthest_candidates_are_forgotten(self) -> None:
        lookup = Lookup(TARGET, PEERS[: MAX_LOOKUP_CANDIDATES + 100], local=LOCAL, max_queries=10_000)
        assert run(lookup, lambda _: None) == PEERS[:MAX_LOOKUP_CANDIDATES]

    def test_candidates_are_bounded_and_the_nearest_are_kept(self) -> None:
        lookup = lookup_from(PEERS[MAX_LOOKUP_CANDIDATES + 100 :: -1])
        assert run(lookup, lambda _: []) == PEERS[: K + ALPHA - 1]
        assert lookup.closest() == PEERS[:K]

    def test_a_liar_whose_peers_do_not_exist_is_soon_ignored_and_the_truth_is_found(self) -> None:
        """The liar's inventions are nearer than anybody real; each would cost a timeout."""
        invented, world = set(PEERS[:K]), small_world(300, seed=1)
        real = PEERS[K:300]
        liar = real[0]

        def respond(info: PeerInfo) -> list[PeerInfo] | None:
            if info in invented:
                return None
            if info == liar:
                return PEERS[:K]
            return sorted((other for other in world[info.peer_id] or () if other not in invented), key=gap)[:K]

        lookup = lookup_from(real[:10])
        asked = run(lookup, respond)
        assert sum(info in invented for info in asked) <= MAX_FAILED_REFERRALS + ALPHA
        assert lookup.closest() == real[:K]

    def test_peers_that_somebody_credible_names_too_are_asked_all_the_same(self) -> None:
        liar, witness = PEERS[100], PEERS[101]

        def respond(info: PeerInfo) -> list[PeerInfo] | None:
            if info == liar:
                return PEERS[:K]
            return [PEERS[K - 1]] if info == witness else None if info in PEERS[: K - 1] else []

        lookup = lookup_from([liar, witness])
        assert PEERS[K - 1] in run(lookup, respond)

    def test_an_ignored_peer_is_asked_when_somebody_credible_names_it_later(self) -> None:
        liar, witness = PEERS[100], PEERS[200]
        lookup = lookup_from([liar, witness])
        lookup.start()
        waiting = lookup.response(liar.peer_id, PEERS[:K])
        while waiting:
            waiting += lookup.failure(waiting.pop(0).peer.peer_id, "dead")
        assert lookup.queries < K
        assert lookup.response(witness.peer_id, [PEERS[K - 1]]) == [Query(PEERS[K - 1], 2)]

    def test_a_peer_that_failed_is_asked_again_at_an_address_that_was_not_tried(self) -> None:
        liar, honest = PEERS[100], PEERS[101]
        wanted = PEERS[0]
        lookup = lookup_from([liar, honest])
        lookup.start()
        wrong = [PeerInfo(wanted.peer_id, (b"wrong",))]
        assert lookup.response(liar.peer_id, wrong) == [Query(wrong[0], 2)]
        assert lookup.failure(wanted.peer_id, "dead") == []
        (again,) = lookup.response(honest.peer_id, [wanted])
        assert again.peer == PeerInfo(wanted.peer_id, (*wanted.addresses, b"wrong"))
        lookup.response(wanted.peer_id, [])
        assert lookup.closest()[0].peer_id == wanted.peer_id
        assert lookup.failures == {}

    def test_naming_ever_new_addresses_of_a_dead_peer_does_not_make_us_ask_for_ever(self) -> None:
        dead, addresses = PEERS[0], iter(range(10_000))
        lookup = lookup_from(PEERS[100:140])
        asked = run(
            lookup,
            lambda info: None if info.peer_id == dead.peer_id else [PeerInfo(dead.peer_id, (b"%d" % next(addresses),))],
        )
        assert [info.peer_id for info in asked].count(dead.peer_id) == MAX_ATTEMPTS_PER_PEER

    def test_wrong_addresses_from_one_do_not_crowd_out_right_ones_from_another(self) -> None:
        wanted = PEERS[0].peer_id
        wrong = PeerInfo(wanted, tuple(b"wrong%d" % number for number in range(MAX_ADDRESSES_PER_PEER)))
        right = PeerInfo(wanted, (b"right",))
        asked = lookup_from([wrong, right]).start()
        assert {b"right", b"wrong0"} <= set(asked[0].peer.addresses)
        assert len(asked[0].peer.addresses) <= MAX_ADDRESSES_PER_PEER


@pytest.mark.parametrize("k", [1, 4])
def test_closest_is_at_most_k(k: int) -> None:
    lookup = lookup_from(PEERS[:10], k=k, beta=k)
    run(lookup, lambda _: PEERS[:10])
    assert lookup.closest() == PEERS[:k]


def test_a_search_for_a_peer_that_is_silent_itself_ends_when_the_others_have_answered() -> None:
    """It may have moved; the others say where to."""
    sought, other = PEERS[0], PEERS[1]
    lookup = Lookup(key_of(sought.peer_id.raw), [sought, other], local=LOCAL)
    assert {query.peer for query in lookup.start()} == {sought, other}
    assert lookup.timeout(sought.peer_id) == []
    assert not lookup.done
    lookup.response(other.peer_id, [sought])
    assert lookup.done


def test_a_search_waits_for_a_silent_peer_that_is_not_the_one_looked_for() -> None:
    lookup = lookup_from(PEERS[:2])
    lookup.start()
    lookup.timeout(PEERS[0].peer_id)
    lookup.response(PEERS[1].peer_id, [])
    assert not lookup.done
