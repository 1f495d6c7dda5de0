"""What the end of a call tells of a replica, and whether another one may have it."""

from __future__ import annotations

import asyncio

import pytest

from lattica.errors import (
    CodecError,
    DeadlineExceededError,
    DecodeError,
    NoSuchMethodError,
    OutcomeUnknownError,
    PeerUnreachableError,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    ServerBusyError,
    UnsendableResultError,
)
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.replica_journey import may_go_elsewhere, outcome_of
from lattica.rpc.replicas import Outcome

LOST = RpcError("lost")
ALWAYS, IF_IDEMPOTENT, NEVER = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("error", "outcome", "elsewhere"),
    [
        (ServerBusyError("m", "full"), Outcome.REFUSED, ALWAYS),
        (ServerBusyError("m", "full", has_begun=True), Outcome.REFUSED, IF_IDEMPOTENT),
        (NoSuchMethodError("m"), Outcome.FAILED, ALWAYS),
        (PeerUnreachableError("p", {}), Outcome.FAILED, ALWAYS),
        (LostCallError(LOST, was_sent=False), Outcome.FAILED, ALWAYS),
        (LostCallError(LOST, was_sent=True), Outcome.FAILED, IF_IDEMPOTENT),
        (OutcomeUnknownError("m", "lost"), Outcome.FAILED, IF_IDEMPOTENT),
        (RpcError("an older Lattica"), Outcome.FAILED, IF_IDEMPOTENT),
        (RemoteProtocolError("nonsense"), Outcome.FAILED, NEVER),
        (RemoteError("m", "ValueError", "no"), Outcome.ERROR, NEVER),
        (DecodeError("an argument", "no"), Outcome.ERROR, NEVER),
        (UnsendableResultError("no"), Outcome.ERROR, NEVER),
        (CodecError("an item", "no"), Outcome.ABANDONED, NEVER),
        (DeadlineExceededError("m"), Outcome.ABANDONED, NEVER),
        (ValueError("of the caller's own stream"), Outcome.ABANDONED, NEVER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error(error: Exception, outcome: Outcome, elsewhere: tuple[bool, bool]) -> None:
    assert outcome_of(error) is outcome
    assert (may_go_elsewhere(error, idempotent=True), may_go_elsewhere(error, idempotent=False)) == elsewhere


def test_a_cancelled_call_tells_nothing() -> None:
    assert outcome_of(asyncio.CancelledError()) is Outcome.ABANDONED
    assert outcome_of(GeneratorExit()) is Outcome.ABANDONED
