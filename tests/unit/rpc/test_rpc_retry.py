"""When a call that failed is made again, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import (
    CodecError,
    DeadlineExceededError,
    NoSuchMethodError,
    OutcomeUnknownError,
    PeerUnreachableError,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    ServerBusyError,
)
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.retry import ATTEMPTS, BASE_PAUSE_S, MAX_PAUSE_S, RetryPolicy, final

CAUSE = RpcError("the connection was lost")
BUSY = ServerBusyError("s/m", "full")
BROKEN_OFF = ServerBusyError("s/m", "full", has_begun=True)
UNREACHABLE = PeerUnreachableError("peer", {})
LOST_AFTER = LostCallError(CAUSE, was_sent=True)
LOST_BEFORE = LostCallError(CAUSE, was_sent=False)
FINAL = [
    CodecError("argument x", "no form"),
    DeadlineExceededError("s/m"),
    NoSuchMethodError("s/m"),
    OutcomeUnknownError("s/m", "lost"),
    RemoteError("s/m", "ValueError", "no"),
    RemoteProtocolError("nonsense"),
    RpcError("something"),
    ValueError("not ours"),
]

attempts = st.integers(1, 10_000)
draws = st.floats(0, 1)


def pause(
    error: Exception, *, failed: int = 1, idempotent: bool = True, remaining: float | None = None, draw: float = 1.0
) -> float | None:
    return RetryPolicy().pause(failed, error, idempotent=idempotent, remaining=remaining, draw=draw)


@pytest.mark.parametrize(
    ("error", "idempotent", "again"),
    [
        pytest.param(BUSY, True, True, id="not begun"),
        pytest.param(BUSY, False, True, id="not begun, once"),
        pytest.param(BROKEN_OFF, True, True, id="broken off"),
        pytest.param(BROKEN_OFF, False, False, id="broken off, once"),
        pytest.param(LOST_BEFORE, True, True, id="not sent"),
        pytest.param(LOST_BEFORE, False, True, id="not sent, once"),
        pytest.param(LOST_AFTER, True, True, id="perhaps run"),
        pytest.param(LOST_AFTER, False, False, id="perhaps run, once"),
        pytest.param(UNREACHABLE, True, True, id="unreachable"),
        pytest.param(UNREACHABLE, False, False, id="unreachable, once"),
    ],
)
def test_what_may_have_run_is_made_again_only_if_that_does_no_harm(
    error: Exception, idempotent: bool, again: bool
) -> None:
    assert (pause(error, idempotent=idempotent) is not None) == again


@pytest.mark.parametrize("error", FINAL)
def test_an_answer_is_final_even_if_it_is_an_error(error: Exception) -> None:
    assert pause(error) is None


@given(attempts, attempts, draws)
def test_there_are_never_more_attempts_than_were_asked_for(allowed: int, failed: int, draw: float) -> None:
    policy = RetryPolicy(allowed)
    again = policy.pause(failed, BUSY, idempotent=True, remaining=None, draw=draw)
    assert (again is not None) == (failed < allowed)


def test_one_attempt_means_no_other_and_the_default_is_a_few() -> None:
    assert RetryPolicy(1).pause(1, BUSY, idempotent=True, remaining=None, draw=0.0) is None
    made = sum(pause(BUSY, failed=failed) is not None for failed in range(1, 100))
    assert made == ATTEMPTS - 1


@given(st.integers(1, 100_000), draws)
def test_a_pause_is_drawn_between_nothing_and_a_bound_that_doubles_up_to_a_limit(failed: int, draw: float) -> None:
    policy = RetryPolicy(failed + 1)

    def drawn(part: float) -> float:
        chosen = policy.pause(failed, BUSY, idempotent=True, remaining=None, draw=part)
        assert chosen is not None
        return chosen

    bound = MAX_PAUSE_S if failed > 30 else min(MAX_PAUSE_S, BASE_PAUSE_S * 2 ** (failed - 1))
    assert drawn(0.0) == 0.0
    assert drawn(1.0) == bound
    assert drawn(draw) == draw * bound


@given(st.integers(1, ATTEMPTS - 1), draws, st.floats(0, 5))
def test_no_attempt_is_made_that_the_deadline_would_forestall(failed: int, draw: float, remaining: float) -> None:
    free = pause(BUSY, failed=failed, draw=draw)
    assert free is not None
    assert pause(BUSY, failed=failed, draw=draw, remaining=remaining) == (free if free < remaining else None)


@pytest.mark.parametrize("once", [True, False])
def test_the_caller_sees_what_a_lost_call_means_for_it(once: bool) -> None:
    assert final(LOST_BEFORE, "s/m", once=once) is CAUSE
    after = final(LOST_AFTER, "s/m", once=once)
    if once:
        assert isinstance(after, OutcomeUnknownError)
        assert (after.method, after.reason) == ("s/m", str(CAUSE))
    else:
        assert after is CAUSE


@pytest.mark.parametrize("error", [*FINAL, BUSY, UNREACHABLE])
def test_any_other_error_is_seen_as_it_is(error: Exception) -> None:
    assert final(error, "s/m", once=True) is error
