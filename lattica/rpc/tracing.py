"""What spans of calls of plain Python services need: `lattica.rpc.otel` has it, if OpenTelemetry is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

import grpc

from lattica.errors import RemoteError
from lattica.identity import PeerId
from lattica.rpc.batch_wire import Failure
from lattica.rpc.call_context import running_call
from lattica.rpc.codec import Encoded
from lattica.rpc.outcomes import FAILED, OK, outcome_of_error, outcome_of_failure, outcome_of_served


class CallSpan(Protocol):
    """The span of one call."""

    def current(self) -> AbstractContextManager[None]:
        """A block in which it is the current span."""

    def end(self, outcome: str, error_type: str = "") -> None:
        """The call has ended.

        Args:
            outcome: A word of `lattica.rpc.outcomes`.
            error_type: The class of the exception that the method has raised.
        """


class CallTracing(Protocol):
    """Makes spans: `lattica.rpc.otel.Tracing`.

    Attributes:
        server: Makes those of generated services.
    """

    server: grpc.aio.ServerInterceptor

    def called(self, peer: PeerId, method: str) -> CallSpan:
        """The span of a call that we make, a child of the current one."""

    def served(self, peer: PeerId, method: str, context: Mapping[str, str]) -> CallSpan:
        """The span of a call that a peer makes, a child of its own in the ``context`` that it has sent."""


@contextlib.contextmanager
def ended_by_block(span: CallSpan) -> Iterator[None]:
    """End the span of a call that we make with the block, which raises what the call has come to."""
    try:
        yield
    except BaseException as error:
        span.end(outcome_of_error(error), error.kind if isinstance(error, RemoteError) else "")
        raise
    span.end(OK)


class ServedSpan:
    """The span of the call that the running handler answers: current in the block, ended with it.

    Args:
        tracing: Makes it; ``None`` for no span.
    """

    def __init__(self, tracing: CallTracing | None) -> None:
        call = running_call.get()
        self._deadline = None if call is None else call.deadline
        self._outcome, self._error_type = OK, ""
        self._block = contextlib.ExitStack()
        self._span: CallSpan | None = None
        if tracing is not None and call is not None:
            self._span = tracing.served(call.peer, call.method, call.context)

    def answered(self, answer: bytes | Encoded | Failure) -> None:
        """The handler has come to this; what the block does further is only to tell the caller."""
        if isinstance(answer, Failure):
            self._outcome, self._error_type = outcome_of_failure(answer.code), answer.kind

    def __enter__(self) -> ServedSpan:
        if self._span is not None:
            self._block.enter_context(self._span.current())
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._block.close()
        if self._span is None:
            return
        if error is not None and self._outcome is OK:
            self._outcome = outcome_of_served(error, self._deadline)
        self._span.end(self._outcome, self._error_type if self._outcome is FAILED else "")
