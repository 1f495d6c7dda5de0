"""Counts the calls of plain Python services that have a gRPC call of their own; those of batches count themselves."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from lattica.rpc.batch_wire import Failure
from lattica.rpc.codec import Encoded
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.outcomes import OK, outcome_of_error, outcome_of_failure, outcome_of_served
from lattica.rpc.session import Kind

BATCHED = "batched"
"""The kind of calls that travel in batches; the others are gRPC's four."""


class Streams(Protocol):
    """What a method streams: `lattica.rpc.service.MethodSpec`."""

    streams_requests: str | None
    streams_results: bool


class Channel(Protocol):
    """What a call at the client goes through: `lattica.rpc.channel.PeerChannel`."""

    metrics: RpcMetrics

    @property
    def path_kind(self) -> str:
        """The kind of the path that calls take; empty without one."""


def kind_of_method(spec: Streams) -> Kind:
    """Which of gRPC's four kinds of call a method is."""
    if spec.streams_requests is None:
        return "unary_stream" if spec.streams_results else "unary_unary"
    return "stream_stream" if spec.streams_results else "stream_unary"


def value_size(value: bytes | Encoded) -> int:
    """Bytes of an encoded value."""
    return len(value) if isinstance(value, bytes) else value.size


class ClientCall:
    """Counts what its block does as one call at the client.

    Args:
        channel: Where it goes.
        kind: Its kind.
        timed: Whether the block is all of the call, so that its seconds count.
    """

    __slots__ = ("_channel", "_kind", "_outcome", "_path", "_started", "_timed")

    def __init__(self, channel: Channel, kind: str, *, timed: bool = True) -> None:
        self._channel = channel
        self._kind = kind
        self._timed = timed
        self._outcome = OK
        self._path = channel.path_kind
        self._started = time.monotonic()

    def sent(self, value: bytes | Encoded) -> None:
        """These are its only arguments."""
        self._channel.metrics.bytes("client", "sent", value_size(value))

    def answered(self, answer: Encoded | Failure) -> None:
        """That is its only answer."""
        if isinstance(answer, Failure):
            self._outcome = outcome_of_failure(answer.code)
        else:
            self._channel.metrics.bytes("client", "received", answer.size)

    def __enter__(self) -> ClientCall:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        outcome = self._outcome if error is None or self._outcome is not OK else outcome_of_error(error)
        path, metrics = self._path or self._channel.path_kind, self._channel.metrics
        if self._timed:
            metrics.ended("client", self._kind, outcome, path, self._started)
        else:
            metrics.calls("client", self._kind, outcome, path)


class ServerCall:
    """Counts what its block does as one call at the server.

    Args:
        metrics: Where.
        kind: Its kind.
        deadline: When its caller stops waiting, in seconds of `time.monotonic`; ``None`` if it does not.

    Attributes:
        outcome: How it has ended; empty while it has not.
    """

    __slots__ = ("_deadline", "_kind", "_metrics", "_started", "outcome")

    def __init__(self, metrics: RpcMetrics, kind: Kind, deadline: float | None) -> None:
        self._metrics = metrics
        self._kind = kind
        self._deadline = deadline
        self._started = time.monotonic()
        self.outcome = ""

    def received(self, args: Encoded) -> None:
        """These are its only arguments."""
        self._metrics.bytes("server", "received", args.size)

    def answered(self, answer: bytes | Encoded | Failure) -> None:
        """The call has ended so; what the block does further is only to tell the caller."""
        self._end(outcome_of_failure(answer.code) if isinstance(answer, Failure) else OK)

    def _end(self, outcome: str) -> None:
        if not self.outcome:
            self.outcome = outcome
            self._metrics.ended("server", self._kind, outcome, "", self._started)

    def __enter__(self) -> ServerCall:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._end(OK if error is None else outcome_of_served(error, self._deadline))
