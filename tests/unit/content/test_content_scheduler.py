"""The fetch scheduler, driven by hand and by random histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content.provider_state import INITIAL_WINDOW, MAX_WINDOW, STALL_MAX_S, STALL_MIN_S
from lattica.content.scheduler import (
    DROP_SILENT_S,
    MAX_COPIES,
    MAX_IN_FLIGHT_BYTES,
    MAX_OUTSTANDING,
    RETRY_MISSING_S,
    STUCK_S,
    Action,
    Drop,
    FetchScheduler,
    Finished,
    Overtake,
    Request,
    Stuck,
)
from lattica.identity import PeerId

MIB = 1 << 20


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20)) + number.to_bytes(32, "big"))


ALICE, BOB, CAROL = peer_id(1), peer_id(2), peer_id(3)


def requested(actions: Iterable[Action], peer: PeerId | None = None) -> list[int]:
    """The chunks that some actions ask for, of one provider or of all."""
    requests = [action for action in actions if isinstance(action, Request)]
    return [chunk for request in requests if peer in (None, request.provider) for chunk in request.chunks]


def receive_all(scheduler: FetchScheduler, peer: PeerId, chunks: Sequence[int], now: float) -> list[Action]:
    """Deliver chunks and whatever is asked for in return, until nothing more is."""
    every: list[Action] = []
    while chunks:
        actions = scheduler.chunks_received(peer, chunks, now)
        every += actions
        chunks = requested(actions, peer)
    return every


class TestOneProvider:
    def test_gets_every_chunk_in_order(self) -> None:
        scheduler = FetchScheduler([1000] * 600, 0.0)
        first = scheduler.provider_added(ALICE, 0.0)
        rest = receive_all(scheduler, ALICE, requested(first), 1.0)
        assert requested(first) + requested(rest) == list(range(600))
        assert rest[-1] == Finished()

    def test_begins_where_it_is_told_and_wraps_around(self) -> None:
        scheduler = FetchScheduler([1000] * 10, 0.0, start=7)
        assert requested(scheduler.provider_added(ALICE, 0.0)) == [7, 8, 9, 0, 1, 2, 3, 4, 5, 6]

    def test_finished_is_said_once(self) -> None:
        scheduler = FetchScheduler([1000], 0.0)
        scheduler.provider_added(ALICE, 0.0)
        assert scheduler.chunks_received(ALICE, [0], 1.0) == [Finished()]
        assert scheduler.chunks_received(ALICE, [0], 1.0) == []
        assert scheduler.tick(100.0) == []

    def test_may_owe_a_window_of_bytes(self) -> None:
        scheduler = FetchScheduler([MIB] * 100, 0.0)
        assert len(requested(scheduler.provider_added(ALICE, 0.0))) == INITIAL_WINDOW // MIB

    def test_may_owe_a_bounded_number_of_chunks(self) -> None:
        scheduler = FetchScheduler([10] * 1000, 0.0)
        assert len(requested(scheduler.provider_added(ALICE, 0.0))) == MAX_OUTSTANDING

    def test_is_asked_for_several_chunks_at_a_time(self) -> None:
        """A request message costs as much for one chunk as for many."""
        scheduler = FetchScheduler([1000] * 1000, 0.0)
        chunks = requested(scheduler.provider_added(ALICE, 0.0))
        answers = [requested(scheduler.chunks_received(ALICE, [chunk], 1.0)) for chunk in chunks]
        sizes = [len(asked) for asked in answers if asked]
        assert min(sizes) >= MAX_OUTSTANDING // 4

    @pytest.mark.parametrize(("rate", "window"), [(100e6, MAX_WINDOW), (8e6, 8e6), (0.1e6, 2 * MIB)])
    def test_owes_what_its_rate_earns_it(self, rate: float, window: float) -> None:
        scheduler = FetchScheduler([MIB // 4] * 1000, 0.0)
        owed = requested(scheduler.provider_added(ALICE, 0.0))
        now = 0.0
        for _ in range(100):
            now += MIB / 4 / rate
            owed = owed[1:] + requested(scheduler.chunks_received(ALICE, owed[:1], now))
        in_flight = len(owed) * MIB / 4
        assert window * 0.7 <= in_flight <= window

    def test_lacks_a_chunk_now_and_is_asked_again_later(self) -> None:
        scheduler = FetchScheduler([1000] * 2, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        assert scheduler.chunks_missing(ALICE, [0, 1], 1.0) == []
        assert requested(scheduler.tick(0.9 + RETRY_MISSING_S)) == []
        assert requested(scheduler.tick(1.1 + RETRY_MISSING_S)) == [0, 1]


class TestSeveralProviders:
    def test_take_different_regions(self) -> None:
        scheduler = FetchScheduler([MIB] * 100, 0.0)
        assert requested(scheduler.provider_added(ALICE, 0.0)) == [0, 1, 2, 3]
        assert requested(scheduler.provider_added(BOB, 0.0)) == [52, 53, 54, 55]
        assert requested(scheduler.provider_added(CAROL, 0.0)) == [28, 29, 30, 31]

    def test_the_faster_one_delivers_more(self) -> None:
        scheduler = FetchScheduler([MIB] * 300, 0.0)
        owed = {peer: requested(scheduler.provider_added(peer, 0.0), peer) for peer in (ALICE, BOB)}
        delivered = {ALICE: 0, BOB: 0}
        now, turn = 0.0, 0
        while scheduler.remaining:
            now, turn = now + 0.01, turn + 1
            for peer in (ALICE, BOB) if turn % 8 == 0 else (ALICE,):
                done, owed[peer] = owed[peer][:1], owed[peer][1:]
                delivered[peer] += len(done)
                actions = scheduler.chunks_received(peer, done, now)
                for other in owed:
                    owed[other] += requested(actions, other)
        assert delivered[ALICE] > 6 * delivered[BOB]

    def test_what_one_lacks_another_is_asked_for(self) -> None:
        scheduler = FetchScheduler([1000] * 10, 0.0)
        assert len(requested(scheduler.provider_added(ALICE, 0.0))) == 10
        assert requested(scheduler.provider_added(BOB, 0.0)) == []
        assert requested(scheduler.chunks_missing(ALICE, [2, 3], 1.0), BOB) == [2, 3]

    def test_what_a_failed_one_owed_another_is_asked_for(self) -> None:
        scheduler = FetchScheduler([1000] * 10, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        scheduler.chunks_received(ALICE, range(4), 1.0)
        assert requested(scheduler.provider_failed(ALICE, 1.0), BOB) == [4, 5, 6, 7, 8, 9]

    def test_another_goes_on_where_a_failed_one_stopped(self) -> None:
        scheduler = FetchScheduler([MIB] * 100, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_failed(ALICE, 0.0)
        chunks = requested(scheduler.provider_added(BOB, 0.0))
        assert chunks == [0, 1, 2, 3]
        assert requested(scheduler.chunks_received(BOB, chunks, 0.1))[:4] == [4, 5, 6, 7]

    def test_one_that_comes_late_is_asked_for_what_all_others_lacked(self) -> None:
        scheduler = FetchScheduler([1000] * 3, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.chunks_missing(ALICE, [0, 1, 2], 1.0)
        assert requested(scheduler.provider_added(BOB, 1.0)) == [0, 1, 2]

    def test_a_banned_one_is_never_asked_again(self) -> None:
        scheduler = FetchScheduler([1000] * 3, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        assert scheduler.provider_banned(ALICE, "sent wrong bytes", 1.0) == [Drop(ALICE, "sent wrong bytes")]
        assert scheduler.provider_added(ALICE, 1.0) == []
        assert requested(scheduler.provider_added(BOB, 1.0)) == [0, 1, 2]

    def test_an_answer_to_what_was_not_asked_changes_nothing(self) -> None:
        scheduler = FetchScheduler([1000] * 3, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        assert scheduler.chunks_missing(BOB, [0, 1, 2], 0.1) == []
        assert requested(scheduler.provider_failed(ALICE, 0.2), BOB) == [0, 1, 2]

    def test_together_they_owe_a_bounded_number_of_bytes(self) -> None:
        scheduler = FetchScheduler([MIB] * 1000, 0.0)
        owed = {peer_id(number): requested(scheduler.provider_added(peer_id(number), 0.0)) for number in range(4)}
        for step in range(1, 200):
            for peer in owed:
                owed[peer] = owed[peer][1:] + requested(scheduler.chunks_received(peer, owed[peer][:1], step / 100))
        for number in range(4, 12):
            owed[peer_id(number)] = requested(scheduler.provider_added(peer_id(number), 2.0))
        assert MAX_IN_FLIGHT_BYTES - MIB < sum(map(len, owed.values())) * MIB <= MAX_IN_FLIGHT_BYTES

    def test_room_of_those_that_failed_is_for_others(self) -> None:
        scheduler = FetchScheduler([MIB] * 1000, 0.0)
        for _ in range(100):
            assert requested(scheduler.provider_added(ALICE, 0.0))
            scheduler.provider_failed(ALICE, 0.0)

    @pytest.mark.parametrize(("faster", "slower"), [(BOB, CAROL), (CAROL, BOB)])
    def test_the_fastest_idle_one_is_asked_first(self, faster: PeerId, slower: PeerId) -> None:
        scheduler = FetchScheduler([MIB] * 12, 0.0)
        owed = {peer: requested(scheduler.provider_added(peer, 0.0)) for peer in (ALICE, BOB, CAROL)}
        for peer, chunks in owed.items():
            scheduler.chunks_received(peer, chunks[:1], 0.002)
        scheduler.chunks_received(ALICE, owed[ALICE][1:3], 0.004)
        assert scheduler.chunks_received(faster, owed[faster][1:], 0.006) == []
        assert scheduler.chunks_received(slower, owed[slower][1:], 0.008) == []
        assert scheduler.provider_failed(ALICE, 0.008) == [Request(faster, (owed[ALICE][3],))]

    def test_a_failed_one_may_return(self) -> None:
        scheduler = FetchScheduler([1000] * 3, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_failed(ALICE, 1.0)
        assert requested(scheduler.provider_added(ALICE, 2.0)) == [0, 1, 2]


class TestStalls:
    def test_a_silent_provider_is_overtaken(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        actions = scheduler.tick(STALL_MIN_S)
        assert Overtake(ALICE) in actions
        assert requested(actions, BOB) == [0, 1, 2, 3]

    def test_its_late_answers_count_if_they_are_first(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        scheduler.tick(STALL_MIN_S)
        assert scheduler.chunks_received(ALICE, [0, 1, 2, 3], STALL_MIN_S + 1) == [Finished()]

    def test_it_is_asked_again_once_it_answers(self) -> None:
        scheduler = FetchScheduler([MIB] * 100, 0.0)
        chunks = requested(scheduler.provider_added(ALICE, 0.0))
        scheduler.tick(STALL_MIN_S)
        assert requested(scheduler.chunks_received(ALICE, chunks, STALL_MIN_S + 1))

    def test_it_is_not_asked_again_for_what_it_owes_still(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.tick(STALL_MIN_S)
        assert scheduler.chunks_received(ALICE, [0], STALL_MIN_S + 1) == []
        scheduler.provider_added(BOB, STALL_MIN_S + 1)
        assert requested(scheduler.provider_failed(BOB, STALL_MIN_S + 2)) == []
        assert requested(scheduler.tick(STALL_MIN_S + 3)) == []

    def test_it_is_not_asked_again_for_what_it_owes_still_in_the_endgame(self) -> None:
        scheduler = FetchScheduler([MIB] * 3, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        scheduler.tick(STALL_MIN_S)
        assert scheduler.chunks_received(ALICE, [0], STALL_MIN_S + 2) == []
        assert requested(scheduler.tick(STALL_MIN_S + 2), ALICE) == []

    def test_nobody_is_asked_for_what_it_delivered_late(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.tick(STALL_MIN_S)
        scheduler.chunks_received(ALICE, [0, 1], STALL_MIN_S + 1)
        assert requested(scheduler.provider_added(BOB, STALL_MIN_S + 1)) == [2, 3]

    def test_it_is_dropped_in_the_end(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        drops = [action for action in scheduler.tick(DROP_SILENT_S) if isinstance(action, Drop)]
        assert [drop.provider for drop in drops] == [ALICE]

    def test_one_that_owes_nothing_is_not_silent(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.chunks_missing(ALICE, [0, 1, 2, 3], 1.0)
        assert scheduler.tick(1.0 + RETRY_MISSING_S - 0.1) == []
        assert requested(scheduler.tick(100.0), ALICE) == [0, 1, 2, 3]
        assert scheduler.tick(100.0 + STALL_MIN_S - 0.1) == []

    def test_what_arrives_counts_before_it_is_verified(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.heard(ALICE, STALL_MIN_S - 0.1)
        assert scheduler.tick(STALL_MIN_S) == []

    def test_a_slow_provider_has_more_time(self) -> None:
        """At 0.2 MB/s the largest chunk takes 5 s."""
        scheduler = FetchScheduler([MIB] * 8, 0.0)
        chunks = requested(scheduler.provider_added(ALICE, 0.0))
        scheduler.chunks_received(ALICE, chunks[:1], 5.0)
        assert scheduler.tick(5.0 + STALL_MIN_S + 1) == []
        assert scheduler.tick(5.0 + STALL_MAX_S) == [Overtake(ALICE)]

    def test_a_fetch_without_progress_is_stuck(self) -> None:
        scheduler = FetchScheduler([MIB], 0.0)
        assert scheduler.tick(STUCK_S - 1) == []
        assert scheduler.tick(STUCK_S) == [Stuck()]

    def test_a_provider_that_has_nothing_does_not_keep_it_from_being_stuck(self) -> None:
        scheduler = FetchScheduler([MIB], 0.0)
        actions = scheduler.provider_added(ALICE, 0.0)
        now = 0.0
        while Stuck() not in actions:
            if requested(actions):
                scheduler.chunks_missing(ALICE, requested(actions), now)
            now += 0.25
            actions = scheduler.tick(now)
            assert now < STUCK_S + RETRY_MISSING_S


class TestEndgame:
    def test_an_idle_provider_is_asked_for_what_a_slow_one_would_deliver_last(self) -> None:
        scheduler = FetchScheduler([MIB] * 8, 0.0)
        slow = requested(scheduler.provider_added(ALICE, 0.0))
        fast = requested(scheduler.provider_added(BOB, 0.0))
        scheduler.chunks_received(ALICE, slow[:1], 1.0)
        actions = scheduler.chunks_received(BOB, fast, 1.0)
        assert requested(actions, BOB)[0] == slow[-1]

    def test_the_first_answer_counts_and_the_other_is_ignored(self) -> None:
        scheduler = FetchScheduler([MIB] * 8, 0.0)
        slow = requested(scheduler.provider_added(ALICE, 0.0))
        fast = requested(scheduler.provider_added(BOB, 0.0))
        scheduler.chunks_received(ALICE, slow[:1], 1.0)
        doubled = requested(scheduler.chunks_received(BOB, fast, 1.0), BOB)
        assert doubled == slow[:0:-1]
        assert scheduler.chunks_received(BOB, doubled[:2], 1.1) == []
        assert scheduler.chunks_received(ALICE, doubled[:2], 1.2) == []
        assert scheduler.remaining == 1
        assert scheduler.chunks_received(ALICE, doubled[2:], 1.3) == [Finished()]

    def test_ignored_answers_make_room_for_new_requests(self) -> None:
        scheduler = FetchScheduler([MIB] * 12, 0.0)
        slow = requested(scheduler.provider_added(ALICE, 0.0))
        fast = requested(scheduler.provider_added(BOB, 0.0))
        lost = requested(scheduler.provider_added(CAROL, 0.0))
        scheduler.chunks_received(BOB, fast, 0.1)
        scheduler.chunks_received(BOB, slow, 0.2)
        actions = scheduler.chunks_received(ALICE, slow, 2.0)
        actions += scheduler.provider_failed(CAROL, 2.0) + scheduler.provider_failed(BOB, 2.0)
        assert set(requested(actions, ALICE)) <= set(lost)
        assert requested(actions, ALICE)

    def test_a_chunk_that_two_owed_is_expected_of_nobody_once_it_is_here(self) -> None:
        scheduler = FetchScheduler([MIB] * 2, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        assert requested(scheduler.tick(1.0), BOB) == [1, 0]
        scheduler.chunks_received(BOB, [1], 1.0)
        scheduler.provider_failed(ALICE, 1.0)
        scheduler.provider_failed(BOB, 1.0)
        assert scheduler.expects_nothing

    def test_one_that_lacks_what_a_slow_one_owes_is_asked_again_later(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        scheduler.provider_added(BOB, 0.0)
        now = 1.1
        scheduler.chunks_received(BOB, requested(scheduler.tick(1.0), BOB)[1:], now)
        for _ in range(5):
            assert scheduler.chunks_missing(BOB, [3], now) == []
            now += RETRY_MISSING_S
            scheduler.heard(ALICE, now)
            assert requested(scheduler.tick(now), BOB) == [3]

    def test_equally_fast_providers_do_not_double_each_other(self) -> None:
        scheduler = FetchScheduler([MIB] * 100, 0.0)
        owed = {peer: requested(scheduler.provider_added(peer, 0.0)) for peer in (ALICE, BOB)}
        asked = owed[ALICE] + owed[BOB]
        now = 0.0
        while scheduler.remaining:
            now += 0.01
            for peer in owed:
                done, owed[peer] = owed[peer][:1], owed[peer][1:]
                more = requested(scheduler.chunks_received(peer, done, now))
                owed[peer] += more
                asked += more
        assert sorted(asked) == list(range(100))

    def test_a_new_provider_does_not_double_what_another_was_just_asked_for(self) -> None:
        scheduler = FetchScheduler([MIB] * 4, 0.0)
        scheduler.provider_added(ALICE, 0.0)
        assert scheduler.provider_added(BOB, 0.1) == []
        assert requested(scheduler.tick(1.0), BOB)


class Model:
    """Plays the providers and checks the scheduler's promises at every action."""

    def __init__(self, lengths: Sequence[int], start: int) -> None:
        self.lengths = lengths
        self.scheduler = FetchScheduler(lengths, 0.0, start=start, stuck_s=1e9)
        self.owed: dict[PeerId, list[int]] = {}
        self.banned: set[PeerId] = set()
        self.verified: set[int] = set()
        self.finished = 0
        self.now = 0.0

    def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Request(peer, chunks):
                    self.check_request(peer, chunks)
                case Drop(peer, _):
                    self.owed.pop(peer)
                case Finished():
                    self.finished += 1
                    assert self.verified == set(range(len(self.lengths)))

    def check_request(self, peer: PeerId, chunks: Sequence[int]) -> None:
        assert peer in self.owed, "asked of a provider that is gone"
        assert chunks
        assert len(set(chunks)) == len(chunks)
        assert not set(chunks) & set(self.owed[peer]), "asked twice of the same provider"
        assert not set(chunks) & self.verified, "asked for what is there"
        self.owed[peer] += chunks
        assert len(self.owed[peer]) <= MAX_OUTSTANDING
        assert sum(self.lengths[chunk] for chunk in self.owed[peer]) <= MAX_WINDOW
        assert sum(self.lengths[c] for owed in self.owed.values() for c in owed) <= MAX_IN_FLIGHT_BYTES

    def add(self, peer: PeerId) -> None:
        if peer not in self.banned:
            self.owed.setdefault(peer, [])
        self.apply(self.scheduler.provider_added(peer, self.now))

    def fail(self, peer: PeerId) -> None:
        self.owed.pop(peer, None)
        self.apply(self.scheduler.provider_failed(peer, self.now))

    def lie(self, peer: PeerId) -> None:
        if peer in self.owed:
            self.banned.add(peer)
            self.apply(self.scheduler.provider_banned(peer, "sent wrong bytes", self.now))
            assert peer not in self.owed

    def answer(self, peer: PeerId, chunks: Sequence[int], has: bool) -> None:
        self.owed[peer] = [chunk for chunk in self.owed[peer] if chunk not in chunks]
        if has:
            self.verified.update(chunks)
            self.apply(self.scheduler.chunks_received(peer, chunks, self.now))
        else:
            self.apply(self.scheduler.chunks_missing(peer, chunks, self.now))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.scheduler.tick(self.now))


