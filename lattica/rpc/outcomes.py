"""How a call of a plain Python service ended, in the words of metrics and spans.

They are gRPC's statuses where those mean the same, ``unreachable``, and ``failed`` for a method that raised.
"""

from __future__ import annotations

import asyncio
import time

from lattica.errors import (
    DeadlineExceededError,
    DecodeError,
    LatticaError,
    NoReplicaError,
    NoSuchMethodError,
    OutcomeUnknownError,
    PeerUnreachableError,
    RemoteError,
    ServerBusyError,
)
from lattica.rpc import batch_wire as wire
from lattica.rpc.lost_call import LostCallError

OK = "ok"
FAILED = "failed"
CANCELLED = "cancelled"
EXPIRED = "deadline_exceeded"
UNREACHABLE = "unreachable"
NO_REPLICA = "no_replica"
"""A call by name found nobody to go to."""
UNIMPLEMENTED = "unimplemented"
LOST = "unavailable"
"""The connection broke, and whether the call was executed may be unknown."""
INTERNAL = "internal"
"""The result cannot travel, or a side broke the protocol."""

_OF_CODE = {
    wire.RAISED: FAILED,
    wire.BUSY: "resource_exhausted",
    wire.NO_METHOD: UNIMPLEMENTED,
    wire.EXPIRED: EXPIRED,
    wire.BAD_CALL: "invalid_argument",
    wire.FORGOTTEN: LOST,
    wire.OTHER_MEMORY: LOST,
    wire.BAD_RESULT: INTERNAL,
}

_OF_ERROR: tuple[tuple[type[BaseException], str], ...] = (
    (RemoteError, FAILED),
    (DeadlineExceededError, EXPIRED),
    (PeerUnreachableError, UNREACHABLE),
    (NoReplicaError, NO_REPLICA),
    (OutcomeUnknownError, LOST),
    (ServerBusyError, "resource_exhausted"),
    (NoSuchMethodError, UNIMPLEMENTED),
    (DecodeError, "invalid_argument"),
    (LatticaError, INTERNAL),
)
"""At the caller; the first that fits."""


def outcome_of_failure(code: int) -> str:
    """What a failure's code says."""
    return _OF_CODE.get(code, "unknown")


def outcome_of_error(error: BaseException) -> str:
    """What the caller's error says; an error that is none of ours is the caller's own, which has ended the call."""
    if isinstance(error, LostCallError):
        return LOST if error.was_sent else outcome_of_error(error.cause)
    return next((word for kind, word in _OF_ERROR if isinstance(error, kind)), CANCELLED)


def outcome_of_served(error: BaseException, deadline: float | None) -> str:
    """How a call whose handler did not get to its end has ended at the server.

    Args:
        error: What ended it.
        deadline: When its caller stopped waiting, in seconds of `time.monotonic`; ``None`` if it did not.
    """
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return outcome_of_cancelled(deadline, time.monotonic())
    return "invalid_argument"  # the caller broke the protocol: all else is an answer


def outcome_of_cancelled(deadline: float | None, now: float) -> str:
    """How a call was ended whose caller has gone: callers go at their deadline, too."""
    return EXPIRED if deadline is not None and deadline <= now else CANCELLED
