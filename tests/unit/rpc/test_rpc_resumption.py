"""How long a call that was lost is tried again."""

from __future__ import annotations

from lattica.rpc.batch_client import RESUME_PAUSE_MAX_S, RESUME_PAUSE_MIN_S, RESUME_S
from lattica.rpc.own_unary import Resumption


def lost_at_once(resumption: Resumption, now: float) -> float | None:
    return resumption.lost(began=now, now=now)


def test_pauses_double_up_to_a_bound() -> None:
    resumption = Resumption()
    pauses = [lost_at_once(resumption, 0.0) for _ in range(8)]
    assert pauses[:3] == [RESUME_PAUSE_MIN_S, 2 * RESUME_PAUSE_MIN_S, 4 * RESUME_PAUSE_MIN_S]
    assert pauses[-1] == RESUME_PAUSE_MAX_S


def test_it_is_given_up_some_time_after_the_first_loss() -> None:
    resumption = Resumption()
    assert lost_at_once(resumption, 5.0) is not None
    assert lost_at_once(resumption, 5.0 + RESUME_S) is not None
    assert lost_at_once(resumption, 5.1 + RESUME_S) is None


def test_the_loss_of_an_attempt_that_was_under_way_is_a_new_one() -> None:
    resumption = Resumption()
    lost_at_once(resumption, 0.0)
    lost_at_once(resumption, 1.0)
    assert resumption.lost(began=2.0, now=2.1 + RESUME_S) == RESUME_PAUSE_MIN_S
    assert lost_at_once(resumption, 2.0 + 2 * RESUME_S) is not None