lengths_lists: st.SearchStrategy[list[int]] = st.one_of(
    st.lists(st.integers(1, MIB), min_size=1, max_size=40),
    st.integers(1, 120).map(lambda count: [MIB] * count),
    st.integers(1, 600).map(lambda count: [1500] * count),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_history_ends_well_if_one_honest_provider_has_everything(data: st.DataObject) -> None:
    """Others join, lie, stall, lack chunks and fail in any order; the promises of `Model` hold throughout."""
    lengths = data.draw(lengths_lists)
    model = Model(lengths, data.draw(st.integers(0, len(lengths) - 1)))
    honest, others = peer_id(0), [peer_id(number) for number in range(1, 5)]
    for _ in range(data.draw(st.integers(0, 40))):
        peer = data.draw(st.sampled_from([honest, *others]))
        owed = model.owed.get(peer, [])
        step = data.draw(st.sampled_from(["add", "answer", "answer", "answer", "miss", "fail", "lie", "tick"]))
        if step == "add":
            model.add(peer)
        elif step == "fail":
            model.fail(peer)
        elif step == "lie" and peer is not honest:
            model.lie(peer)
        elif step == "tick":
            model.tick(data.draw(st.sampled_from([0.25, 3.0, 5.0, 30.0])))
        elif step in ("answer", "miss") and owed:
            first = data.draw(st.integers(0, len(owed) - 1))
            count = data.draw(st.integers(1, len(owed) - first))
            model.answer(peer, owed[first : first + count], has=step == "answer" or peer is honest)
    finish(model, honest)


def finish(model: Model, honest: PeerId) -> None:
    """Let only the honest provider work from here on; it has to be enough, in a bounded number of rounds."""
    for _ in range(2 * len(model.lengths) + 40):
        if not model.scheduler.remaining:
            break
        model.add(honest)
        if owed := model.owed.get(honest):
            model.answer(honest, owed[:1], has=True)
        model.tick(0.5)
    assert model.scheduler.remaining == 0
    assert model.finished == 1
    assert len(model.verified) == len(model.lengths)


@settings(deadline=None)
@given(st.data())
def test_providers_that_only_lie_and_stall_never_finish_it(data: st.DataObject) -> None:
    lengths = data.draw(lengths_lists)
    model = Model(lengths, 0)
    for _ in range(30):
        peer = peer_id(data.draw(st.integers(0, 3)))
        model.add(peer)
        step = data.draw(st.sampled_from(["miss", "lie", "nothing"]))
        if step == "miss" and model.owed.get(peer):
            model.answer(peer, model.owed[peer], has=False)
        elif step == "lie":
            model.lie(peer)
        model.tick(data.draw(st.sampled_from([0.25, 5.0, 30.0])))
    assert model.finished == 0
    assert model.scheduler.remaining == len(lengths)


def test_a_chunk_is_expected_of_a_bounded_number_of_providers() -> None:
    """Of Alice, who is slow, and of as many fast ones as may be."""
    scheduler = FetchScheduler([MIB] * 40, 0.0)
    fast = [peer_id(number) for number in range(10, 18)]
    asked = Counter(requested(scheduler.provider_added(ALICE, 0.0)))
    owed = {peer: requested(scheduler.provider_added(peer, 0.0)) for peer in fast}
    for _ in range(40):
        for peer in fast:
            done, owed[peer] = owed[peer][:1], owed[peer][1:]
            if not set(done) & set(asked):
                more = requested(scheduler.chunks_received(peer, done, 1.0), peer)
                owed[peer] += more
                asked.update(more)
    assert asked.most_common(1)[0][1] == 1 + MAX_COPIES


def test_a_new_provider_may_prove_itself_by_a_chunk_that_silent_ones_owe() -> None:
    scheduler = FetchScheduler([MIB] * 4, 0.0)
    scheduler.provider_added(ALICE, 0.0)
    scheduler.provider_added(BOB, 0.0)
    assert len(requested(scheduler.tick(1.0), BOB)) == 4
    test = requested(scheduler.provider_added(CAROL, 2.0))
    assert len(test) == 1
    assert len(requested(scheduler.chunks_received(CAROL, test, 2.1), CAROL)) == 3


def test_partial_providers_together_are_enough() -> None:
    """One has the even chunks, the other the odd ones."""
    count = 2000
    model = Model([1000] * count, 0)
    parity = {ALICE: 0, BOB: 1}
    for peer in parity:
        model.add(peer)
    for _ in range(count):
        for peer, rest in parity.items():
            owed = list(model.owed[peer])
            model.answer(peer, [chunk for chunk in owed if chunk % 2 == rest], has=True)
            model.answer(peer, [chunk for chunk in owed if chunk % 2 != rest], has=False)
        model.tick(0.25)
        if model.finished:
            break
    assert model.finished == 1
