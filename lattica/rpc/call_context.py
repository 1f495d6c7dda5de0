"""What a handler may ask about the call that it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar

from lattica.identity import PeerId


class CurrentCall:
    """The call that the running handler answers.

    Attributes:
        peer: Who calls, as its certificate proves.
        method: ``service/method``.
        deadline: When the caller stops waiting, in seconds of `time.monotonic`; ``None`` if it does not.
        context: The caller's tracing headers.
    """

    __slots__ = ("context", "deadline", "method", "peer")

    def __init__(
        self, peer: PeerId, method: str, deadline: float | None, context: Mapping[str, str] | None = None
    ) -> None:
        self.peer = peer
        self.method = method
        self.deadline = deadline
        self.context = context or {}

    def time_remaining(self) -> float | None:
        """Seconds until the caller stops waiting, at least 0; ``None`` without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


running_call: ContextVar[CurrentCall | None] = ContextVar("lattica_running_call", default=None)
"""Set in each handler's own context; threads of ordinary functions have a copy of it."""


def current_call() -> CurrentCall:
    """The call that the running handler answers.

    Raises:
        RuntimeError: No call is being answered here.
    """
    call = running_call.get()
    if call is None:
        raise RuntimeError("current_call() works only while a method of a served service runs")
    return call
