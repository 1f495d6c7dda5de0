"""When a call that failed is made again."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.errors import LatticaError, PeerUnreachableError, ServerBusyError
from lattica.rpc.lost_call import LostCallError

BASE_PAUSE_S = 0.05
"""Seconds before the second attempt, at most: the pause is drawn between 0 and this."""
MAX_PAUSE_S = 2.0
"""Seconds that the bound of the pause, which doubles with each attempt, grows to."""
ATTEMPTS = 4
"""Attempts of one call, unless its caller says otherwise."""

_MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        attempts: Attempts in all; 1 for no retries.
    """

    attempts: int = ATTEMPTS

    def pause(
        self, failed: int, error: Exception, *, idempotent: bool, remaining: float | None, draw: float
    ) -> float | None:
        """Seconds to wait before another attempt, or ``None``: the error is final.

        A call that was not begun may be made again, whatever it does; one that may have been, only if it is idempotent.

        Args:
            failed: Attempts so far.
            error: How the last one failed.
            idempotent: Whether running the method twice does no harm.
            remaining: Seconds to the caller's deadline; ``None`` without one.
            draw: A random number from 0 to 1.
        """
        if failed >= self.attempts or not is_worth_retrying(error, idempotent=idempotent):
            return None
        pause = backoff(failed, draw)
        return pause if remaining is None or pause < remaining else None


def backoff(failed: int, draw: float) -> float:
    """Seconds to wait after so many failed attempts; ``draw`` is a random number from 0 to 1."""
    return draw * min(MAX_PAUSE_S, BASE_PAUSE_S * 2.0 ** min(failed - 1, _MAX_DOUBLINGS))


def is_worth_retrying(error: Exception, *, idempotent: bool) -> bool:
    """Whether another attempt may succeed, and can do no harm."""
    if isinstance(error, ServerBusyError):
        return idempotent or not error.has_begun
    if isinstance(error, LostCallError):
        return idempotent or not error.was_sent
    # A search for the peer has just failed, with retries of its own: only what may run twice is worth another.
    return isinstance(error, PeerUnreachableError) and idempotent


def final(error: Exception, method: str, *, once: bool) -> LatticaError | Exception:
    """The error that the caller sees."""
    return error.outcome(method, once=once) if isinstance(error, LostCallError) else error
