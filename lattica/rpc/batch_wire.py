"""The messages of a batched session: many calls in one gRPC message, and many answers.

MessagePack arrays, by `msgspec`: protobuf's Python objects cost several times as much at 50,000 calls a second.
Arguments and results are MessagePack too (`lattica.rpc.codec`) and travel inside as they are; their buffers (arrays,
large bytes) follow the arrays, in the same order. Before all of it come four bytes: how long the arrays are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from lattica.errors import RemoteProtocolError
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.codec.limits import MAX_BUFFERS

MAX_BATCH_CALLS = 512
"""Calls in one message."""
MAX_SMALL = 64 * 1024
"""Bytes of arguments or of a result that are small: they never wait behind larger ones."""
MAX_BULK = 2 << 20
"""Bytes of arguments or of a result that may travel in a batch at all."""
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

CALL_METHOD = "/lattica.v1.Rpc/Call"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKind:
    """One of two sorts of session, which have streams, memories and numbers of their own.

    Attributes:
        method: The gRPC method.
        max_value: Bytes of arguments or of a result that it carries.
        max_batch: Bytes of these after which a message takes no more.
    """

    method: str
    max_value: int
    max_batch: int

    @property
    def max_message(self) -> int:
        """Bytes of a message accepted at most: what the other limits allow, with 1 KiB around each call."""
        return self.max_batch + self.max_value + MAX_BATCH_CALLS * 1024


SMALL = SessionKind(method="/lattica.v1.Rpc/Session", max_value=MAX_SMALL, max_batch=256 * 1024)
"""For calls with small arguments."""
BULK = SessionKind(method="/lattica.v1.Rpc/Bulk", max_value=MAX_BULK, max_batch=1 << 20)
"""For those with larger ones. What a message costs both ends is half of what a gRPC call of its own does, and a few
calls share one."""

INSTANCE_KEY = "lattica-instance-bin"
"""Metadata of both sides: 16 random bytes, drawn by a caller for its lifetime, and by a server for its memory of that
caller's calls; other bytes mean that it has forgotten what it knew."""
KNOWN_KEY = "lattica-known"
"""Metadata of the server: ``1`` if it remembers the caller's instance."""

CallId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Sizes: TypeAlias = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_BULK)], ...], msgspec.Meta(max_length=MAX_BUFFERS)
]
"""Bytes of each buffer that belongs to a value."""


class Call(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One call.

    Attributes:
        id: Number of the call, from 0; never used again by the same instance of a caller.
        method: ``service/method``.
        timeout_ms: Milliseconds that the call has left; 0 for no deadline.
        flags: `ONCE`, `TRACEBACK`.
        args: The encoded arguments.
        context: The caller's tracing headers, if any.
        sizes: Of the arguments' buffers.
    """

    id: CallId
    method: Annotated[str, msgspec.Meta(max_length=MAX_METHOD)]
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMEOUT_S * 1000)]
    flags: int
    args: msgspec.Raw
    context: dict[str, str] | None = None
    sizes: Sizes = ()


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
    """A call that succeeded, its encoded result, and the sizes of that one's buffers."""

    id: CallId
    value: msgspec.Raw
    sizes: Sizes = ()


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


EncodedCall: TypeAlias = (
    tuple[int, str, int, int, msgspec.Raw, dict[str, str] | None]
    | tuple[int, str, int, int, msgspec.Raw, dict[str, str] | None, tuple[int, ...]]
)
"""A `Call` for the encoder, to which a tuple is the same and costs less to make."""
EncodedResult: TypeAlias = tuple[int, msgspec.Raw] | tuple[int, msgspec.Raw, tuple[int, ...]]
"""The same for a `Result`."""

_HEAD = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Requests)
_responses = msgspec.msgpack.Decoder(Responses)

M = TypeVar("M", Requests, Responses)


class Buffers:
    """What follows the arrays of a message, to be taken in their order."""

    __slots__ = ("_rest", "_size")

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest
        self._size = len(rest)

    def take(self, sizes: Sequence[int]) -> list[Buffer]:
        """The buffers of the next value that has some; raises `RemoteProtocolError`.

        They are copied if they are less than half of all: an array that is kept must not keep everybody's.
        """
        total, at = sum(sizes), 0
        if total > len(self._rest):
            raise RemoteProtocolError("a batch that ends within a buffer")
        value, self._rest = self._rest[:total], self._rest[total:]
        if 2 * total < self._size:
            value = memoryview(bytes(value))
        taken: list[Buffer] = []
        for size in sizes:
            taken.append(value[at : at + size])
            at += size
        return taken

    def check_end(self) -> None:
        """See that all were taken; raises `RemoteProtocolError`."""
        if len(self._rest):
            raise RemoteProtocolError(f"a batch with {len(self._rest)} bytes that belong to nothing")


def sizes_of(buffers: Sequence[Buffer]) -> tuple[int, ...]:
    """Bytes of each."""
    return tuple([len(buffer) for buffer in buffers])


def encode_requests(
    calls: Sequence[EncodedCall], cancelled: list[int], received: list[int], buffers: Iterable[Buffer] = ()
) -> bytes:
    """A caller's message."""
    return _joined(_encoder.encode((calls, cancelled, received)), buffers)


def encode_responses(
    results: Sequence[EncodedResult],
    failures: list[Failure],
    large: list[int],
    load: int,
    buffers: Iterable[Buffer] = (),
) -> bytes:
    """A server's message."""
    return _joined(_encoder.encode((results, failures, large, load)), buffers)


def _joined(arrays: bytes, buffers: Iterable[Buffer]) -> bytes:
    return b"".join((_HEAD.pack(len(arrays)), arrays, *buffers))


def decode_requests(message: bytes, limit: int = SMALL.max_message) -> tuple[Requests, Buffers]:
    """A caller's message; `RemoteProtocolError` if it is malformed, or longer than ``limit``."""
    return _decode(_requests, message, limit)


def decode_responses(message: bytes, limit: int = SMALL.max_message) -> tuple[Responses, Buffers]:
    """A server's message; errors as above."""
    return _decode(_responses, message, limit)


def _decode(decoder: msgspec.msgpack.Decoder[M], message: bytes, limit: int) -> tuple[M, Buffers]:
    if len(message) > limit:
        raise RemoteProtocolError(f"batch of {len(message)} bytes, {limit} allowed")
    if len(message) < _HEAD.size:
        raise RemoteProtocolError("a truncated batch")
    rest = memoryview(message)[_HEAD.size :]
    length: int = _HEAD.unpack_from(message)[0]
    if length > len(rest):
        raise RemoteProtocolError("a truncated batch")
    try:
        return decoder.decode(rest[:length]), Buffers(rest[length:])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed batch of calls: {error}") from error
