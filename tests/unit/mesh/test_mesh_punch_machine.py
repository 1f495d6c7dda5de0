"""Both sides of a punch as machines, with a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.mesh.punch_machine import (
    ANSWER_TIMEOUT_S,
    LATE_S,
    PROVE_LIMIT_S,
    PUNCH_LIMIT_S,
    RANDOM_ROUNDS,
    WINDOW_S,
    Action,
    Answerer,
    Dial,
    Finish,
    Initiator,
    Learn,
    PunchMachine,
    Send,
    State,
    Stop,
)
from lattica.mesh.punch_messages import MAX_ROUNDS, Connect, Offer, Outcome, PunchMessage, Result, Sync
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_report import NatMapping

EIM, _, APDM = NatMapping
ALICE = Offer(mapped=Endpoint("20.1.1.1", 5000), mapping=EIM, port_step=0)
BOB = Offer(mapped=Endpoint("20.2.2.2", 6000), mapping=EIM, port_step=0)
RANDOM_BOB = Offer(mapped=Endpoint("20.2.2.2", 6000), mapping=APDM, port_step=None)


def sent(actions: Sequence[Action]) -> list[PunchMessage]:
    return [action.message for action in actions if isinstance(action, Send)]


def dial(actions: Sequence[Action]) -> Dial:
    (found,) = [action for action in actions if isinstance(action, Dial)]
    return found


def finish(actions: Sequence[Action]) -> Finish:
    (found,) = [action for action in actions if isinstance(action, Finish)]
    return found


def punching_initiator(theirs: Offer = BOB, now: float = 0.0) -> Initiator:
    machine = Initiator()
    machine.start(now)
    machine.learned(ALICE, now)
    machine.receive(Connect(1, theirs), now)
    return machine


def punching_answerer() -> Answerer:
    machine = Answerer()
    machine.start(0.0)
    machine.receive(Connect(1, ALICE), 0.0)
    machine.learned(BOB, 0.0)
    machine.receive(Sync(1), 0.0)
    return machine


def test_the_initiator_dials_half_a_round_trip_after_its_sync() -> None:
    machine = Initiator()
    assert machine.start(10.0) == (Learn(1),)
    assert sent(machine.learned(ALICE, 10.1)) == [Connect(1, ALICE)]
    actions = machine.receive(Connect(1, BOB), 10.3)
    assert sent(actions) == [Sync(1)]
    assert dial(actions).at == pytest.approx(10.4)
    assert dial(actions).until == pytest.approx(10.4 + WINDOW_S)
    assert dial(actions).plan.targets == (BOB.mapped,)


def test_what_the_answerer_needed_for_itself_is_no_part_of_the_round_trip() -> None:
    machine = Initiator()
    machine.start(0.0)
    machine.learned(ALICE, 0.0)
    assert dial(machine.receive(Connect(1, BOB, held=0.5), 0.7)).at == pytest.approx(0.8)


def test_an_answerer_that_claims_to_have_needed_longer_than_all_of_it_wins_nothing() -> None:
    machine = Initiator()
    machine.start(0.0)
    machine.learned(ALICE, 0.0)
    assert dial(machine.receive(Connect(1, BOB, held=4000.0), 0.7)).at == pytest.approx(0.7)


def test_the_answerer_dials_when_sync_comes() -> None:
    machine = Answerer()
    assert machine.start(0.0) == (Learn(1),)
    assert machine.learned(BOB, 0.1) == ()
    assert sent(machine.receive(Connect(1, ALICE), 0.3)) == [Connect(1, BOB, 0.0)]
    action = dial(machine.receive(Sync(1), 0.5))
    assert action.at == 0.5
    assert action.plan.targets == (ALICE.mapped,)


def test_the_answerer_says_how_long_the_initiator_had_to_wait_for_it() -> None:
    machine = Answerer()
    machine.start(0.0)
    assert machine.receive(Connect(1, ALICE), 0.25) == ()
    assert sent(machine.learned(BOB, 0.75)) == [Connect(1, BOB, 0.5)]


def test_the_answerer_dials_and_listens_longer_than_the_initiator_can_need() -> None:
    assert punching_answerer().deadline == pytest.approx(WINDOW_S + PROVE_LIMIT_S + ANSWER_TIMEOUT_S)


def test_a_side_whose_nat_gives_each_connection_a_port_dials_a_little_later() -> None:
    machine = Answerer()
    machine.start(0.0)
    machine.receive(Connect(1, ALICE), 0.0)
    machine.learned(RANDOM_BOB, 0.0)
    assert dial(machine.receive(Sync(1), 1.0)).at == pytest.approx(1.0 + LATE_S)


def test_a_proven_connection_ends_the_punch_on_both_sides() -> None:
    actions = punching_initiator().opened()
    assert sent(actions) == [Result(Outcome.OPENED)]
    assert finish(actions) == Finish(Outcome.OPENED)
    answers = punching_answerer().receive(Result(Outcome.OPENED), 1.0)
    assert answers == (Stop(), Finish(Outcome.OPENED))


@pytest.mark.parametrize(("theirs", "rounds"), [(BOB, MAX_ROUNDS), (RANDOM_BOB, RANDOM_ROUNDS)])
def test_a_round_without_a_connection_is_followed_by_another_one_but_not_for_ever(theirs: Offer, rounds: int) -> None:
    initiator, answerer = Initiator(), Answerer()
    initiator.start(0.0)
    answerer.start(0.0)
    for attempt in range(1, rounds + 1):
        (connect,) = sent(initiator.learned(ALICE, 0.0))
        if attempt == 1:
            answerer.receive(connect, 0.0)
        else:
            assert answerer.receive(connect, 0.0) == (Stop(), Learn(attempt))
        (reply,) = sent(answerer.learned(theirs, 0.0))
        (sync,) = sent(initiator.receive(reply, 0.0))
        assert sync == Sync(attempt)
        answerer.receive(sync, 0.0)
        assert answerer.round_over(3.0) == ()
        actions = initiator.round_over(3.0)
        if attempt < rounds:
            assert actions == (Stop(), Learn(attempt + 1))
    assert finish(actions).outcome is Outcome.FAILED
    assert (
        finish(answerer.receive(sent(actions)[0], 3.0)).reason == f"the peer says: nothing connected in {rounds} rounds"
    )


@pytest.mark.parametrize("machine", [Initiator, Answerer])
def test_a_side_without_a_mapping_gives_up_and_says_so(machine: Callable[[], PunchMachine]) -> None:
    one = machine()
    one.start(0.0)
    actions = one.give_up("no STUN server answered")
    assert sent(actions) == [Result(Outcome.FAILED, "no STUN server answered")]
    assert finish(actions) == Finish(Outcome.FAILED, "no STUN server answered")
    assert (one.state, one.deadline) == (State.DONE, None)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED])
def test_a_refusal_ends_the_punch_at_any_time(outcome: Outcome) -> None:
    for stage in range(3):
        machine = Initiator()
        machine.start(0.0)
        if stage > 0:
            machine.learned(ALICE, 0.0)
        if stage > 1:
            machine.receive(Connect(1, BOB), 0.0)
        assert machine.receive(Result(outcome, "busy"), 0.0) == (Stop(), Finish(outcome, "the peer says: busy"))


@pytest.mark.parametrize("machine", [Initiator, Answerer])
def test_a_silent_peer_is_given_up(machine: Callable[[], PunchMachine]) -> None:
    one = machine()
    one.start(5.0)
    one.learned(ALICE, 6.0)
    assert one.deadline is not None
    assert one.deadline <= 6.0 + ANSWER_TIMEOUT_S
    assert "silent" in finish(one.expire()).reason


@pytest.mark.parametrize("make", [punching_initiator, punching_answerer])
def test_a_punch_ends_however_the_peer_drags_it_out(make: Callable[[], PunchMachine]) -> None:
    machine = make()
    if isinstance(machine, Answerer):
        for attempt, now in ((2, 12.0), (3, 27.0)):
            machine.receive(Connect(attempt, ALICE), now)
            machine.learned(BOB, now)
            machine.receive(Sync(attempt), now)
    assert machine.deadline == PUNCH_LIMIT_S
    assert finish(machine.expire()) == Finish(Outcome.FAILED, "not done within 40 s")


def test_a_lost_stream_ends_the_punch_but_for_the_dials_that_are_out() -> None:
    waiting = Initiator()
    waiting.start(0.0)
    assert finish(waiting.ended("lost")) == Finish(Outcome.FAILED, "lost")
    dialling = punching_initiator()
    assert dialling.ended("lost") == ()
    assert finish(dialling.round_over(2.0)).outcome is Outcome.FAILED
    assert finish(punching_answerer().ended("lost")).outcome is Outcome.FAILED


OUT_OF_ORDER_INITIATOR = [
    pytest.param(0, Connect(1, BOB), id="connect-before-ours"),
    pytest.param(0, Sync(1), id="sync"),
    pytest.param(1, Sync(1), id="sync-instead-of-connect"),
    pytest.param(1, Connect(2, BOB), id="connect-of-another-round"),
    pytest.param(1, Result(Outcome.OPENED), id="opened-by-the-answerer"),
    pytest.param(2, Connect(1, BOB), id="connect-again"),
]


@pytest.mark.parametrize(("stage", "message"), OUT_OF_ORDER_INITIATOR)
def test_the_initiator_refuses_messages_out_of_order(stage: int, message: PunchMessage) -> None:
    machine = Initiator()
    machine.start(0.0)
    if stage > 0:
        machine.learned(ALICE, 0.0)
    if stage > 1:
        machine.receive(Connect(1, BOB), 0.0)
    with pytest.raises(RemoteProtocolError, match=f"in state {machine.state.name} of round 1"):
        machine.receive(message, 0.0)


OUT_OF_ORDER_ANSWERER = [
    pytest.param(0, Sync(1), id="sync-before-connect"),
    pytest.param(0, Connect(2, ALICE), id="second-round-first"),
    pytest.param(0, Result(Outcome.OPENED), id="opened-before-anything"),
    pytest.param(1, Connect(1, ALICE), id="connect-twice"),
    pytest.param(1, Sync(1), id="sync-before-our-connect"),
    pytest.param(2, Connect(2, ALICE), id="next-round-instead-of-sync"),
    pytest.param(2, Sync(2), id="sync-of-another-round"),
    pytest.param(3, Sync(1), id="sync-again"),
    pytest.param(3, Connect(1, ALICE), id="the-same-round-again"),
    pytest.param(3, Connect(3, ALICE), id="a-round-left-out"),
]


@pytest.mark.parametrize(("stage", "message"), OUT_OF_ORDER_ANSWERER)
def test_the_answerer_refuses_messages_out_of_order(stage: int, message: PunchMessage) -> None:
    machine = Answerer()
    machine.start(0.0)
    if stage > 0:
        machine.receive(Connect(1, ALICE), 0.0)
    if stage > 1:
        machine.learned(BOB, 0.0)
    if stage > 2:
        machine.receive(Sync(1), 0.0)
    with pytest.raises(RemoteProtocolError, match=f"in state {machine.state.name} of round 1"):
        machine.receive(message, 0.0)


said = st.one_of(
    st.builds(Connect, st.integers(1, 3), st.sampled_from([ALICE, RANDOM_BOB]), st.floats(0, 5000)),
    st.builds(Sync, st.integers(1, 3)),
    st.builds(Result, st.sampled_from(Outcome), st.just("")),
)


@given(st.sampled_from([Initiator, Answerer]), st.lists(said, max_size=12))
def test_whatever_a_peer_says_there_are_three_rounds_and_then_an_end(
    make: Callable[[], PunchMachine], messages: Sequence[PunchMessage]
) -> None:
    """Our side answers at once; the peer breaks the protocol, ends the punch, or keeps to the limits."""
    machine = make()
    todo = list(machine.start(0.0))
    learned, dials, finished = 0, 0, False
    for message in [None, *messages]:
        try:
            todo += machine.receive(message, 0.0) if message else ()
        except RemoteProtocolError:
            break
        while todo:
            match todo.pop(0):
                case Learn():
                    learned += 1
                    todo += machine.learned(BOB, 0.0)
                case Dial(plan, at, until):
                    dials += 1
                    assert 0 <= at < until
                    assert len(plan.targets) <= 8
                    todo += machine.round_over(0.0)
                case Finish():
                    finished = True
        if finished:
            break
        assert machine.deadline is not None
    assert dials <= learned <= MAX_ROUNDS
