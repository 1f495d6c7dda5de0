"""A call that was lost on its way."""

from __future__ import annotations

from lattica.errors import LatticaError, OutcomeUnknownError


class LostCallError(Exception):
    """A call was lost on its way; who made it decides what that means.

    Attributes:
        cause: What the network said.
        was_sent: Whether the peer may have got it.
    """

    def __init__(self, cause: LatticaError, *, was_sent: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.was_sent = was_sent

    def outcome(self, method: str, *, once: bool) -> LatticaError:
        """The error for the caller."""
        return OutcomeUnknownError(method, str(self.cause)) if once and self.was_sent else self.cause
