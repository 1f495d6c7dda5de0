"""The messages of a batched session: many small calls in one gRPC message, and many answers.

MessagePack arrays, by `msgspec`: protobuf's Python objects cost several times as much at 50,000 calls a second.
Arguments and results are MessagePack too (`lattica.rpc.codec`) and travel inside as they are.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec

from lattica.errors import RemoteProtocolError

MAX_BATCH_CALLS = 512
"""Calls in one message."""
MAX_BATCH_BYTES = 256 * 1024
"""Bytes of arguments or results after which a message takes no more."""
MAX_SMALL = 64 * 1024
"""Bytes of arguments or of a result that may travel in a batch; larger ones would hold up the calls behind them."""
MAX_MESSAGE = MAX_BATCH_BYTES + MAX_SMALL + MAX_BATCH_CALLS * 1024
"""Bytes of a message accepted at most: what the other limits allow, with 1 KiB around each call."""
UTF8_BYTES = 4
"""Bytes that a character may take."""
MAX_METHOD = 256
"""Characters of a method's name."""
MAX_DETAIL = 16 * 1024
"""Characters of an error's text or traceback."""
UTF8_BYTES = 4
"""Bytes that a character may take."""
MAX_TIMEOUT_S = 10**9
"""Seconds that a call may have at most: 31 years, which every clock and timer on the way can tell."""

ONCE = 1
"""Flag of a call that must not run twice: its result is kept until the caller has it."""
TRACEBACK = 2
"""Flag of a call whose caller wants to see where the method raised."""

AGAIN = 8
"""Flag of a call that was sent before and may have come: the server remembers its number even when its answer is
acknowledged, for the first message may come late. (4 is `lattica.rpc.own_wire.FETCH`.)"""

SESSION_METHOD = "/lattica.v1.Rpc/Session"
CALL_METHOD = "/lattica.v1.Rpc/Call"
UNARY_METHOD = "/lattica.v1.Rpc/Unary"

INSTANCE_KEY = "lattica-instance-bin"
"""Metadata of both sides: 16 random bytes, drawn by a caller for its lifetime, and by a server for its memory of that
caller's calls; other bytes mean that it has forgotten what it knew."""
KNOWN_KEY = "lattica-known"
"""Metadata of the server: ``1`` if it remembers the caller's instance."""

CallId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Call(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One call.

    Attributes:
        id: Number of the call, from 0; never used again by the same instance of a caller.
        method: ``service/method``.
        timeout_ms: Milliseconds that the call has left; 0 for no deadline.
        flags: `ONCE`, `TRACEBACK`.
        args: The encoded arguments.
        context: The caller's tracing headers, if any.
    """

    id: CallId
    method: Annotated[str, msgspec.Meta(max_length=MAX_METHOD)]
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMEOUT_S * 1000)]
    flags: int
    args: msgspec.Raw
    context: dict[str, str] | None = None


class Failure(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A call that did not succeed.

    Attributes:
        id: The call.
        code: One of `FailureCode`.
        kind: For `RAISED`, the exception's class.
        message: What to tell.
        traceback: For `RAISED`, if asked for.
    """

    id: CallId
    code: int
    kind: Annotated[str, msgspec.Meta(max_length=MAX_METHOD)]
    message: Annotated[str, msgspec.Meta(max_length=MAX_DETAIL)]
    traceback: Annotated[str, msgspec.Meta(max_length=MAX_DETAIL)] = ""


RAISED = 1
"""The method raised."""
BUSY = 2
"""A limit was reached; the call was not begun, unless the failure's kind is `BEGUN`."""
BEGUN = "begun"
"""The method had begun when an item of its stream of requests found no room."""
NO_METHOD = 3
"""There is no such method."""
EXPIRED = 4
"""The deadline came first."""
BAD_CALL = 5
"""The arguments do not fit the method; it was not begun."""
FORGOTTEN = 6
"""The call ran, but its result is not kept any more."""
BAD_RESULT = 7
"""The method ran, but what it returned cannot travel."""
OTHER_MEMORY = 8
"""The call is for a memory that the server does not have: it was started anew, or has forgotten the caller. It was not
begun by this message."""


class Result(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A call that succeeded, and its encoded result."""

    id: CallId
    value: msgspec.Raw


class Requests(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a caller sends.

    Attributes:
        calls: To run, in any order.
        cancelled: Calls whose callers have gone.
        received: Calls with `ONCE` whose answers have come: they can be forgotten.
    """

    calls: Annotated[list[Call], msgspec.Meta(max_length=MAX_BATCH_CALLS)]
    cancelled: Annotated[list[CallId], msgspec.Meta(max_length=MAX_BATCH_CALLS * 16)]
    received: Annotated[list[CallId], msgspec.Meta(max_length=MAX_BATCH_CALLS * 16)]


class Responses(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a server sends.

    Attributes:
        results: Calls that succeeded.
        failures: Calls that did not.
        large: Calls that succeeded, whose results are too large: to be fetched by a call of their own.
        load: Calls under way at the server, of all callers.
    """

    results: Annotated[list[Result], msgspec.Meta(max_length=MAX_BATCH_CALLS)]
    failures: Annotated[list[Failure], msgspec.Meta(max_length=MAX_BATCH_CALLS)]
    large: Annotated[list[CallId], msgspec.Meta(max_length=MAX_BATCH_CALLS)]
    load: CallId


EncodedCall: TypeAlias = tuple[int, str, int, int, msgspec.Raw, dict[str, str] | None]
"""A `Call` for the encoder, to which a tuple is the same and costs less to make."""
EncodedResult: TypeAlias = tuple[int, msgspec.Raw]
"""The same for a `Result`."""

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Requests)
_responses = msgspec.msgpack.Decoder(Responses)

M = TypeVar("M", Requests, Responses)


def encode_requests(calls: list[EncodedCall], cancelled: list[int], received: list[int]) -> bytes:
    """A caller's message."""
    return _encoder.encode((calls, cancelled, received))


def encode_responses(results: list[EncodedResult], failures: list[Failure], large: list[int], load: int) -> bytes:
    """A server's message."""
    return _encoder.encode((results, failures, large, load))


def decode_requests(message: bytes) -> Requests:
    """A caller's message; `RemoteProtocolError` if it is malformed."""
    return _decode(_requests, message)


def decode_responses(message: bytes) -> Responses:
    """A server's message; `RemoteProtocolError` if it is malformed."""
    return _decode(_responses, message)


def _decode(decoder: msgspec.msgpack.Decoder[M], message: bytes) -> M:
    if len(message) > MAX_MESSAGE:
        raise RemoteProtocolError(f"batch of {len(message)} bytes, {MAX_MESSAGE} allowed")
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed batch of calls: {error}") from error
