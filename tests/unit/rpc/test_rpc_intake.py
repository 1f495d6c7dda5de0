"""How many bytes of large arguments a node takes in, of all peers and of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.identity import IdentityKey
from lattica.rpc.intake import Intake, IntakeFullError, default_limit

ALICE, BOB = IdentityKey.generate().peer_id, IdentityKey.generate().peer_id
LIMIT = 1000


def test_one_peer_leaves_a_quarter_to_the_others() -> None:
    intake = Intake(LIMIT)
    alice, bob = intake.claim(ALICE), intake.claim(BOB)
    with pytest.raises(IntakeFullError, match="751 bytes of your arguments at one time, 750 allowed"):
        alice.take(751)
    alice.take(750)
    with pytest.raises(IntakeFullError, match="your"):
        intake.claim(ALICE).take(1)
    bob.take(250)
    with pytest.raises(IntakeFullError, match="no room"):
        bob.take(1)


def test_what_is_released_is_free_for_others_once() -> None:
    intake = Intake(LIMIT)
    first, second = intake.claim(ALICE), intake.claim(ALICE)
    first.take(300)
    second.take(300)
    first.release()
    first.release()
    assert (intake.taken, intake.of_peer(ALICE)) == (300, 300)


def test_a_claim_that_is_handed_over_is_the_new_owners() -> None:
    intake = Intake(LIMIT)
    first = intake.claim(ALICE)
    first.take(300)
    second = first.handed_over()
    first.release()
    assert intake.taken == 300
    second.release()
    assert intake.taken == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 600), st.booleans())))
def test_it_is_never_over_its_limits_and_ends_empty(steps: list[tuple[int, int, bool]]) -> None:
    intake = Intake(LIMIT)
    claims = [intake.claim(peer) for peer in (ALICE, ALICE, BOB, BOB)]
    held = [0] * 4
    for which, size, releases in steps:
        if releases:
            claims[which].release()
            held[which] = 0
            continue
        try:
            claims[which].take(size)
            held[which] += size
        except IntakeFullError:
            of_peer = sum(held[:2] if which < 2 else held[2:])
            assert of_peer + size > intake.peer_limit or sum(held) + size > LIMIT
        assert intake.taken == sum(held) <= LIMIT
        assert intake.of_peer(ALICE) == held[0] + held[1] <= intake.peer_limit
    for claim in claims:
        claim.release()
    assert (intake.taken, intake.of_peer(ALICE), intake.of_peer(BOB)) == (0, 0, 0)


def test_a_machine_that_can_hold_a_tensor_of_a_gibibyte_takes_one() -> None:
    assert Intake(2 << 30).peer_limit > 1 << 30
    assert 0 < default_limit() < 1 << 50
